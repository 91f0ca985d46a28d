"""The version guard: which intent wins over which, and what a caller may be told.

One rule, `overwrites`, decides everything; Qdrant evaluates the same rule as an
`update_filter`, atomically with the write. After the write the stored state is read
back and `judge` says what became of each intent. Nothing is inferred from the write
alone, so an acknowledgement is true also when another replica wrote in between.
"""

from collections.abc import Sequence
from enum import StrEnum

from services.indexer.domain.fact import FactId, Intent, Operation, PointState


class Verdict(StrEnum):
    APPLIED = "applied"
    SUPERSEDED = "superseded"
    COLLISION = "collision"
    NOT_WRITTEN = "not_written"


def overwrites(version: int, stored: PointState | None) -> bool:
    """Whether an intent of this version may replace what is stored."""
    return stored is None or stored.version < version


def judge(intent: Intent, stored: PointState | None) -> Verdict:
    """What became of the intent, given the state that was read after the write."""
    if overwrites(intent.version, stored) or stored is None:
        return Verdict.NOT_WRITTEN
    if stored.version > intent.version:
        return Verdict.SUPERSEDED
    return Verdict.APPLIED if _says_the_same(intent, stored) else Verdict.COLLISION


def winners(intents: Sequence[Intent]) -> list[Intent]:
    """The newest intent of each fact; among equal versions the first. The others need no write."""
    newest: dict[FactId, Intent] = {}
    for intent in intents:
        held = newest.get(intent.fact_id)
        if held is None or held.version < intent.version:
            newest[intent.fact_id] = intent
    return list(newest.values())


def _says_the_same(intent: Intent, stored: PointState) -> bool:
    if intent.operation is Operation.DELETE:
        return stored.tombstone
    return not stored.tombstone and stored.content_hash == intent.content_hash
