"""Grounding: a model's answer becomes items whose every span is verified in the stored text.

A quote is looked for in the chunk as it stands, then with white space, case and
typography set aside; the span found is always the author's text, never the model's
rendering of it. A value is looked for in its quote. What is not found is not stored:
the item is dropped, or its value marked, by the project's policy, and counted.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, cast

from services.extractor.domain.chunking import Chunk
from services.extractor.domain.schema import QUOTE, ExtractionSchema, FieldGroup

_EXACT, _FOLDED = 1.0, 0.9
_STATEMENT_OVERLAP: Final = 0.6
_MAX_KEY_LENGTH: Final = 500
_CATEGORY: Final = "category"
_THOUSAND_DIGITS: Final = 3

_WORD: Final = re.compile(r"\w+")
_NUMBER: Final = re.compile(r"\d[\d.,\u00a0\u202f' ]*\d|\d")
_SEPARATORS: Final = re.compile(r"[.,\u00a0\u202f' ]")
_SPACE: Final = re.compile(r"\s+")

# One code point for one code point, so that offsets survive the folding.
_TYPOGRAPHY: Final = str.maketrans("‘’‚‛“”„‟«»‹›′″‐‑‒–—―−\u00a0\u202f\u2009", "''''\"\"\"\"\"\"'''\"-------   ")


class GroundingPolicy(StrEnum):
    """What happens to a value that its quote does not contain."""

    DROP = "drop"
    MARK = "mark"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedValue:
    """A field's value as text. `start` and `end` are None for a value that is kept without support."""

    name: str
    value: str
    start: int | None
    end: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedItem:
    """A fact. All offsets are absolute: `text[start:end]` is the quote, in code points."""

    group: str
    item_key: str
    statement: str
    category: str
    values: tuple[GroundedValue, ...]
    start: int
    end: int
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedEntity:
    """An entity and where the chunk names it; mentions are absolute spans, at least one."""

    group: str
    name: str
    type: str
    mentions: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedChunk:
    items: tuple[GroundedItem, ...] = ()
    entities: tuple[GroundedEntity, ...] = ()
    ungrounded_count: int = 0


@dataclass(frozen=True, slots=True)
class _Span:
    start: int
    end: int
    confidence: float


def ground(
    answer: Mapping[str, Any],
    *,
    schema: ExtractionSchema,
    policy: GroundingPolicy,
    text: str,
    chunk: Chunk,
) -> GroundedChunk:
    """Verifies `answer`, which matches `output_schema(schema)`, against `text[chunk.start:chunk.end]`."""
    passage = _Passage(text, chunk.start, chunk.end)
    items: dict[tuple[str, str], GroundedItem] = {}
    entities: dict[tuple[str, str], GroundedEntity] = {}
    ungrounded = 0
    for group in schema.groups:
        for raw in cast("Sequence[Mapping[str, Any]]", answer.get(group.name, ())):
            if group.entities:
                entity = _ground_entity(group, raw, passage)
                ungrounded += entity is None
                if entity is not None:
                    entities.setdefault((entity.type, entity.name.casefold()), entity)
                continue
            item, misses = _ground_item(group, raw, passage, policy)
            ungrounded += misses
            if item is not None:
                items.setdefault((item.group, item.item_key), item)
    return GroundedChunk(items=tuple(items.values()), entities=tuple(entities.values()), ungrounded_count=ungrounded)


def _ground_item(
    group: FieldGroup, raw: Mapping[str, Any], passage: "_Passage", policy: GroundingPolicy
) -> tuple[GroundedItem | None, int]:
    """The item, if it may be kept, and how many of its parts have no support."""
    quote = passage.find(str(raw.get(QUOTE, "")))
    if quote is None:
        return None, 1
    inside = passage.narrowed(quote.start, quote.end)
    values: list[GroundedValue] = []
    misses = 0
    for name, rule in group.properties.items():
        value = _as_text(raw.get(name))
        if not value or name in (group.statement_field, _CATEGORY):
            continue
        span = _ground_value(value, rule, inside)
        if span is None:
            misses += 1
            if policy is GroundingPolicy.DROP and name in group.identity:
                return None, misses
            if policy is GroundingPolicy.DROP:
                continue
        values.append(GroundedValue(name=name, value=value, start=span and span.start, end=span and span.end))
    item = GroundedItem(
        group=group.name,
        item_key=item_key({value.name: value.value for value in values}, group.identity),
        statement=_statement(group, raw, values, passage.text[quote.start : quote.end]),
        category=_as_text(raw.get(_CATEGORY)),
        values=tuple(values),
        start=quote.start,
        end=quote.end,
        confidence=round(quote.confidence * (1 - misses / (len(values) + misses)) if values or misses else 0.0, 4),
    )
    return (item, misses) if values else (None, misses or 1)


