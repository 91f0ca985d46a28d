"""Content-defined chunking: where a text is cut depends only on the text around the cut.

The text is seen as units (headings, paragraphs, and sentences of long paragraphs), each
boundary between two units gets a weight from what follows it, and a boundary becomes a
cut when it is the lightest one within half a target's length on either side. Headings
weigh less than paragraphs and these less than sentences, so cuts fall where a reader
would make them; among equals a hash decides. An edit can move cuts only within that
window: the chunks before and after it keep their content, and their hash.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

_HEADING: Final = re.compile(r"(#{1,6})[ \t]+(\S.*)")
_PARAGRAPH_END: Final = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE_END: Final = re.compile(
    r"(?P<latin>(?<=[.!?…])[\"'”’)\]]*\s+)|(?P<cjk>(?<=[。！？；])[”’」』）]*\s*)|(?P<line>\n+)",
)
_HASHED_CHARS: Final = 64
# Emoji sequences and letters with combining marks must not be torn apart.
_JOINERS: Final = re.compile("[\u0300-\u036f\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff]")

_WEIGHT_HEADING, _WEIGHT_PARAGRAPH, _WEIGHT_SENTENCE, _WEIGHT_LINE, _WEIGHT_FORCED = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A stretch of the stored text that one model call sees; `[start, end)` in code points.

    `content_hash` is the SHA-256 of exactly that stretch. Chunks neither overlap nor
    begin or end with white space; what lies between them is white space only.
    """

    index: int
    start: int
    end: int
    heading_path: tuple[str, ...]
    content_hash: bytes


class _Boundary(NamedTuple):
    """A place to cut, before the unit that starts at `position`."""

    position: int
    weight: tuple[int, bytes]


