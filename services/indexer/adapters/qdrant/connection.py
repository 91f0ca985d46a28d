"""The connection to Qdrant: one `AsyncQdrantClient` over gRPC, used through its raw stubs.

The client's own methods convert every point through pydantic models, which costs more
than the network on the write and scan paths; its stubs, credentials and channels are
used as they are. Each call has a deadline here and in the server, and fails with a
`ServiceError` or `WriteRefused`.
"""

import math
from collections.abc import Awaitable
from typing import Any, cast
from urllib.parse import urlsplit

import grpc
import grpc.aio
from qdrant_client import AsyncQdrantClient
from qdrant_client import grpc as qdrant
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from services.indexer.application.ports import WriteRefused
from services.indexer.domain.errors import CollectionMissing
from services.shared.errors import OutcomeUnknown, Unavailable
from services.shared.telemetry.metrics import Metrics

DEFAULT_PORT = 6334

_REFUSED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNIMPLEMENTED}
# What Qdrant waits less than the caller does, so that its own time-out arrives as an answer.
_MARGIN_SECONDS = 1.0


class QdrantConnection:
    def __init__(self, *, url: str, api_key: str | None, timeout_seconds: float, metrics: Metrics) -> None:
        parts = urlsplit(url)
        self._seconds = metrics.histogram(
            "scristill_indexer_qdrant_call_duration_seconds",
            "Time of a call to Qdrant, failed ones included, by kind of request.",
            labels=("request",),
        )
        self._timeout = timeout_seconds
        self._client = AsyncQdrantClient(
            host=parts.hostname or "127.0.0.1",
            grpc_port=parts.port or DEFAULT_PORT,
            https=parts.scheme == "https",
            api_key=api_key,
            prefer_grpc=True,
            check_compatibility=False,
            pool_size=1,
        )
        self._points: Any = self._client.grpc_points
        self._collections: Any = self._client.grpc_collections

    async def close(self) -> None:
        await self._client.close()

    async def upsert(self, request: qdrant.UpsertPoints) -> None:
        request.timeout = self._server_timeout
        response = await self._write(self._points.Upsert, request)
        _require_completed(cast("qdrant.PointsOperationResponse", response).result)

    async def update_batch(self, request: qdrant.UpdateBatchPoints) -> None:
        request.timeout = self._server_timeout
        response = cast("qdrant.UpdateBatchResponse", await self._write(self._points.UpdateBatch, request))
        for result in response.result:
            _require_completed(result)

    async def delete(self, request: qdrant.DeletePoints) -> None:
        request.timeout = self._server_timeout
        response = await self._write(self._points.Delete, request)
        _require_completed(cast("qdrant.PointsOperationResponse", response).result)

    async def get(self, request: qdrant.GetPoints) -> qdrant.GetResponse:
        return cast("qdrant.GetResponse", await self._read(self._points.Get, request))

    async def scroll(self, request: qdrant.ScrollPoints) -> qdrant.ScrollResponse:
        return cast("qdrant.ScrollResponse", await self._read(self._points.Scroll, request))

    async def count(self, request: qdrant.CountPoints) -> int:
        return cast("qdrant.CountResponse", await self._read(self._points.Count, request)).result.count

    async def query(self, request: qdrant.QueryPoints, *, seconds: float) -> qdrant.QueryResponse:
        request.timeout = math.ceil(seconds)
        return cast("qdrant.QueryResponse", await self._read(self._points.Query, request, seconds=seconds))

    async def create_field_index(self, request: qdrant.CreateFieldIndexCollection) -> None:
        await self._write(self._points.CreateFieldIndex, request)

    async def collection_names(self) -> set[str]:
        response = await self._read(self._collections.List, qdrant.ListCollectionsRequest())
        return {each.name for each in cast("qdrant.ListCollectionsResponse", response).collections}

    async def aliases(self) -> dict[str, str]:
        """Collection by alias."""
        response = await self._read(self._collections.ListAliases, qdrant.ListAliasesRequest())
        return {each.alias_name: each.collection_name for each in cast("qdrant.ListAliasesResponse", response).aliases}

    async def create_collection(self, request: qdrant.CreateCollection) -> None:
        """A collection of that name that exists already stays as it is."""
        try:
            await self._write(self._collections.Create, request)
        except (WriteRefused, OutcomeUnknown):
            # Qdrant answers INVALID_ARGUMENT when another replica was faster.
            if request.collection_name not in await self.collection_names():
                raise

    async def delete_collection(self, name: str) -> None:
        await self._write(self._collections.Delete, qdrant.DeleteCollection(collection_name=name))

    async def change_aliases(self, request: qdrant.ChangeAliases) -> None:
        await self._write(self._collections.UpdateAliases, request)

    @property
    def _server_timeout(self) -> int:
        return max(1, math.floor(self._timeout - _MARGIN_SECONDS))

    async def _read(self, method: Any, request: Any, *, seconds: float | None = None) -> object:
        try:
            return await self._call(method, request, seconds=seconds or self._timeout)
        except (grpc.aio.AioRpcError, ResourceExhaustedResponse) as error:
            code = _code(error)
            if code in _REFUSED:
                raise  # a question that Qdrant calls invalid is a fault of ours
            if code is grpc.StatusCode.NOT_FOUND:
                raise CollectionMissing.of_collection(_collection(request)) from error
            raise Unavailable.of("qdrant") from error

    async def _write(self, method: Any, request: Any) -> object:
        try:
            return await self._call(method, request, seconds=self._timeout)
        except (grpc.aio.AioRpcError, ResourceExhaustedResponse) as error:
            code = _code(error)
            if code is grpc.StatusCode.NOT_FOUND:
                raise CollectionMissing.of_collection(_collection(request)) from error
            if code in _REFUSED:
                raise WriteRefused from error
            raise OutcomeUnknown.of("qdrant") from error

    async def _call(self, method: Any, request: Any, *, seconds: float) -> object:
        with self._seconds.labels(type(request).__name__).time():
            return await cast("Awaitable[object]", method(request, timeout=seconds))


def _code(error: Exception) -> grpc.StatusCode:
    return error.code() if isinstance(error, grpc.aio.AioRpcError) else grpc.StatusCode.RESOURCE_EXHAUSTED


def _collection(request: Any) -> str:
    return str(getattr(request, "collection_name", ""))


def _require_completed(result: qdrant.UpdateResult) -> None:
    """Only `Completed` is durable and visible; every other status leaves the outcome open."""
    if result.status != qdrant.UpdateStatus.Completed:
        raise OutcomeUnknown.of("qdrant")
