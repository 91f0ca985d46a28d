"""Channels to other services.

`connect` gives a `grpc.aio.Channel` for generated stubs whose every call

- has a timeout that the server sees: the one given, else the default for unary calls,
  and never more than what is left of the deadline that the caller itself works under;
- carries the trace context and is measured;
- has a `request_id` if the request knows one, so that repeating it is safe;
- is repeated by the service config when the peer is UNAVAILABLE.

The multicallables are wrapped, not intercepted: grpc.aio's interceptors cost a task per
call and hide parts of the stream API, a wrapper returns the plain call object.
"""

# ruff: noqa: FBT001, FBT002 - signatures of grpc.aio.Channel

import time
import uuid
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, cast

import grpc
import grpc.aio
from google.protobuf.message import Message
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from services.shared import deadlines
from services.shared.grpc.options import client_options
from services.shared.grpc.service_config import default_service_config
from services.shared.telemetry import tracing
from services.shared.telemetry.metrics import DURATION_BUCKETS, Metrics

# What a caller keeps for itself, to turn a late answer into one of its own.
_DEADLINE_MARGIN = 0.05
_MIN_TIMEOUT = 0.001

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]


def connect(
    address: str,
    *,
    metrics: Metrics | None = None,
    default_timeout: float = 10.0,
    service_config: str | None = None,
    credentials: grpc.ChannelCredentials | None = None,
) -> "Channel":
    """Opens a lazy channel to `host:port` or `dns:///name:port`; close it, or use it as a context manager.

    `default_timeout` (seconds) holds for unary calls without a `timeout`; streams get
    none of their own, but inherit the caller's deadline.
    """
    options = client_options(service_config=service_config or default_service_config())
    inner = (
        grpc.aio.insecure_channel(address, options=options)
        if credentials is None
        else grpc.aio.secure_channel(address, credentials, options=options)
    )
    return Channel(inner, metrics=metrics, default_timeout=default_timeout)


class Channel(grpc.aio.Channel):
    def __init__(self, inner: grpc.aio.Channel, *, metrics: Metrics | None, default_timeout: float) -> None:
        self._inner = inner
        self._default_timeout = default_timeout
        self._observer = _Observer(metrics)
        self._takes_request_id: dict[type[Message], bool] = {}

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = None,
    ) -> Any:
        return self._wrap(
            method, self._inner.unary_unary(method, request_serializer, response_deserializer), self._default_timeout
        )

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = None,
    ) -> Any:
        return self._wrap(method, self._inner.unary_stream(method, request_serializer, response_deserializer), None)

    def stream_unary(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = None,
    ) -> Any:
        return self._wrap(method, self._inner.stream_unary(method, request_serializer, response_deserializer), None)

    def stream_stream(
        self,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = None,
    ) -> Any:
        return self._wrap(method, self._inner.stream_stream(method, request_serializer, response_deserializer), None)

    def _wrap(self, method: str, multicallable: Callable[..., Any], default_timeout: float | None) -> Any:
        def call(
            request: Any = None,
            *,
            timeout: float | None = None,
            metadata: Any = None,
            **options: Any,
        ) -> Any:
            if isinstance(request, Message):
                request = self._identified(request)
            limit = effective_timeout(timeout if timeout is not None else default_timeout)
            span = self._observer.start(method)
            started = multicallable(request, timeout=limit, metadata=_with_traceparent(metadata, span), **options)
            self._observer.watch(started, method, span)
            return started

        return call

    def _identified(self, request: Message) -> Message:
        """The request, or a copy with a fresh `request_id` when it has none; the caller's object stays as it is."""
        kind = type(request)
        known = self._takes_request_id.get(kind)
        if known is None:
            known = self._takes_request_id[kind] = "request_id" in request.DESCRIPTOR.fields_by_name
        if not known or cast("Any", request).request_id:
            return request
        identified: Any = kind()
        identified.CopyFrom(request)
        identified.request_id = str(uuid.uuid4())
        return identified

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()


def effective_timeout(own: float | None) -> float | None:
    """The smaller of the own timeout and what is left of the caller's deadline, less a margin; None for neither."""
    remaining = deadlines.remaining()
    if remaining is None:
        return own
    inherited = max(remaining - _DEADLINE_MARGIN, _MIN_TIMEOUT)
    return inherited if own is None else min(own, inherited)


def _with_traceparent(metadata: Any, span: trace.Span) -> Any:
    traceparent = tracing.traceparent_of(span)
    given = tuple(metadata or ())
    return (*given, ("traceparent", traceparent)) if traceparent else given


class _Observer:
    """The client's span and duration of each call, ended by the call's done callback."""

    def __init__(self, metrics: Metrics | None) -> None:
        self._tracer = tracing.tracer()
        self._duration = metrics and metrics.histogram(
            "scristill_rpc_client_duration_seconds",
            "Time from the start of an outgoing call to its status.",
            labels=("method", "code"),
            buckets=DURATION_BUCKETS,
        )

    def start(self, method: str) -> trace.Span:
        name = method[1:]
        return self._tracer.start_span(
            name, kind=SpanKind.CLIENT, attributes={"rpc.system.name": "grpc", "rpc.method": name}
        )

    def watch(self, call: grpc.aio.Call, method: str, span: trace.Span) -> None:
        started = time.perf_counter()

        def done(finished: grpc.aio.Call) -> None:
            code = _code_of(finished)
            if self._duration is not None:
                self._duration.labels(method[1:], code).observe(time.perf_counter() - started)
            if span.is_recording():
                span.set_attribute("rpc.response.status_code", code)
                if code != grpc.StatusCode.OK.name:
                    span.set_status(Status(StatusCode.ERROR))
                    span.set_attribute("error.type", code)
            span.end()

        call.add_done_callback(done)


def _code_of(call: grpc.aio.Call) -> str:
    """The code of a finished call. `code()` is a coroutine that does not suspend once the call is done."""
    step = call.code()
    try:
        step.send(None)
    except StopIteration as finished:
        return finished.value.name
    step.close()
    return grpc.StatusCode.UNKNOWN.name
