"""Coverage: what became of every code point of a source's text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import IntEnum
from typing import Final

from services.extractor.domain.chunk import ChunkRow, ChunkState
from services.shared.errors import Reason

OUTSIDE: Final = -1


class CoverageState(IntEnum):
    """Numbers of `scristill.extractor.v1.CoverageState`."""

    EXTRACTED = 1
    EMPTY = 2
    FAILED = 3
    SKIPPED = 4
    PENDING = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CoverageRange:
    """`[start, end)` in code points. `chunk_index` is `OUTSIDE` for text between chunks."""

    start: int
    end: int
    state: CoverageState
    chunk_index: int = OUTSIDE
    extraction_count: int = 0
    reason: Reason = Reason.UNSPECIFIED
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    source_version: int
    text_length: int
    ranges: tuple[CoverageRange, ...]
    duration: timedelta | None

    @property
    def covered_share(self) -> float:
        """Of the code points, 1 for a text without any."""
        covered = (CoverageState.EXTRACTED, CoverageState.EMPTY)
        count = sum(each.end - each.start for each in self.ranges if each.state in covered)
        return count / self.text_length if self.text_length else 1.0


_STATES: Final = {
    ChunkState.PENDING: CoverageState.PENDING,
    ChunkState.DONE: CoverageState.EXTRACTED,
    ChunkState.EMPTY: CoverageState.EMPTY,
    ChunkState.FAILED: CoverageState.FAILED,
}


def ranges(chunks: Sequence[ChunkRow], *, text_length: int) -> Iterable[CoverageRange]:
    """Ranges over the whole text, in order, without gaps or overlaps; `chunks` are in order.

    A text that has no chunks yet is pending as a whole.
    """
    if not chunks and text_length:
        yield CoverageRange(start=0, end=text_length, state=CoverageState.PENDING)
        return
    position = 0
    for chunk in chunks:
        yield from _between(position, chunk.start)
        yield CoverageRange(
            start=chunk.start,
            end=chunk.end,
            state=_STATES[chunk.state],
            chunk_index=chunk.index,
            extraction_count=chunk.item_count,
            reason=chunk.reason,
            message=chunk.message,
        )
        position = chunk.end
    yield from _between(position, text_length)


def _between(start: int, end: int) -> Iterable[CoverageRange]:
    if start < end:
        yield CoverageRange(start=start, end=end, state=CoverageState.SKIPPED, message="white space between chunks")
