"""Facts of a source version: merged over its chunks, each with what the index will hold of it.

A fact's content hash covers exactly what the index holds. The version of the source is
not part of it: a fact that reads the same at the same place in a new version of its
source has not changed, and is not sent again.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final
from uuid import UUID

import orjson

from services.extractor.domain import identity
from services.extractor.domain.grounding import GroundedChunk, GroundedEntity, GroundedItem, GroundedValue
from services.extractor.domain.source import SourceVersion

CONTEXT_CHARS: Final = 120
MAX_ENTITIES: Final = 64
MAX_CATEGORY: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """All offsets are code points of the stored text; `text[start:end] == quote`."""

    fact_id: UUID
    group: str
    item_key: str
    statement: str
    category: str
    values: tuple[GroundedValue, ...]
    quote: str
    start: int
    end: int
    context_before: str
    context_after: str
    entities: tuple[str, ...]
    """As the quote writes them, in order of appearance."""
    entity_ids: tuple[UUID, ...]
    confidence: float
    model: str
    chunk_index: int
    content_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """How often a source calls an entity by a name."""

    entity_id: UUID
    type: str
    name: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkFindings:
    """What one chunk gave, and the model that gave it."""

    chunk_index: int
    model: str
    grounded: GroundedChunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Distillate:
    """All that a source version says."""

    facts: tuple[Fact, ...] = ()
    mentions: tuple[Mention, ...] = ()


def distil(findings: Sequence[ChunkFindings], *, source: SourceVersion, text: str) -> Distillate:
    """Merges chunks, in order. Of facts with the same identity the one with the best support stays."""
    best: dict[UUID, tuple[GroundedItem, ChunkFindings]] = {}
    names: Counter[tuple[UUID, str, str]] = Counter()
    for found in findings:
        for item in found.grounded.items:
            fact_id = identity.fact_id(source.ref.source_id, item.group, item.item_key)
            known = best.get(fact_id)
            if known is None or item.confidence > known[0].confidence:
                best[fact_id] = item, found
        for entity in found.grounded.entities:
            names[_entity_id(source, entity), entity.type, entity.name] += len(entity.mentions)
    return Distillate(
        facts=tuple(_fact(fact_id, item, found, source=source, text=text) for fact_id, (item, found) in best.items()),
        mentions=tuple(
            Mention(entity_id=entity_id, type=entity_type, name=name, count=count)
            for (entity_id, entity_type, name), count in names.items()
        ),
    )


def _fact(fact_id: UUID, item: GroundedItem, found: ChunkFindings, *, source: SourceVersion, text: str) -> Fact:
    inside = _entities_within(item, found.grounded.entities)
    quote = text[item.start : item.end]
    before, after = text[max(0, item.start - CONTEXT_CHARS) : item.start], text[item.end : item.end + CONTEXT_CHARS]
    statement = item.statement or quote
    category = item.category[:MAX_CATEGORY]
    entities = tuple(dict.fromkeys(entity.name for entity in inside))[:MAX_ENTITIES]
    return Fact(
        fact_id=fact_id,
        group=item.group,
        item_key=item.item_key,
        statement=statement,
        category=category,
        values=item.values,
        quote=quote,
        start=item.start,
        end=item.end,
        context_before=before,
        context_after=after,
        entities=entities,
        entity_ids=tuple(dict.fromkeys(_entity_id(source, entity) for entity in inside)),
        confidence=item.confidence,
        model=found.model,
        chunk_index=found.chunk_index,
        content_hash=_digest(
            [
                str(source.project_id),
                str(source.ref.source_id),
                source.uri,
                source.title,
                source.group,
                item.group,
                statement,
                category,
                [[value.name, value.value] for value in item.values],
                [quote, item.start, item.end, before, after],
                entities,
                item.confidence,
            ]
        ),
    )


def _entities_within(item: GroundedItem, entities: Iterable[GroundedEntity]) -> list[GroundedEntity]:
    """Those that the quote names, in order of appearance."""
    placed: list[tuple[int, str, str, GroundedEntity]] = []
    for entity in entities:
        inside = [start for start, end in entity.mentions if item.start <= start and end <= item.end]
        if inside:
            placed.append((min(inside), entity.type, entity.name, entity))
    return [entity for *_, entity in sorted(placed, key=lambda each: each[:3])]


def _entity_id(source: SourceVersion, entity: GroundedEntity) -> UUID:
    return identity.entity_id(source.project_id, entity.type, entity.name)


def _digest(parts: Sequence[object]) -> bytes:
    """A canonical encoding: JSON arrays in a fixed order, so that no two contents read the same."""
    return sha256(orjson.dumps(parts)).digest()
