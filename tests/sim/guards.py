"""The guards of the protocol, and how each is taken out.

A guard that is a clause of a statement or of a filter is asked for by the model (`World.on`), which mirrors
that statement; one that is code of the suite is replaced in the module that uses it. Without any one of
them some round must break an invariant: that shows both that the guard is needed and that the
simulation would notice.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any
from unittest.mock import patch

from services.extractor.application import fact_relay, reconcile, settle
from services.extractor.domain import outbox
from services.indexer.application import apply_intents, switch_epochs
from services.indexer.application import backfill as filling
from services.indexer.domain import versions
from services.indexer.domain.fact import Intent, PointState
from services.indexer.domain.outcome import Ack, Outcome
from services.indexer.domain.versions import Verdict
from services.shared.errors import ServiceError
from tests.sim.rounds import ANYTHING, rounds
from tests.sim.world import Faults, Focus

MODELLED = {
    "write.update_filter": "an upsert replaces only a lower stored version (points.py, `_fill_group`)",
    "write.lowest_version_bounds_the_batch": "one filter for a batch: its lowest version (points.py, `_fill_group`)",
    "delete.tombstone": "a deletion leaves a versioned tombstone (apply_intents.py, `_point`)",
    "collect.retention": "a tombstone outlives the longest redelivery (collect_tombstones.py)",
    "collect.condition": "a collection repeats its condition with the ids (points.py, `collect_tombstones`)",
    "epochs.compare_and_swap": "the catalogue is replaced only over its own revision (epoch_store.py, `replace`)",
    "epochs.names_are_unique": "a collection's name never comes again (bootstrap.py, `_naming`)",
    "apply.looks_again": "an epoch created meanwhile is written before the acknowledgement (apply_intents.py)",
    "promote.settled": "an epoch is promoted only when every replica knows it (switch_epochs.py)",
    "search.by_collection": "a search names a collection, not the alias (searches.py)",
    "publish.one_transaction": "facts and intents are one commit (facts.py, `_REPLACE`)",
    "publish.source_lock": "versions are drawn under the lock of the source (publish.py, `claim_publish`)",
    "edit.clears_embedding": "a changed fact loses its embedding id (facts.py, `_REPLACE`)",
    "supersede.keeps_lease": "a newer intent waits for the one under way (facts.py, `_INTENTS`)",
    "lease.content_version": "content goes out only with the version it belongs to (outbox.py, `_LEASE_FACTS`)",
    "lease.token": "only the holder gives a lease back (outbox.py, `_ANSWERED`, `_FREE`)",
    "ack.fact_version": "an embedding id is recorded for the version acknowledged (facts.py, `_ACKNOWLEDGE`)",
    "edit.draws_under_lock": "a changed fact draws its version under its lock (facts.py, `_REPLACE`)",
    "ack.lease": "an acknowledgement counts under its own lease (facts.py, `_ACKNOWLEDGE`)",
    "ack.outbox_version": "an intent leaves the outbox at its version only (facts.py, `_ACKNOWLEDGE`)",
    "bury.version": "only the version rejected becomes a dead letter (outbox.py, `_BURY`)",
    "token.watermark": "a marker is sent for what nothing waits for any more (markers.py, `_RELEASE`)",
    "token.since": "a fact waits from its first version on that is not acknowledged (facts.py, `_INTENTS`)",
    "reconcile.pending": "facts with an intent under way are not judged (reconciliations.py, `_PENDING`)",
    "repair.version": "a repair holds for the version compared (reconciliations.py, `_REVISE`)",
    "repair.ghost_is_absent": "a ghost is removed only while there is no fact (reconciliations.py, `_BANISH`)",
    "restore.timeline": "a restored database is noticed (reconciliations.py, `_NOTICE_TIMELINE`)",
    "compare.settles": "a doubt ends when nothing from before it arrives any more (doubts.py, `SETTLED_TIME`)",
}


def _trusted(intent: Intent, stored: PointState | None) -> Verdict:
    """A write that was answered is a write that holds."""
    return Verdict.APPLIED


def _hopeful(intent: Intent, error: ServiceError) -> Ack:
    """A write whose outcome is not known will have arrived."""
    return Ack(intent=intent, outcome=Outcome.APPLIED)


def _unless_retry(acknowledgement: outbox.Acknowledgement) -> outbox.Outcome:
    outcome = settle_judged(acknowledgement)
    return outbox.Outcome.APPLIED if outcome is outbox.Outcome.RETRY else outcome


def _unless_superseded(acknowledgement: outbox.Acknowledgement) -> outbox.Outcome:
    outcome = settle_judged(acknowledgement)
    return outbox.Outcome.APPLIED if outcome is outbox.Outcome.SUPERSEDED else outcome


settle_judged = settle._judged


def _every_intent(intents: Sequence[Intent]) -> list[Intent]:
    return list(intents)


def _any_content(intent: Intent, stored: PointState) -> bool:
    return True


def _whatever(one: object, other: object) -> bool:
    return True


def _nothing_moves(before: object, after: object) -> frozenset[Any]:
    return frozenset()


async def _no_difference(self: object, epoch: object) -> list[int]:
    return []


async def _without_tombstones(self: Any, source: Any, target: Any, points: Sequence[Any]) -> int:
    return await whole_copy(self, source, target, [point for point in points if not point.tombstone])


whole_copy = filling.Backfill._copy

REPLACED: Mapping[str, tuple[str, Any, str, Any]] = {
    "apply.read_back": ("verdicts come from a read after the write", apply_intents, "judge", _trusted),
    "apply.unknown_is_retry": ("a write in doubt is never acknowledged", apply_intents, "retry", _hopeful),
    "apply.newest_of_a_batch": ("of a fact only the newest intent is written", apply_intents, "winners", _every_intent),
    "judge.collision": ("a version held with another content is refused", versions, "_says_the_same", _any_content),
    "flight.one_statement": ("of a version only one statement is in flight", fact_relay, "_same", _whatever),
    "settle.retry": ("an intent to be sent again stays", settle, "_judged", _unless_retry),
    "settle.superseded": ("an index that is ahead gets a new version", settle, "_judged", _unless_superseded),
    "reconcile.second_look": ("facts that move are not judged", reconcile, "moving", _nothing_moves),
    "promote.digest": (
        "an epoch that differs is not promoted",
        switch_epochs.SwitchEpochs,
        "_differing",
        _no_difference,
    ),
    "backfill.tombstones": ("tombstones are brought over too", filling.Backfill, "_copy", _without_tombstones),
}

GUARDS = (*MODELLED, *REPLACED)

RARE = (
    "apply.looks_again",
    "apply.newest_of_a_batch",
    "backfill.tombstones",
    "bury.version",
    "collect.condition",
    "epochs.names_are_unique",
    "flight.one_statement",
    "judge.collision",
    "lease.token",
    "promote.digest",
    "promote.settled",
    "repair.ghost_is_absent",
)
"""Guards that take more than a few seconds to miss; the short form leaves them to the long one."""

_WHOLE_STORES = {"restore_qdrant": 0.0, "restore_postgres": 0.0, "damage": 0.0}
_RESTORED = Focus(
    faults={**_WHOLE_STORES, "restore_postgres": 0.5, "poison": 0.0},
    shape={"sources": 1, "keys": 2, "publish_seconds": 0.15, "period_seconds": 3600.0, "operator_seconds": 600.0},
)
_REISSUED = Focus(
    faults={**_WHOLE_STORES, "restore_postgres": 0.5, "poison": 0.0, "freeze": 0.0, "crash": 0.0},
    shape={
        "sources": 2,
        "keys": 3,
        "publish_seconds": 0.05,
        "statement_seconds": 0.03,
        "birth": 0.7,
        "period_seconds": 3600.0,
        "operator_seconds": 600.0,
    },
)
_NO_FAULTS = {each.name: 0.0 for each in fields(Faults)}
_ISSUED_TWICE = Focus(
    faults={**_NO_FAULTS, "restore_postgres": 1.0},
    shape={
        "sources": 1,
        "keys": 1,
        "publish_seconds": 0.3,
        "birth": 0.7,
        "embed_seconds": 0.6,
        "period_seconds": 3600.0,
        "look_seconds": 10.0,
        "operator_seconds": 600.0,
    },
)
_DAMAGED = Focus(
    faults={**_NO_FAULTS, "damage": 1.0},
    shape={
        "sources": 2,
        "keys": 6,
        "publish_seconds": 0.6,
        "period_seconds": 1.0,
        "look_seconds": 0.5,
        "birth": 0.3,
        "statement_seconds": 0.2,
        "operator_seconds": 600.0,
        "tokens": 0.0,
    },
)
_EPOCHS = Focus(
    faults={**_WHOLE_STORES, "freeze": 0.9, "duplicate_frame": 0.1, "reordered_frame": 0.2},
    shape={"operator_seconds": 1.0, "publish_seconds": 0.6, "tokens": 0.0},
)

FOCUS = {
    "publish.source_lock": Focus(
        faults=_WHOLE_STORES,
        shape={"sources": 1, "keys": 4, "publish_seconds": 0.15, "statement_seconds": 0.02, "birth": 0.7},
    ),
    "edit.draws_under_lock": _REISSUED,
    "token.since": Focus(shape={"tokens": 0.9, "publish_seconds": 0.15}),
    "ack.lease": _ISSUED_TWICE,
    "flight.one_statement": replace(
        _ISSUED_TWICE, shape={**_ISSUED_TWICE.shape, "publish_seconds": 1.0, "birth": 0.9, "embed_seconds": 3.0}
    ),
    "restore.timeline": _RESTORED,
    "compare.settles": replace(
        _RESTORED,
        faults={**_NO_FAULTS, "restore_postgres": 1.0, "late_write": 0.5},
        shape={**_RESTORED.shape, "look_seconds": 1.0, "tokens": 0.0},
        steps=1000,
    ),
    "judge.collision": replace(_RESTORED, shape={**_RESTORED.shape, "keys": 1, "look_seconds": 10.0, "birth": 0.7}),
    "settle.superseded": _RESTORED,
    "repair.version": _DAMAGED,
    "repair.ghost_is_absent": _DAMAGED,
    "reconcile.second_look": Focus(
        faults=_NO_FAULTS,
        shape={
            "sources": 2,
            "keys": 6,
            "publish_seconds": 0.15,
            "period_seconds": 2.0,
            "look_seconds": 1.0,
            "scan_seconds": 0.1,
            "operator_seconds": 600.0,
        },
    ),
    "apply.looks_again": Focus(
        faults={**_NO_FAULTS, "slow": 0.4},
        shape={
            "sources": 1,
            "keys": 1,
            "publish_seconds": 2.5,
            "birth": 0.7,
            "embed_seconds": 0.5,
            "send_vectors": False,
            "operator_seconds": 0.2,
            "period_seconds": 3600.0,
            "look_seconds": 600.0,
            "tokens": 0.0,
        },
    ),
    "promote.settled": _EPOCHS,
    "promote.digest": _EPOCHS,
    "backfill.tombstones": _EPOCHS,
    "collect.condition": Focus(
        faults={**_NO_FAULTS, "late_write": 0.5},
        shape={
            "sources": 6,
            "keys": 3,
            "publish_seconds": 1.5,
            "birth": 0.05,
            "period_seconds": 3600.0,
            "tokens": 0.0,
        },
        steps=30_000,
    ),
}
"""Circumstances for guards that rarely matter otherwise."""


@contextmanager
def without(guard: str) -> Iterator[None]:
    """Code of the suite as it would be without the guard. A modelled one is left to the world."""
    if guard not in REPLACED:
        yield
        return
    _, owner, name, instead = REPLACED[guard]
    with patch.object(owner, name, instead):
        yield


def catch(guard: str, *, seed: int, steps: int) -> tuple[int, str]:
    """Runs without the guard until an invariant breaks: after how many steps, and which one."""
    done = 0
    with without(guard):
        for result in rounds(seed=seed, steps=steps, removed=guard, focus=FOCUS.get(guard, ANYTHING)):
            done += result.steps
            if result.violation:
                return done, result.violation
    return done, ""
