"""The server that every service runs: its servicers plus health, reflection and server info.

`start` binds and serves; `shut_down` says NOT_SERVING without refusing anything;
`stop(grace)` refuses new calls and waits for running ones. The order between these and
everything else that must stop is `services.shared.process`'s business.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar, cast

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from scristill.common.v1 import server_info_service_pb2_grpc

from services.shared.grpc.health import Health
from services.shared.grpc.info import ServerInfo
from services.shared.grpc.interceptors.base import Handler, InterceptorChain, MaybeHandler
from services.shared.grpc.options import server_options

ServicerT = TypeVar("ServicerT")

Registration = Callable[[grpc.aio.Server], None]


def register(add: Callable[[ServicerT, grpc.aio.Server], None], servicer: ServicerT) -> Registration:
    """Pairs generated `add_XServicer_to_server` with the servicer; the server calls it when it is built."""
    return partial(add, servicer)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    host: str = "127.0.0.1"
    port: int = 0
    share_port: bool = False
    reflection: bool = True
    max_connection_age_seconds: float = 0.0
    credentials: grpc.ServerCredentials | None = None
    """TLS when set, plain text otherwise."""


class GrpcServer:
    def __init__(
        self,
        *,
        options: ServerOptions,
        chain: InterceptorChain,
        info: ServerInfo,
        registrations: Sequence[Registration],
    ) -> None:
        self._options = options
        self._health = Health()
        self._server = grpc.aio.server(
            options=server_options(
                share_port=options.share_port, max_connection_age_seconds=options.max_connection_age_seconds
            ),
        )
        methods = _Methods(chain)
        for add in (
            *registrations,
            register(server_info_service_pb2_grpc.add_ServerInfoServiceServicer_to_server, info),
            register(_add_health_servicer, self._health),
        ):
            add(cast("grpc.aio.Server", methods))
        self.services: tuple[str, ...] = tuple(methods.services)
        """Full names of what is served, health included."""
        if options.reflection:
            _add_reflection_servicer((*self.services, reflection.SERVICE_NAME), methods)
        self._server.add_generic_rpc_handlers((methods,))

    async def start(self) -> int:
        """Binds, serves, turns SERVING. Returns the port. Raises `OSError` when the address is taken."""
        host = f"[{self._options.host}]" if ":" in self._options.host else self._options.host
        address = f"{host}:{self._options.port}"
        try:
            if self._options.credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._options.credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        await self._server.start()
        self._health.serve(self.services)
        return port

    def shut_down(self) -> None:
        self._health.shut_down()

    async def stop(self, grace: float) -> None:
        """Refuses new calls, lets running ones finish for `grace` seconds, cancels the rest."""
        await self._server.stop(grace)


def _add_health_servicer(servicer: Health, server: grpc.aio.Server) -> None:
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)  # pyright: ignore[reportUnknownMemberType]


def _add_reflection_servicer(services: Sequence[str], methods: "_Methods") -> None:
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # pyright: ignore[reportUnknownMemberType]
        reflection.aio.ReflectionServicer(services), methods
    )


class _Methods(grpc.GenericRpcHandler):
    """Stands in for the server while servicers are added; then it finds the handler of each call, chain included.

    The server gets no handlers by name: it keeps a future for each of these, and waits for all of them at every call.
    """

    def __init__(self, chain: InterceptorChain) -> None:
        self._chain = chain
        self._handlers: dict[str, Handler] = {}
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Generated code calls this with the methods that it then registers by name."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Handler]) -> None:
        self.services.append(service_name)
        for name, handler in method_handlers.items():
            method = f"/{service_name}/{name}"
            self._handlers[method] = self._chain.around(method, handler)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> MaybeHandler:
        return self._handlers.get(handler_call_details.method)
