"""Facts and entities as clients read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.extractor.domain.grounding import GroundedValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """A live fact. `embedding_id` is None until the index has acknowledged this version."""

    extraction_id: UUID
    project_id: UUID
    source_id: UUID
    source_version: int
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
    confidence: float
    model: str
    chunk_index: int
    version: int
    embedding_id: UUID | None
    extract_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionFilter:
    """Lists mean "any of"; an empty list means all."""

    source_ids: Sequence[UUID] = ()
    groups: Sequence[str] = ()
    categories: Sequence[str] = ()
    min_confidence: float = 0.0
    unindexed_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractionPosition:
    """Where a page or a stream of facts has come to: the last fact that was delivered."""

    source_id: UUID
    start: int
    extraction_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """`name` is the one that sources use most often."""

    entity_id: UUID
    project_id: UUID
    type: str
    name: str
    extraction_count: int
    source_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityFilter:
    types: Sequence[str] = ()
    name_prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityPosition:
    extraction_count: int
    entity_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """Counts of facts and of what waits to be indexed."""

    fact_count: int
    indexed_count: int
    pending_intent_count: int
    oldest_intent_time: datetime | None
    dead_letter_count: int
    open_source_count: int