def _ground_entity(group: FieldGroup, raw: Mapping[str, Any], passage: "_Passage") -> GroundedEntity | None:
    span = passage.find(_as_text(raw.get("name")))
    if span is None:
        return None
    name = passage.text[span.start : span.end]
    return GroundedEntity(
        group=group.name,
        name=_SPACE.sub(" ", name),
        type=_as_text(raw.get("type")) or "other",
        mentions=tuple(passage.mentions(name)) or ((span.start, span.end),),
    )


def item_key(values: Mapping[str, str], identity: Sequence[str]) -> str:
    """What identifies an item: its identifying values, folded, so that case and spacing make no second fact."""
    key = " | ".join(_SPACE.sub(" ", values.get(name, "")).strip().casefold() for name in identity)
    return key if len(key) <= _MAX_KEY_LENGTH else key[: _MAX_KEY_LENGTH - 17] + f"…{_stable_hash(key)}"


def _stable_hash(key: str) -> str:
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def _ground_value(value: str, rule: Mapping[str, Any], quote: "_Passage") -> _Span | None:
    """Where the quote supports a value. Choices and booleans are supported by the quote as a whole."""
    kind = rule.get("type")
    if "enum" in rule or kind == "boolean":
        return _Span(quote.start, quote.end, _EXACT)
    if kind in ("number", "integer"):
        return quote.find_number(value)
    if kind == "array":
        parts = [quote.find(str(part)) for part in json.loads(value)]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts) or not found:
            return None
        return _Span(min(part.start for part in found), max(part.end for part in found), _FOLDED)
    return quote.find(value)


def _statement(group: FieldGroup, raw: Mapping[str, Any], values: Sequence[GroundedValue], quote: str) -> str:
    """The sentence to search. One that says more than its quote is replaced by the quote."""
    if not group.statement_field:
        return "; ".join(f"{value.name}: {value.value}" for value in values)
    verbatim = _SPACE.sub(" ", quote).strip()
    statement = _SPACE.sub(" ", _as_text(raw.get(group.statement_field))).strip()
    return statement if statement and _supported(statement, verbatim) else verbatim


def _supported(statement: str, quote: str) -> bool:
    if set(_numbers(statement)) - set(_numbers(quote)):
        return False
    words = set(_WORD.findall(statement.casefold()))
    return bool(words) and len(words & set(_WORD.findall(quote.casefold()))) >= _STATEMENT_OVERLAP * len(words)


def _numbers(text: str) -> Iterator[str]:
    return (_SEPARATORS.sub("", match.group()) for match in _NUMBER.finditer(text))


def _readings(number: str) -> Iterator[float]:
    """What a written number can mean: `1.000` a thousand or one, `1.250,5` and `0.5` only one thing."""
    separators = _SEPARATORS.findall(number)
    whole, _, decimals = number.rpartition(separators[-1]) if separators else (number, "", "")
    if len(set(separators)) <= 1 and (not separators or len(decimals) == _THOUSAND_DIGITS):
        yield float(_SEPARATORS.sub("", number))
    if separators and (len(separators) == 1 or len(set(separators)) > 1):
        yield float(f"{_SEPARATORS.sub('', whole)}.{decimals}")


def _as_text(value: object) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


class _Passage:
    """A stretch of the stored text in which passages are looked for."""

    def __init__(self, text: str, start: int, end: int) -> None:
        self.text = text
        self.start = start
        self.end = end

    def narrowed(self, start: int, end: int) -> "_Passage":
        return _Passage(self.text, start, end)

    def find(self, wanted: str) -> _Span | None:
        """The first place where `wanted` stands: verbatim, else with case, white space and typography folded."""
        wanted = wanted.strip()
        if not wanted:
            return None
        position = self.text.find(wanted, self.start, self.end)
        if position >= 0:
            return _Span(position, position + len(wanted), _EXACT)
        words = wanted.translate(_TYPOGRAPHY).split()
        pattern = re.compile(r"\s+".join(re.escape(word) for word in words), re.IGNORECASE)
        match = pattern.search(self.text[self.start : self.end].translate(_TYPOGRAPHY))
        return match and _Span(self.start + match.start(), self.start + match.end(), _FOLDED)

    def find_number(self, value: str) -> _Span | None:
        """The first number of this size, whatever separates its thousands and decimals."""
        wanted = abs(float(value))
        for match in _NUMBER.finditer(self.text, self.start, self.end):
            if any(math.isclose(wanted, reading, rel_tol=1e-9) for reading in _readings(match.group())):
                return _Span(match.start(), match.end(), _EXACT)
        return None

    def mentions(self, name: str) -> Iterator[tuple[int, int]]:
        """All places where `name` stands as a word of its own."""
        before = r"(?<!\w)" if re.match(r"\w", name) and name.isascii() else ""
        after = r"(?!\w)" if re.search(r"\w$", name) and name.isascii() else ""
        for match in re.compile(before + re.escape(name) + after).finditer(self.text, self.start, self.end):
            yield match.span()