def split(text: str, *, target_chars: int = 2000, max_chars: int = 4000) -> list[Chunk]:
    """Chunks of about `target_chars`, none longer than `max_chars`; empty for blank text."""
    boundaries = list(_boundaries(text, max_unit=target_chars // 2))
    cuts = _lightest(boundaries, window=target_chars // 2)
    chunks: list[Chunk] = []
    headings = _Headings(text)
    for begin, finish in _segments(cuts, boundaries, length=len(text), max_chars=max_chars):
        start, end = _strip(text, begin, finish)
        if start < end:
            digest = hashlib.sha256(text[start:end].encode()).digest()
            path = headings.path_at(start)
            chunks.append(Chunk(index=len(chunks), start=start, end=end, heading_path=path, content_hash=digest))
    return chunks


def _boundaries(text: str, *, max_unit: int) -> Iterator[_Boundary]:
    begin = 0
    ends = [match.end() for match in _PARAGRAPH_END.finditer(text)]
    for finish in [*ends, len(text)]:
        if begin >= finish:
            continue
        weight = _WEIGHT_HEADING if _HEADING.match(text, begin) else _WEIGHT_PARAGRAPH
        yield _Boundary(begin, (weight, _hash(text, begin)))
        if finish - begin > max_unit:
            yield from _inner_boundaries(text, begin, finish, max_unit)
        begin = finish


def _inner_boundaries(text: str, begin: int, finish: int, max_unit: int) -> Iterator[_Boundary]:
    previous = begin
    for match in _SENTENCE_END.finditer(text, begin, finish):
        position = match.end()
        if not previous < position < finish:
            continue
        yield from _forced_boundaries(text, previous, position, max_unit)
        yield _Boundary(position, (_inner_weight(text, match), _hash(text, position)))
        previous = position
    yield from _forced_boundaries(text, previous, finish, max_unit)


def _inner_weight(text: str, match: re.Match[str]) -> int:
    if _HEADING.match(text, match.end()):
        return _WEIGHT_HEADING
    return _WEIGHT_LINE if match.lastgroup == "line" else _WEIGHT_SENTENCE


def _forced_boundaries(text: str, begin: int, finish: int, max_unit: int) -> Iterator[_Boundary]:
    """Cuts for a stretch without sentence ends: at white space where there is some, never inside a grapheme."""
    while finish - begin > max_unit:
        space = max(text.rfind(" ", begin + max_unit // 2, begin + max_unit), text.rfind("\t", begin, begin + max_unit))
        position = space + 1 if space > begin else begin + max_unit
        while position < finish and (_JOINERS.match(text, position) or text[position - 1] == "\u200d"):
            position += 1
        if position >= finish:
            return
        yield _Boundary(position, (_WEIGHT_FORCED, _hash(text, position)))
        begin = position


def _hash(text: str, position: int) -> bytes:
    return hashlib.blake2b(text[position : position + _HASHED_CHARS].encode(), digest_size=8).digest()


def _lightest(boundaries: list[_Boundary], *, window: int) -> list[_Boundary]:
    """Boundaries that are lighter than every other one less than `window` away; the earlier wins a tie."""
    return [
        boundary
        for index, boundary in enumerate(boundaries)
        if all(other.weight >= boundary.weight for other in _after(boundaries, index, window))
        and all(other.weight > boundary.weight for other in _before(boundaries, index, window))
    ]


def _after(boundaries: list[_Boundary], index: int, window: int) -> Iterator[_Boundary]:
    limit = boundaries[index].position + window
    for following in range(index + 1, len(boundaries)):
        if boundaries[following].position >= limit:
            return
        yield boundaries[following]


def _before(boundaries: list[_Boundary], index: int, window: int) -> Iterator[_Boundary]:
    limit = boundaries[index].position - window
    for preceding in range(index - 1, -1, -1):
        if boundaries[preceding].position <= limit:
            return
        yield boundaries[preceding]


def _segments(
    cuts: list[_Boundary], boundaries: list[_Boundary], *, length: int, max_chars: int
) -> Iterator[tuple[int, int]]:
    starts = sorted({0, *(cut.position for cut in cuts)})
    cursor = 0
    for begin, finish in zip(starts, [*starts[1:], length], strict=True):
        while cursor < len(boundaries) and boundaries[cursor].position <= begin:
            cursor += 1
        inner: list[_Boundary] = []
        while cursor < len(boundaries) and boundaries[cursor].position < finish:
            inner.append(boundaries[cursor])
            cursor += 1
        yield from _halved(begin, finish, inner, max_chars=max_chars)


def _halved(begin: int, finish: int, inner: list[_Boundary], *, max_chars: int) -> Iterator[tuple[int, int]]:
    """Cuts an overlong segment at its lightest boundary that leaves a quarter on either side, until all fit."""
    if finish - begin <= max_chars or not inner:
        yield begin, finish
        return
    margin = (finish - begin) // 4
    middle = [item for item in inner if begin + margin <= item.position <= finish - margin] or inner
    cut = min(middle, key=lambda item: item.weight)
    yield from _halved(begin, cut.position, [i for i in inner if i.position < cut.position], max_chars=max_chars)
    yield from _halved(cut.position, finish, [i for i in inner if i.position > cut.position], max_chars=max_chars)


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    stretch = text[start:end]
    return start + len(stretch) - len(stretch.lstrip()), end - (len(stretch) - len(stretch.rstrip()))


class _Headings:
    """Which headings stand above a position; asked in ascending order."""

    def __init__(self, text: str) -> None:
        self._pending = re.finditer(rf"^{_HEADING.pattern}$", text, re.MULTILINE)
        self._next = next(self._pending, None)
        self._path: dict[int, str] = {}

    def path_at(self, position: int) -> tuple[str, ...]:
        while self._next is not None and self._next.start() <= position:
            level = len(self._next.group(1))
            self._path = {depth: title for depth, title in self._path.items() if depth < level}
            self._path[level] = self._next.group(2).strip().rstrip("#").rstrip()
            self._next = next(self._pending, None)
        return tuple(self._path[level] for level in sorted(self._path))
