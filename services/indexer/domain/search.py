"""A search as a value: what to find, how, and in which facts."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from services.indexer.domain.consistency import Watermark
from services.indexer.domain.fact import FactContent, FactId


class SearchMode(StrEnum):
    HYBRID = "hybrid"
    DENSE = "dense"
    SPARSE = "sparse"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFilter:
    """Lists mean "any of"; an empty list means all."""

    source_ids: tuple[str, ...] = ()
    source_groups: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    entities: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    min_confidence: float = 0.0
    extract_start: datetime | None = None
    extract_end: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    project_id: str
    text: str
    mode: SearchMode = SearchMode.HYBRID
    filter: SearchFilter = field(default_factory=SearchFilter)
    offset: int = 0
    limit: int = 10
    min_score: float = 0.0
    max_hits_per_source: int = 0
    watermark: Watermark | None = None
    """What must be applied before the search."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """A place in the ranking, before the content is read."""

    embedding_id: str
    source_id: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    fact_id: FactId
    source_id: str
    version: int
    score: float
    content: FactContent


def ranking(found: Iterable[Ranked], query: Query) -> list[Ranked]:
    """Best first, ties by id, without what scores too low or exceeds what a source may give."""
    ordered = sorted(found, key=lambda place: (-place.score, place.embedding_id))
    scored = (place for place in ordered if place.score >= query.min_score)
    return list(_spread(scored, query.max_hits_per_source)) if query.max_hits_per_source else list(scored)


def _spread(places: Iterable[Ranked], per_source: int) -> Iterator[Ranked]:
    seen: dict[str, int] = {}
    for place in places:
        count = seen.get(place.source_id, 0)
        if count < per_source:
            seen[place.source_id] = count + 1
            yield place
