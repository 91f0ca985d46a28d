"""`grpc.health.v1` for a server that drains.

Names: `""` and each service by its full name say whether to send calls here; `liveness`
says that the event loop turns and stays SERVING to the end, so that a draining process
is not killed. grpcio's own servicer has no `List`, and its `Watch` would hold the
drain up until the grace is over.
"""

# ruff: noqa: N802, ARG002 - methods and parameters are named by gRPC

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.shared.errors import NotFound
from services.shared.grpc.interceptors.base import Context

LIVENESS = "liveness"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# The stubs of the package lag behind its messages.
_list_response: Callable[..., Message] = health_pb2.HealthListResponse  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):
    """Starts as NOT_SERVING; `serve` and `shut_down` are called once each, in that order."""

    def __init__(self) -> None:
        self._status = {"": _NOT_SERVING, LIVENESS: _SERVING}
        self._changed = asyncio.Event()
        self._ended = False

    def serve(self, services: Iterable[str]) -> None:
        self._set(dict.fromkeys(["", *services], _SERVING))

    def shut_down(self) -> None:
        """Everything but liveness turns NOT_SERVING; watches say so and end."""
        self._ended = True
        self._set({name: _NOT_SERVING for name in self._status if name != LIVENESS})

    def _set(self, status: dict[str, health_pb2.HealthCheckResponse.ServingStatus]) -> None:
        self._status |= status
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        status = self._status.get(request.service)
        if status is None:
            raise NotFound.of("service", request.service)
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, request: Message, context: Context) -> Message:
        statuses = {name: health_pb2.HealthCheckResponse(status=status) for name, status in self._status.items()}
        return _list_response(statuses=statuses)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        last: health_pb2.HealthCheckResponse.ServingStatus | None = None
        while True:
            changed = self._changed
            status = self._status.get(request.service, _UNKNOWN)
            if status != last:
                yield health_pb2.HealthCheckResponse(status=status)
                last = status
            if self._ended:
                return
            await changed.wait()
