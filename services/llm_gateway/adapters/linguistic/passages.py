"""Cuts a document into passages of prose and maps each of their characters back to the document.

A passage is one paragraph or list item without its Markdown: markup is left out,
white space is collapsed, and `origin` says where every remaining character stands in
the document. Headings, tables, code, rules and page furniture yield no passage.
"""

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

_FENCE = re.compile(r"\s*(```|~~~)")
_HEADING = re.compile(r"\s{0,3}#{1,6}(\s|$)")
_UNDERLINE = re.compile(r"\s*(=+|-+|~+|\*+|_+|\.+)\s*$")
_TABLE_ROW = re.compile(r"\s*\|.*\||[^|]*\|[^|]*\|")
_LIST_ITEM = re.compile(r"\s*(?:[-*+•–]|\(?\d{1,3}[.)]|\(?[a-z][.)])\s+(?=\S)")
_QUOTE_MARK = re.compile(r"\s*(?:>\s?)+")
_CODE_LINE = re.compile(
    r"\s*(?:(?:def|class)\s\w+.*:|(?:if|elif|for|while|with|except)\b.*[()\[\]=_].*:|(?:try|else|finally):"
    r"|from\s\S+\simport\b.*|import\s[\w.]+(?:\sas\s\w+)?|return\b.*[)\]}]|raise\s\w+\(.*|@\w.*"
    r"|[\w.\[\]'\"]+\s[-+*/|&]?=\s\S.*|.*[;{}])\s*$"
)
_FIELD = re.compile(r"\s*[A-Za-z][\w-]{0,30}(?: [\w-]{1,20})?\s*[:=]\s*\S{0,60}\s*$")
_FURNITURE = re.compile(
    r"all rights reserved|^\s*(?:copyright\b|©|\(c\)\s)|\bcookies?\b.{0,40}\b(?:accept|policy|consent)|"
    r"\b(?:subscribe|sign up|log in|click here|read more|share (?:this|on)|follow us|skip to)\b|"
    r"^\s*(?:page \d+|table of contents|contents|navigation|menu)\b",
    re.IGNORECASE,
)
_MARKUP = re.compile(
    r"!\[[^\]]*\]\([^)]*\)"  # images
    r"|\]\([^)\s]*(?:\s+\"[^\"]*\")?\)"  # the tail of a link
    r"|(?<!\w)\[(?=[^\]]{1,200}\]\()"  # the head of a link
    r"|\[\^?\d{1,3}\]"  # footnotes
    r"|</?[A-Za-z][^<>]{0,200}>"  # tags
    r"|<!--.*?-->"
    r"|\*{1,3}(?=\S)|(?<=\S)\*{1,3}"
    r"|(?<!\w)_{1,2}(?=\S)|(?<=\S)_{1,2}(?!\w)"
    r"|`+",
    re.DOTALL,
)
_SENTENCE_BREAK = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-ZÀ-Þ0-9])")
_SENTENCE_END = re.compile(r"[.!?…。！？：:;；][\"'”’»」』）)\]]*$")

# Marks that belong to the character before them.
_EXTENDING = frozenset({"Mn", "Mc", "Me"})
_FIRST_EMOJI = 0x2600
_EMOJI_JOINERS = frozenset("\u200d\ufe0e\ufe0f\u20e3")

