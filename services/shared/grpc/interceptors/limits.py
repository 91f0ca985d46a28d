"""The last guard against overload: calls in flight per process."""

from services.shared.errors import ResourceExhausted
from services.shared.grpc.interceptors.base import Interceptor, Proceed, Rpc

# A probe must get an answer from a server that is busy.
_EXEMPT = ("/grpc.health.v1.Health/", "/grpc.reflection.", "/scristill.common.v1.ServerInfoService/")


class InFlightLimitInterceptor(Interceptor):
    """Refuses calls beyond the limit at once with RESOURCE_EXHAUSTED and `RetryInfo`."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._in_flight = 0

    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        if rpc.method.startswith(_EXEMPT):
            await proceed()
            return
        if self._in_flight >= self._limit:
            raise ResourceExhausted.of("server", self._limit, f"the server answers {self._limit} calls already")
        self._in_flight += 1
        try:
            await proceed()
        finally:
            self._in_flight -= 1
