"""What must be true of a project at rest, checked through the services' own contract."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self

import grpc.aio
from scristill.extractor.v1 import consistency_service_pb2 as consistency_pb
from scristill.extractor.v1 import extraction_pb2 as extraction_pb
from scristill.extractor.v1 import extraction_service_pb2 as extractions_pb
from scristill.extractor.v1 import source_pb2 as source_pb
from scristill.extractor.v1 import source_service_pb2 as sources_pb
from scristill.extractor.v1.consistency_service_pb2_grpc import ConsistencyServiceStub
from scristill.extractor.v1.extraction_service_pb2_grpc import ExtractionServiceStub
from scristill.extractor.v1.source_service_pb2_grpc import SourceServiceStub
from scristill.indexer.v1 import indexer_service_pb2 as indexer_pb
from scristill.indexer.v1.indexer_service_pb2_grpc import IndexerServiceStub

WITHIN = 60.0


@dataclass(frozen=True, slots=True)
class Peers:
    """Stubs of the services that hold the truth."""

    sources: SourceServiceStub
    extractions: ExtractionServiceStub
    consistency: ConsistencyServiceStub
    index: IndexerServiceStub

    @classmethod
    @asynccontextmanager
    async def of(cls, environ: Mapping[str, str]) -> AsyncIterator[Self]:
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{environ['EXTRACTOR_PORT']}") as extractor,
            grpc.aio.insecure_channel(f"127.0.0.1:{environ['INDEXER_PORT']}") as indexer,
        ):
            yield cls(
                sources=SourceServiceStub(extractor),
                extractions=ExtractionServiceStub(extractor),
                consistency=ConsistencyServiceStub(extractor),
                index=IndexerServiceStub(indexer),
            )

    async def list_sources(self, project_id: str) -> AsyncIterator[source_pb.Source]:
        token = ""
        while True:
            request = sources_pb.ListSourcesRequest(project_id=project_id, page_size=200, page_token=token)
            page = await self.sources.ListSources(request, timeout=WITHIN)
            for source in page.sources:
                yield source
            token = page.next_page_token
            if not token:
                return

    async def stream_facts(self, project_id: str) -> AsyncIterator[extraction_pb.Extraction]:
        """All live facts; fails unless the stream ends with its last frame."""
        sent = 0
        request = extractions_pb.StreamExtractionsRequest(project_id=project_id)
        async for frame in self.extractions.StreamExtractions(request, timeout=WITHIN):
            for fact in frame.batch.extractions:
                sent += 1
                yield fact
            if frame.HasField("done"):
                assert frame.done.extraction_count == sent
                return
        raise AssertionError("the stream ended without its last frame")


@dataclass(frozen=True, slots=True)
class Rest:
    """Counts of a project at rest."""

    sources: Counter[str]
    facts: int


async def check_at_rest(peers: Peers, project_id: str) -> Rest:
    """Nothing is open, each fact is indexed once, each span is the author's text, each code point is accounted for."""
    state = await peers.consistency.GetConsistency(
        consistency_pb.GetConsistencyRequest(project_id=project_id), timeout=WITHIN
    )
    assert (state.open_source_count, state.pending_intent_count, state.dead_letter_count) == (0, 0, 0)
    facts = [fact async for fact in peers.stream_facts(project_id)]
    points = await peers.index.GetIndexStats(indexer_pb.GetIndexStatsRequest(project_id=project_id), timeout=WITHIN)
    assert state.fact_count == state.indexed_count == points.live_point_count == len(facts)
    assert len({fact.extraction_id for fact in facts}) == len({fact.embedding_id for fact in facts}) == len(facts)
    assert all(fact.embedding_id for fact in facts)
    sources = [source async for source in peers.list_sources(project_id)]
    for source in sources:
        await _check_source(peers, source, [fact for fact in facts if fact.source_id == source.source_id])
    return Rest(sources=Counter(source_pb.SourceState.Name(s.state) for s in sources), facts=len(facts))


async def _check_source(peers: Peers, source: source_pb.Source, facts: list[extraction_pb.Extraction]) -> None:
    assert source.extraction_count == source.indexed_count == len(facts)
    assert len({(fact.group, fact.item_key) for fact in facts}) == len(facts)
    if source.state == source_pb.SOURCE_STATE_SKIPPED:
        assert source.reason
        assert source.message
        return
    request = sources_pb.GetSourceRequest(source_id=source.source_id, include_text=True)
    text = (await peers.sources.GetSource(request, timeout=WITHIN)).text
    for fact in facts:
        for quote in (fact.quote, *(value.quote for value in fact.values if value.HasField("quote"))):
            assert text[quote.start : quote.end] == quote.text != ""
    coverage = await peers.extractions.GetCoverage(
        extractions_pb.GetCoverageRequest(source_id=source.source_id), timeout=WITHIN
    )
    ends = [0, *(piece.end for piece in coverage.ranges)]
    assert [piece.start for piece in coverage.ranges] == ends[:-1]
    assert ends[-1] == coverage.text_length == len(text)