# Longer passages cost the parser memory in proportion.
_MAX_PASSAGE = 1200
_MIN_LETTERS = 12
_MIN_PROSE_SHARE = 0.8
_SHORT_LINE_WORDS = 9
_SHORT_TEXT = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """`text[i]` stands at `origin[i]` of `document`; `shown` are the positions of all that a reader would see."""

    document: str
    text: str
    origin: list[int]
    shown: list[int]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The span of the document that covers `text[start:end]`, which must not be empty; cuts no character in two."""
        stop = self.origin[end - 1] + 1
        while stop < len(self.document) and unicodedata.category(self.document[stop]) in _EXTENDING:
            stop += 1
        return self.origin[start], stop

    def display(self, start: int, end: int) -> str:
        """`text[start:end]` with the emoji that stand in it."""
        first, last = self.span(start, end)
        shown = self.shown[bisect_left(self.shown, first) : bisect_left(self.shown, last)]
        return "".join(" " if self.document[at].isspace() else self.document[at] for at in shown)


def passages(document: str) -> Iterator[Passage]:
    for pieces in _blocks(document):
        passage = _clean(document, pieces)
        if _is_prose(passage.text):
            yield from _split(passage)


def _blocks(document: str) -> Iterator[list[tuple[int, int]]]:
    """Spans of the lines of each paragraph or list item, without the marks in front."""
    block: list[tuple[int, int]] = []
    fenced = False
    for start, end in _lines(document):
        line = document[start:end]
        if _FENCE.match(line):
            fenced = not fenced
            yield from _finished(document, block)
            block = []
        elif fenced or _ends_block(line):
            if not (len(block) == 1 and _UNDERLINE.match(line) and line.strip()):
                yield from _finished(document, block)
            block = []
        else:
            item = _LIST_ITEM.match(line)
            if item:
                yield from _finished(document, block)
                block = []
            mark = item or _QUOTE_MARK.match(line)
            block.append((start + mark.end() if mark else start, end))
    yield from _finished(document, block)


def _lines(document: str) -> Iterator[tuple[int, int]]:
    start = 0
    for line in document.splitlines(keepends=True):
        yield start, start + len(line)
        start += len(line)


def _ends_block(line: str) -> bool:
    return (
        not line.strip()
        or _HEADING.match(line) is not None
        or _UNDERLINE.match(line) is not None
        or _TABLE_ROW.match(line) is not None
        or _CODE_LINE.match(line) is not None
    )


def _finished(document: str, block: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    kept = [(start, end) for start, end in block if not _FURNITURE.search(document, start, end)]
    while len(kept) > 1 and _is_title(document[slice(*kept[0])], document[slice(*kept[1])]):
        kept.pop(0)
    if len(kept) == 1 and _is_label(document[slice(*kept[0])]):
        return
    if kept and not all(_FIELD.match(document[start:end]) for start, end in kept):
        yield kept


def _is_title(line: str, following: str) -> bool:
    """A line that ends long before the margin, without a mark, above one that begins anew."""
    is_short = len(line.strip()) <= _SHORT_TEXT and not _SENTENCE_END.search(line.strip()) and line.isascii()
    return is_short and following.lstrip()[:1].isupper()


def _is_label(line: str) -> bool:
    """A single short line that does not end like a sentence: a title, a menu entry, a caption."""
    return len(line.split()) <= _SHORT_LINE_WORDS and not _SENTENCE_END.search(line.strip()) and line.isascii()


def _clean(document: str, pieces: list[tuple[int, int]]) -> Passage:
    shown = _collapsed(document, _visible(document, pieces))
    origin = _collapsed(document, (at for at in shown if not _is_emoji(document[at])))
    text = "".join(" " if document[at].isspace() else document[at] for at in origin)
    return Passage(document=document, text=text, origin=origin, shown=shown)


def _visible(document: str, pieces: list[tuple[int, int]]) -> Iterator[int]:
    """Positions that are no markup."""
    for start, end in pieces:
        position = start
        for markup in _MARKUP.finditer(document, start, end):
            yield from range(position, markup.start())
            position = markup.end()
        yield from range(position, end)


def _collapsed(document: str, positions: Iterable[int]) -> list[int]:
    """Without white space at the ends, and with one of each run of it."""
    kept: list[int] = []
    for at in positions:
        if not document[at].isspace() or (kept and not document[kept[-1]].isspace()):
            kept.append(at)
    if kept and document[kept[-1]].isspace():
        kept.pop()
    return kept


def _is_emoji(character: str) -> bool:
    """Emoji and what joins and varies them: the parser would take them for words."""
    code = ord(character)
    if code < _FIRST_EMOJI:
        return character in _EMOJI_JOINERS
    return unicodedata.category(character) in {"So", "Sk", "Cf"} or character in _EMOJI_JOINERS


def _is_prose(text: str) -> bool:
    """Whether the passage reads like language, not like code, numbers or a path."""
    letters = sum(character.isalpha() for character in text)
    if letters < _MIN_LETTERS and text.isascii():
        return False
    capitals = sum(character.isupper() for character in text)
    if len(text) > _SHORT_TEXT and capitals > letters / 2:
        # Disclaimers are shouted.
        return False
    plain = letters + sum(character.isspace() or character in ".,;:'’-" or character.isdigit() for character in text)
    return letters > 0 and plain / len(text) >= _MIN_PROSE_SHARE and letters / len(text) > 1 / 2


def _split(passage: Passage) -> Iterator[Passage]:
    """Cuts a long passage between sentences."""
    start, last = 0, 0
    for found in _SENTENCE_BREAK.finditer(passage.text):
        if found.end() - start > _MAX_PASSAGE and last > start:
            yield _part(passage, start, last)
            start = last
        last = found.end()
    yield _part(passage, start, len(passage.text))


def _part(passage: Passage, start: int, end: int) -> Passage:
    return replace(passage, text=passage.text[start:end], origin=passage.origin[start:end])
