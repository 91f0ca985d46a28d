"""The server span of each call, a child of the caller's span (W3C `traceparent` in the metadata)."""

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from services.shared.errors import Code, ServiceError
from services.shared.grpc.interceptors.base import Interceptor, Proceed, Rpc
from services.shared.telemetry import tracing

# Codes that are the server's fault, by the RPC semantic conventions.
_SERVER_FAULTS = frozenset(
    {Code.UNKNOWN, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS}
)


class TracingInterceptor(Interceptor):
    """Names and attributes follow semantic conventions 1.45 (`rpc.system.name`, `rpc.method` …)."""

    def __init__(self) -> None:
        self._tracer = tracing.tracer()

    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        span = self._tracer.start_span(
            rpc.name,
            context=tracing.extract(rpc.metadata("traceparent"), rpc.metadata("tracestate")),
            kind=SpanKind.SERVER,
            attributes={"rpc.system.name": "grpc", "rpc.method": rpc.name},
        )
        token = otel_context.attach(trace.set_span_in_context(span))
        try:
            await proceed()
        except BaseException as error:
            rpc.record(error)
            raise
        finally:
            otel_context.detach(token)
            if span.is_recording():
                _describe(span, rpc)
            span.end()


def _describe(span: trace.Span, rpc: Rpc) -> None:
    span.set_attribute("rpc.response.status_code", rpc.code.name)
    span.set_attribute("network.peer.address", rpc.context.peer())
    attempts = rpc.metadata("grpc-previous-rpc-attempts")
    if attempts:
        span.set_attribute("scristill.rpc.previous_attempts", int(attempts))
    if isinstance(rpc.error, ServiceError):
        span.set_attribute("scristill.error.reason", rpc.error.reason.name)
    if rpc.code in _SERVER_FAULTS:
        span.set_status(Status(StatusCode.ERROR))
        span.set_attribute("error.type", rpc.code.name)
