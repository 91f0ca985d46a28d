"""Facts: listed from the extractor, searched in the index."""

from collections.abc import AsyncIterator

from scristill.extractor.v1 import extraction_service_pb2
from scristill.extractor.v1.extraction_pb2 import Extraction
from scristill.extractor.v1.extraction_service_pb2_grpc import ExtractionServiceStub
from scristill.indexer.v1 import indexer_service_pb2, search_service_pb2
from scristill.indexer.v1.indexer_service_pb2_grpc import IndexerServiceStub
from scristill.indexer.v1.search_service_pb2 import SearchMode
from scristill.indexer.v1.search_service_pb2_grpc import SearchServiceStub

from services.cli.connection import PAGE_SIZE, Connection, pages


class Facts:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._extractions = ExtractionServiceStub(connection.channel("extractor"))
        self._search = SearchServiceStub(connection.channel("indexer"))
        self._indexer = IndexerServiceStub(connection.channel("indexer"))

    async def every(
        self, project_id: str, *, source_id: str = "", unindexed_only: bool = False, page_size: int = PAGE_SIZE
    ) -> AsyncIterator[Extraction]:
        """By source and position."""
        chosen = extraction_service_pb2.ExtractionFilter(
            source_ids=[source_id] if source_id else [], unindexed_only=unindexed_only
        )

        async def fetch(token: str) -> extraction_service_pb2.ListExtractionsResponse:
            request = extraction_service_pb2.ListExtractionsRequest(
                project_id=project_id, filter=chosen, page_size=page_size, page_token=token
            )
            with self._connection.errors("extractor"):
                return await self._extractions.ListExtractions(request)

        async for page in pages(fetch):
            for fact in page.extractions:
                yield fact

    async def search(
        self,
        project_id: str,
        query: str,
        *,
        mode: SearchMode.ValueType = SearchMode.SEARCH_MODE_HYBRID,
        limit: int = 10,
    ) -> search_service_pb2.SearchResponse:
        """The first page, of at most 100 hits."""
        request = search_service_pb2.SearchRequest(project_id=project_id, query=query, mode=mode, page_size=limit)
        with self._connection.errors("indexer"):
            return await self._search.Search(request)

    async def index_stats(self, project_id: str = "") -> indexer_service_pb2.GetIndexStatsResponse:
        with self._connection.errors("indexer"):
            return await self._indexer.GetIndexStats(indexer_service_pb2.GetIndexStatsRequest(project_id=project_id))
