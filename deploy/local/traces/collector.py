"""The OTLP/gRPC trace service, with health, writing spans to a rotating file."""

import asyncio
import base64
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from deploy.local.rotation import RotatingFile
from deploy.local.traces.spans import KEEP, MAX_BYTES, Attribute, Link, Span, span_file

SERVICE = "opentelemetry.proto.collector.trace.v1.TraceService"
STOP_SECONDS = 2.0
KINDS = {
    trace_pb2.Span.SPAN_KIND_SERVER: "server",
    trace_pb2.Span.SPAN_KIND_CLIENT: "client",
    trace_pb2.Span.SPAN_KIND_PRODUCER: "producer",
    trace_pb2.Span.SPAN_KIND_CONSUMER: "consumer",
}
STATUSES = {trace_pb2.Status.STATUS_CODE_OK: "ok", trace_pb2.Status.STATUS_CODE_ERROR: "error"}


async def serve(*, directory: Path, host: str, port: int) -> None:
    """Until SIGTERM or SIGINT. Raises OSError when the port is taken."""
    spans = RotatingFile(path=span_file(directory), max_bytes=MAX_BYTES, keep=KEEP)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_trace_service(spans),))
    # grpc_health ships no types.
    cast("Any", health_pb2_grpc).add_HealthServicer_to_server(cast("Any", health).aio.HealthServicer(), server)
    if server.add_insecure_port(f"{host}:{port}") == 0:
        raise OSError(f"port {port} is taken")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await server.start()
    await stop.wait()
    await server.stop(STOP_SECONDS)
    spans.close()


def _trace_service(file: RotatingFile) -> grpc.GenericRpcHandler:
    async def export(request: ExportTraceServiceRequest, _: object) -> ExportTraceServiceResponse:
        file.write(b"".join(span.to_line() for span in spans_of(request)))
        return ExportTraceServiceResponse()

    handler = grpc.unary_unary_rpc_method_handler(
        cast("Any", export),
        request_deserializer=ExportTraceServiceRequest.FromString,
        response_serializer=ExportTraceServiceResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Export": handler})


def spans_of(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource_spans in request.resource_spans:
        service = str(_attributes(resource_spans.resource.attributes).get("service.name", "unknown"))
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _span(span, service)


def _span(span: trace_pb2.Span, service: str) -> Span:
    return Span(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        name=span.name,
        service=service,
        kind=KINDS.get(span.kind, "internal"),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        status=STATUSES.get(span.status.code, "unset"),
        message=span.status.message,
        attributes=_attributes(span.attributes),
        links=tuple(Link(trace_id=link.trace_id.hex(), span_id=link.span_id.hex()) for link in span.links),
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, Attribute]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Attribute:
    match value.WhichOneof("value"):
        case "array_value":
            return [_value(item) for item in value.array_value.values]
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case "bytes_value":
            return base64.b64encode(value.bytes_value).decode()
        case None:
            return None
        case field:
            return getattr(value, field)
