"""The promises that the demo verifies on every fact of its project, and the answers that its questions must get."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from scristill.extractor.v1.extraction_pb2 import Extraction, SourceQuote
from scristill.indexer.v1.search_service_pb2 import SearchResponse

from services.cli.client.facts import Facts
from services.cli.client.sources import Sources
from services.cli.render.hits import name_of

QUERIES = Path(__file__).with_name("queries.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    question: str
    source: str
    """Name of the file that answers it."""
    quote_contains: str

    def answered_by(self, found: SearchResponse) -> bool:
        """Whether the first hit is the right one."""
        if not found.hits:
            return False
        content = found.hits[0].content
        return name_of(content.source_uri) == self.source and self.quote_contains in content.evidence.quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    holds: bool
    text: str


def queries() -> list[Query]:
    fields = ("question", "source", "quote_contains")
    return [Query(**{name: each[name] for name in fields}) for each in json.loads(QUERIES.read_text("utf-8"))]


async def invariants(project_id: str, *, facts: Facts, sources: Sources) -> list[Check]:
    listed = [fact async for fact in facts.every(project_id)]
    return [
        _all_indexed(listed),
        await _index_agrees(project_id, listed, facts=facts, sources=sources),
        await _quotes_are_verbatim(listed, sources=sources),
    ]


def _all_indexed(listed: list[Extraction]) -> Check:
    indexed = sum(bool(fact.embedding_id) for fact in listed)
    text = f"{indexed:,} of {len(listed):,} facts have the embedding_id that the index acknowledged"
    return Check(holds=indexed == len(listed) > 0, text=text)


async def _index_agrees(project_id: str, listed: list[Extraction], *, facts: Facts, sources: Sources) -> Check:
    points = (await facts.index_stats(project_id)).live_point_count
    rows = (await sources.consistency(project_id)).fact_count
    text = f"{points:,} live points in Qdrant, {rows:,} live facts in PostgreSQL"
    return Check(holds=points == rows == len(listed), text=text)


async def _quotes_are_verbatim(listed: list[Extraction], *, sources: Sources) -> Check:
    by_source: dict[str, list[SourceQuote]] = defaultdict(list)
    for fact in listed:
        by_source[fact.source_id] += [fact.quote, *(value.quote for value in fact.values if value.HasField("quote"))]
    total, wrong = 0, 0
    for source_id, quotes in by_source.items():
        text = await sources.text(source_id)
        total += len(quotes)
        wrong += sum(text[quote.start : quote.end] != quote.text for quote in quotes)
    result = "all" if not wrong else f"{total - wrong:,}"
    text = (
        f"{result} of {total:,} quotes equal the stored text at their span, code point for code point, "
        f"in {len(by_source)} documents"
    )
    return Check(holds=not wrong and total > 0, text=text)
