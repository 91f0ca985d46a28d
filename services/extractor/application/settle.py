"""Applies what the indexer says became of facts: one transaction per batch of acknowledgements."""

import random
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

import structlog

from services.extractor.application.bury import bury
from services.extractor.application.ports import UnitOfWork
from services.extractor.domain.outbox import (
    Acknowledgement,
    FactIntent,
    IndexedFact,
    KeptVector,
    Operation,
    Outcome,
    Postponed,
    Rejection,
    Topic,
    Witness,
    statement_hash,
)
from services.extractor.domain.recovery import is_away
from services.shared.errors import Reason
from services.shared.retry import Backoff, RetryPolicy

logger = structlog.stdlib.get_logger(__name__)

_RETRY = Backoff(initial=timedelta(milliseconds=500), maximum=timedelta(minutes=1))

# What a version that the index knows with another content is rejected for.
_COLLISION = Reason.RESOURCE_EXISTS


class SettleFacts:
    """`owner` names this process among those who have seen acknowledgements."""

    def __init__(self, *, unit_of_work: UnitOfWork, owner: str, rng: random.Random) -> None:
        self._unit_of_work = unit_of_work
        self._owner = owner
        self._rng = rng
        self._patience = RetryPolicy(attempts=5, rng=rng)

    async def __call__(self, acknowledgements: Sequence[Acknowledgement], sent: Mapping[UUID, FactIntent]) -> bool:
        """Returns whether a newer intent of some fact may go now. `sent` holds the intent of each acknowledgement.

        Applying the same acknowledgements again changes nothing.
        """
        return await self._patience.run(lambda: self._settle(acknowledgements, sent))

    async def _settle(self, acknowledgements: Sequence[Acknowledgement], sent: Mapping[UUID, FactIntent]) -> bool:
        by_outcome: dict[Outcome, list[Acknowledgement]] = {outcome: [] for outcome in Outcome}
        unfit = [each.fact_id for each in acknowledgements if _unfit(each, sent[each.fact_id])]
        for each in acknowledgements:
            by_outcome[_judged(each, sent[each.fact_id])].append(each)
        applied = [_indexed(each, sent[each.fact_id]) for each in by_outcome[Outcome.APPLIED]]
        postponed = [self._postponed(each, sent[each.fact_id]) for each in by_outcome[Outcome.RETRY]]
        rejected = [_rejection(each, sent[each.fact_id]) for each in by_outcome[Outcome.REJECTED]]
        ahead = [sent[each.fact_id].intent for each in by_outcome[Outcome.SUPERSEDED]]
        async with self._unit_of_work() as repositories:
            recorded = await repositories.facts.update_embedding_ids_batch(applied)
            if applied:
                last = Witness(fact_id=applied[-1].fact_id, version=applied[-1].version)
                await repositories.witnesses.note(last, owner=self._owner)
            if unfit:
                await repositories.facts.forget_vectors(unfit)
            if postponed:
                await repositories.outbox.postpone(Topic.FACT, postponed)
            if rejected:
                await bury(repositories, Topic.FACT, rejected)
            reissued = await repositories.outbox.reissue(ahead) if ahead else []
        for each in rejected:
            logger.warning("intent_rejected", fact_id=str(each.key), reason=each.reason.name, message=each.message)
        if reissued:
            logger.warning("index_was_ahead", fact_count=len(reissued))
        return len(recorded) < len(applied) or bool(ahead)

    def _postponed(self, acknowledgement: Acknowledgement, sent: FactIntent) -> Postponed:
        asked = acknowledgement.failure.retry_delay if acknowledgement.failure else None
        delay = _RETRY.delay(sent.intent.attempts, rng=self._rng)
        return Postponed(
            key=sent.intent.key,
            version=sent.intent.version,
            lease_token=sent.intent.lease_token,
            delay=max(delay, asked or timedelta()),
            away=is_away(acknowledgement),
        )


def _unfit(acknowledgement: Acknowledgement, sent: FactIntent) -> bool:
    """Whether a vector that was kept is not what the index needs, so that a new one must be made."""
    failure = acknowledgement.failure
    return bool(sent.vectors) and failure is not None and failure.reason is Reason.VECTOR_INVALID


def _judged(acknowledgement: Acknowledgement, sent: FactIntent) -> Outcome:
    """A collision means the same as an index that is ahead: the version was issued before."""
    failure = acknowledgement.failure
    if _unfit(acknowledgement, sent):
        return Outcome.RETRY
    if acknowledgement.outcome is Outcome.REJECTED and failure is not None and failure.reason is _COLLISION:
        return Outcome.SUPERSEDED
    return acknowledgement.outcome


def _indexed(acknowledgement: Acknowledgement, sent: FactIntent) -> IndexedFact:
    live = sent.intent.operation is Operation.UPSERT
    return IndexedFact(
        fact_id=acknowledgement.fact_id,
        version=acknowledgement.version,
        embedding_id=acknowledgement.embedding_id if live else None,
        epoch=acknowledgement.epoch if live else None,
        lease_token=sent.intent.lease_token,
        vectors=_kept(acknowledgement, sent),
    )


def _kept(acknowledgement: Acknowledgement, sent: FactIntent) -> tuple[KeptVector, ...]:
    if not acknowledgement.vectors or sent.content is None:
        return ()
    hashed = statement_hash(sent.content.statement)
    return tuple(
        KeptVector(fact_id=acknowledgement.fact_id, model=model, statement_hash=hashed, values=values)
        for model, values in acknowledgement.vectors.items()
    )


def _rejection(acknowledgement: Acknowledgement, sent: FactIntent) -> Rejection:
    failure = acknowledgement.failure
    content = sent.content
    return Rejection(
        key=sent.intent.key,
        version=sent.intent.version,
        lease_token=sent.intent.lease_token,
        reason=failure.reason if failure else Reason.UNSPECIFIED,
        message=failure.message if failure else "the indexer gave no reason",
        context={
            "operation": sent.intent.operation.name,
            "version": sent.intent.version,
            "attempts": sent.intent.attempts,
            "traceparent": sent.intent.traceparent,
            "content_hash": sent.content_hash.hex(),
            "metadata": failure.metadata if failure else {},
            "content": content,
        },
    )
