"""Chunks as units of work, and how their results are kept.

A result is stored relative to its chunk, so that a chunk whose text stands elsewhere in
a later version of its source brings its facts along without a model call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any
from uuid import UUID

from services.extractor.domain.grounding import GroundedChunk, GroundedEntity, GroundedItem, GroundedValue
from services.shared.errors import Reason


class ChunkState(IntEnum):
    """Stored by number."""

    PENDING = 1
    DONE = 2
    EMPTY = 3
    FAILED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRow:
    """A chunk and what became of it. `result` is set when it is DONE or EMPTY."""

    index: int
    start: int
    end: int
    content_hash: bytes
    fingerprint: str = ""
    state: ChunkState = ChunkState.PENDING
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    item_count: int = 0
    attempts: int = 0
    reason: Reason = Reason.UNSPECIFIED
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkOutcome:
    """What to write down about one chunk after an attempt."""

    index: int
    state: ChunkState
    result: Mapping[str, Any] | None = field(default=None, repr=False)
    item_count: int = 0
    ungrounded_count: int = 0
    attempts: int = 0
    reason: Reason = Reason.UNSPECIFIED
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTask:
    """A chunk to send to the model: the text alone, and the id that makes the call payable once."""

    chunk: ChunkRow
    call_id: UUID
    text: str = field(repr=False)


def extracted(index: int, grounded: GroundedChunk, *, start: int, model: str, attempts: int) -> ChunkOutcome:
    """The outcome of a chunk that the model has answered for; `start` is where the chunk stands."""
    return ChunkOutcome(
        index=index,
        state=ChunkState.DONE if grounded.items else ChunkState.EMPTY,
        result=encode(grounded, start=start, model=model),
        item_count=len(grounded.items),
        ungrounded_count=grounded.ungrounded_count,
        attempts=attempts,
    )


def encode(grounded: GroundedChunk, *, start: int, model: str) -> dict[str, Any]:
    """JSON of a result, with offsets relative to the chunk's start."""

    def relative(offset: int | None) -> int | None:
        return None if offset is None else offset - start

    return {
        "model": model,
        "ungrounded": grounded.ungrounded_count,
        "items": [
            {
                "group": item.group,
                "key": item.item_key,
                "statement": item.statement,
                "category": item.category,
                "values": [[v.name, v.value, relative(v.start), relative(v.end)] for v in item.values],
                "span": [item.start - start, item.end - start],
                "confidence": item.confidence,
            }
            for item in grounded.items
        ],
        "entities": [
            {
                "group": entity.group,
                "name": entity.name,
                "type": entity.type,
                "mentions": [[first - start, last - start] for first, last in entity.mentions],
            }
            for entity in grounded.entities
        ],
    }


def decode(result: Mapping[str, Any], *, start: int) -> GroundedChunk:
    """The result of a chunk that stands at `start`, with absolute offsets."""
    return GroundedChunk(
        items=tuple(_item(raw, start) for raw in result["items"]),
        entities=tuple(
            GroundedEntity(
                group=raw["group"],
                name=raw["name"],
                type=raw["type"],
                mentions=tuple((first + start, last + start) for first, last in raw["mentions"]),
            )
            for raw in result["entities"]
        ),
        ungrounded_count=result["ungrounded"],
    )


def _item(raw: Mapping[str, Any], start: int) -> GroundedItem:
    first, last = raw["span"]
    return GroundedItem(
        group=raw["group"],
        item_key=raw["key"],
        statement=raw["statement"],
        category=raw["category"],
        values=tuple(_values(raw["values"], start)),
        start=first + start,
        end=last + start,
        confidence=raw["confidence"],
    )


def _values(raw: Iterable[tuple[str, str, int | None, int | None]], start: int) -> Iterable[GroundedValue]:
    for name, value, first, last in raw:
        yield GroundedValue(
            name=name,
            value=value,
            start=None if first is None else first + start,
            end=None if last is None else last + start,
        )
