"""`SourceService`."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

from scristill.extractor.v1 import source_service_pb2 as pb
from scristill.extractor.v1.source_service_pb2_grpc import SourceServiceServicer

from services.extractor.application.certify import CertifyDeletion
from services.extractor.application.sources import SourceCommands, SourceQueries
from services.extractor.domain.source import NewSource, SourceFilter
from services.extractor.entrypoints import mapping
from services.extractor.entrypoints.extraction_mapping import decode_moment, encode_moment
from services.shared.errors import Cancelled, InvalidRequest, TooLarge, Unimplemented
from services.shared.grpc.interceptors.base import Context
from services.shared.paging import page_size


class SourceServicer(SourceServiceServicer):
    """`max_upload_bytes` bounds one upload, `upload_concurrency` how many are held in memory at once."""

    def __init__(
        self,
        *,
        commands: SourceCommands,
        queries: SourceQueries,
        certify: CertifyDeletion,
        max_upload_bytes: int,
        upload_concurrency: int,
    ) -> None:
        self._commands = commands
        self._queries = queries
        self._certify = certify
        self._max_upload_bytes = max_upload_bytes
        self._uploads = asyncio.Semaphore(upload_concurrency)

    async def CreateSources(self, request: pb.CreateSourcesRequest, context: Context) -> pb.CreateSourcesResponse:
        sources = [mapping.to_new_source(source) for source in request.sources]
        results = await self._commands.create(UUID(request.project_id), sources)
        return pb.CreateSourcesResponse(results=[mapping.from_create_result(result) for result in results])

    async def UploadSource(
        self, request_iterator: AsyncIterator[pb.UploadSourceRequest], context: Context
    ) -> pb.UploadSourceResponse:
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("frame") != "header":
            raise InvalidRequest.of("header", "must be the first frame")
        async with self._uploads:
            source = await self._receive(first.header, request_iterator)
            # The requests of a call that was cancelled end as if the client had closed its side.
            await asyncio.sleep(0)
            if context.cancelled():
                raise Cancelled("the upload was cancelled")
            result = await self._commands.create_large(UUID(first.header.project_id), source)
        return pb.UploadSourceResponse(result=mapping.from_create_result(result))

    async def GetSource(self, request: pb.GetSourceRequest, context: Context) -> pb.GetSourceResponse:
        source_id = UUID(request.source_id)
        if not request.include_text:
            return pb.GetSourceResponse(source=mapping.from_source(await self._queries.get(source_id)))
        source, text = await self._queries.get_with_text(source_id)
        return pb.GetSourceResponse(source=mapping.from_source(source), text=text)

    async def ListSources(self, request: pb.ListSourcesRequest, context: Context) -> pb.ListSourcesResponse:
        arguments: dict[str, object] = {
            "project": request.project_id,
            "states": list(request.states),
            "groups": list(request.groups),
        }
        limit = page_size(request.page_size)
        sources = await self._queries.page(
            UUID(request.project_id),
            SourceFilter(states=mapping.to_states(list(request.states)), groups=list(request.groups)),
            after=decode_moment(request.page_token, arguments=arguments),
            limit=limit,
        )
        token = ""
        if len(sources) == limit:
            token = encode_moment(sources[-1].create_time, sources[-1].source_id, arguments=arguments)
        return pb.ListSourcesResponse(
            sources=[mapping.from_source(source) for source in sources], next_page_token=token
        )

    async def DeleteSource(self, request: pb.DeleteSourceRequest, context: Context) -> pb.DeleteSourceResponse:
        source_id = UUID(request.source_id)
        if not request.certify:
            deleted = await self._commands.delete(source_id)
            return pb.DeleteSourceResponse(extraction_count=deleted.extraction_count, consistency_token=deleted.token)
        certificate = await self._certify(source_id)
        return pb.DeleteSourceResponse(
            extraction_count=certificate.fact_count,
            certificate=mapping.from_certificate(certificate),
            consistency_token=certificate.token,
        )

    async def ScrapeUrls(self, request: pb.ScrapeUrlsRequest, context: Context) -> pb.ScrapeUrlsResponse:
        raise Unimplemented.of("/scristill.extractor.v1.SourceService/ScrapeUrls")

    async def CrawlSite(self, request: pb.CrawlSiteRequest, context: Context) -> pb.CrawlSiteResponse:
        raise Unimplemented.of("/scristill.extractor.v1.SourceService/CrawlSite")

    async def _receive(self, header: pb.UploadHeader, requests: AsyncIterator[pb.UploadSourceRequest]) -> NewSource:
        content = bytearray()
        async for frame in requests:
            if frame.WhichOneof("frame") != "chunk":
                raise InvalidRequest.of("header", "must come once")
            content += frame.chunk
            if max(len(content), header.size_bytes) > self._max_upload_bytes:
                size = max(len(content), header.size_bytes)
                raise TooLarge(
                    f"the document has {size} bytes or more where {self._max_upload_bytes} are allowed",
                    metadata={"limit_bytes": self._max_upload_bytes, "size_bytes": size},
                )
        if header.size_bytes and len(content) != header.size_bytes:
            raise InvalidRequest.of("header.size_bytes", f"is {header.size_bytes}, but {len(content)} bytes came")
        return NewSource(spec=mapping.to_spec(header.spec), content=bytes(content))
