"""`ExtractionService`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

from scristill.extractor.v1 import extraction_service_pb2 as pb
from scristill.extractor.v1.extraction_service_pb2_grpc import ExtractionServiceServicer

from services.extractor.application.extractions import ExtractionQueries, position_of
from services.extractor.application.sources import SourceQueries
from services.extractor.domain.extraction import EntityFilter, EntityPosition
from services.extractor.entrypoints import extraction_mapping as mapping
from services.shared.errors import ServerDraining
from services.shared.grpc.interceptors.base import Context
from services.shared.lifecycle import Drain
from services.shared.paging import page_size


class ExtractionServicer(ExtractionServiceServicer):
    def __init__(self, *, extractions: ExtractionQueries, sources: SourceQueries, drain: Drain) -> None:
        self._extractions = extractions
        self._sources = sources
        self._drain = drain

    async def ListExtractions(self, request: pb.ListExtractionsRequest, context: Context) -> pb.ListExtractionsResponse:
        arguments = mapping.arguments_of(request.project_id, request.filter)
        limit = page_size(request.page_size)
        extractions = await self._extractions.page(
            UUID(request.project_id),
            mapping.to_filter(request.filter),
            after=mapping.decode_position(request.page_token, arguments=arguments),
            limit=limit,
        )
        token = ""
        if len(extractions) == limit:
            token = mapping.encode_position(position_of(extractions[-1]), arguments=arguments)
        return pb.ListExtractionsResponse(
            extractions=[mapping.from_extraction(each) for each in extractions], next_page_token=token
        )

    async def StreamExtractions(
        self, request: pb.StreamExtractionsRequest, context: Context
    ) -> AsyncIterator[pb.StreamExtractionsResponse]:
        arguments = mapping.arguments_of(request.project_id, request.filter)
        after = mapping.decode_position(request.resume_token, arguments=arguments)
        batches = self._extractions.stream(UUID(request.project_id), mapping.to_filter(request.filter), after=after)
        count, token = 0, request.resume_token
        async with aclosing(batches):
            async for batch in batches:
                if self._drain.started:
                    # There may be more: the client goes on with its token on another replica.
                    raise ServerDraining
                count += len(batch)
                token = mapping.encode_position(position_of(batch[-1]), arguments=arguments)
                yield pb.StreamExtractionsResponse(
                    resume_token=token,
                    batch=pb.ExtractionBatch(extractions=[mapping.from_extraction(each) for each in batch]),
                )
        yield pb.StreamExtractionsResponse(resume_token=token, done=pb.ExtractionStreamDone(extraction_count=count))

    async def GetExtraction(self, request: pb.GetExtractionRequest, context: Context) -> pb.GetExtractionResponse:
        extraction = await self._extractions.get(UUID(request.extraction_id))
        return pb.GetExtractionResponse(extraction=mapping.from_extraction(extraction))

    async def ListEntities(self, request: pb.ListEntitiesRequest, context: Context) -> pb.ListEntitiesResponse:
        arguments: dict[str, object] = {
            "project": request.project_id,
            "types": list(request.types),
            "prefix": request.name_prefix,
        }
        limit = page_size(request.page_size)
        entities = await self._extractions.entities(
            UUID(request.project_id),
            EntityFilter(types=list(request.types), name_prefix=request.name_prefix),
            after=mapping.decode_entity_position(request.page_token, arguments=arguments),
            limit=limit,
        )
        token = ""
        if len(entities) == limit:
            last = EntityPosition(extraction_count=entities[-1].extraction_count, entity_id=entities[-1].entity_id)
            token = mapping.encode_entity_position(last, arguments=arguments)
        return pb.ListEntitiesResponse(
            entities=[mapping.from_entity(entity) for entity in entities], next_page_token=token
        )

    async def GetCoverage(self, request: pb.GetCoverageRequest, context: Context) -> pb.GetCoverageResponse:
        return mapping.from_coverage(await self._sources.coverage(UUID(request.source_id)))
