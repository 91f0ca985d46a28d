"""Sources of a project, and what the extractor knows of facts on their way to the index."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from grpc import StatusCode, aio
from grpc.aio import StreamUnaryCall
from scristill.extractor.v1 import consistency_service_pb2, source_service_pb2
from scristill.extractor.v1.consistency_service_pb2_grpc import ConsistencyServiceStub
from scristill.extractor.v1.source_pb2 import Source, SourceSpec, SourceState
from scristill.extractor.v1.source_service_pb2 import (
    CreateSourceResult,
    UploadHeader,
    UploadSourceRequest,
    UploadSourceResponse,
)
from scristill.extractor.v1.source_service_pb2_grpc import SourceServiceStub

from services.cli.client.projects import UUID
from services.cli.connection import PAGE_SIZE, Connection, pages
from services.cli.errors import Missing, Usage

CALL_SECONDS = 60.0
UPLOAD_SECONDS = 300.0

OPEN_STATES = (SourceState.SOURCE_STATE_PENDING, SourceState.SOURCE_STATE_EXTRACTING)


class Sources:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = SourceServiceStub(connection.channel("extractor"))
        self._consistency = ConsistencyServiceStub(connection.channel("extractor"))

    async def create(
        self, project_id: str, sources: Sequence[source_service_pb2.NewSource]
    ) -> Sequence[CreateSourceResult]:
        """One result per source, in order."""
        request = source_service_pb2.CreateSourcesRequest(project_id=project_id, sources=sources)
        with self._connection.errors("extractor"):
            return (await self._stub.CreateSources(request, timeout=CALL_SECONDS)).results

    async def upload(
        self, project_id: str, spec: SourceSpec, *, size_bytes: int, chunks: AsyncIterator[bytes]
    ) -> CreateSourceResult:
        """An error of `chunks` is raised as it is, and nothing is stored."""
        header = UploadHeader(project_id=project_id, spec=spec, size_bytes=size_bytes)
        try:
            return await self._upload(header, chunks)
        except _AnsweredEarly:
            # The status of a server that does not read to the end gets lost in grpc.aio. It refuses the header alone
            # too, be it for the size that is missing; nothing is stored then.
            return await self._upload(header, _nothing())

    async def _upload(self, header: UploadHeader, chunks: AsyncIterator[bytes]) -> CreateSourceResult:
        call = self._stub.UploadSource(timeout=UPLOAD_SECONDS)
        try:
            with self._connection.errors("extractor"):
                await _write(call, UploadSourceRequest(header=header))
                async for chunk in chunks:
                    await _write(call, UploadSourceRequest(chunk=chunk))
                await call.done_writing()
                return (await call).result
        finally:
            call.cancel()

    async def every(
        self, project_id: str, *, states: Sequence[SourceState.ValueType] = (), groups: Sequence[str] = ()
    ) -> AsyncGenerator[Source]:
        """Newest first."""

        async def fetch(token: str) -> source_service_pb2.ListSourcesResponse:
            request = source_service_pb2.ListSourcesRequest(
                project_id=project_id, states=states, groups=groups, page_size=PAGE_SIZE, page_token=token
            )
            with self._connection.errors("extractor"):
                return await self._stub.ListSources(request)

        async for page in pages(fetch):
            for source in page.sources:
                yield source

    async def uris(self, project_id: str, source_ids: set[str]) -> dict[str, str]:
        """By source id; reads the list of sources as far as they reach."""
        found: dict[str, str] = {}
        async with aclosing(self.every(project_id)) as listed:
            async for source in listed:
                if source.source_id in source_ids:
                    found[source.source_id] = source.uri
                if len(found) == len(source_ids):
                    break
        return found

    async def text(self, source_id: str) -> str:
        """The stored text, to which all spans refer."""
        request = source_service_pb2.GetSourceRequest(source_id=source_id, include_text=True)
        with self._connection.errors("extractor"):
            return (await self._stub.GetSource(request)).text

    async def id_of(self, project_id: str, name: str) -> str:
        """Of a source given by its id, its URI, or the end of its URI."""
        if UUID.fullmatch(name):
            return name
        found = [source async for source in self.every(project_id) if _answers_to(source.uri, name)]
        if not found:
            raise Missing(f"there is no source {name!r} in the project (`scristill sources list`)")
        if len(found) > 1:
            raise Usage(f"{name!r} fits {len(found)} sources, {found[0].uri} among them: give more of the path")
        return found[0].source_id

    async def consistency(self, project_id: str = "") -> consistency_service_pb2.GetConsistencyResponse:
        """Counts of the project, or of all."""
        request = consistency_service_pb2.GetConsistencyRequest(project_id=project_id)
        with self._connection.errors("extractor"):
            return await self._consistency.GetConsistency(request)


class _AnsweredEarly(Exception):
    """The server ended the call before everything was sent."""


async def _write(call: StreamUnaryCall[UploadSourceRequest, UploadSourceResponse], frame: UploadSourceRequest) -> None:
    try:
        await call.write(frame)
    except asyncio.InvalidStateError as error:
        raise _AnsweredEarly from error
    except aio.AioRpcError as error:
        if error.code() is StatusCode.INTERNAL:
            raise _AnsweredEarly from error
        raise


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in ():
        yield chunk


def _answers_to(uri: str, name: str) -> bool:
    return uri == name or uri.endswith("/" + name.removeprefix("./"))
