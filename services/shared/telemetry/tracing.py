"""Spans and the trace context that travels in metadata and in rows.

Without `OTEL_EXPORTER_OTLP_ENDPOINT` no span is recorded or exported, but every call
still has a trace id, which the log lines of all services share. A row that leads to
work later keeps `current_traceparent()`; the worker starts a trace of its own that
links back to it, because one attempt of a job is not a child of a call that ended
long before.
"""

import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from services.shared.telemetry.trace_ids import IdsOnlyProvider

Provider = TracerProvider | IdsOnlyProvider

_PROPAGATOR = TraceContextTextMapPropagator()


def configure(*, service: str, version: str, instance: str | None = None) -> Provider:
    """Installs the process-wide provider; the caller shuts it down last, which flushes it."""
    if os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        provider = _exporting(service=service, version=version, instance=instance)
    else:
        provider = IdsOnlyProvider()
    trace.set_tracer_provider(provider)
    return provider


def _exporting(*, service: str, version: str, instance: str | None) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415 - half a second to import
        OTLPSpanExporter,
    )

    resource = Resource.create(
        {
            "service.name": f"scristill-{service.replace('_', '-')}",
            "service.version": version,
            "service.instance.id": instance or f"{socket.gethostname()}-{os.getpid()}",
        }
    )
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


@cache
def tracer() -> trace.Tracer:
    """Of the provider that is installed, or will be."""
    return trace.get_tracer("scristill")


def extract(traceparent: str | None, tracestate: str | None = None) -> Context:
    """The context of the caller; an empty one when there is none or it is malformed."""
    if not traceparent:
        return Context()
    carrier = {"traceparent": traceparent}
    if tracestate:
        carrier["tracestate"] = tracestate
    return _PROPAGATOR.extract(carrier, context=Context())


def current_traceparent() -> str:
    """W3C `traceparent` of the current span, to be stored or sent; empty outside of any."""
    return traceparent_of(trace.get_current_span())


def traceparent_of(span: Span) -> str:
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def current_trace_id() -> str:
    """For log lines; empty outside of any span."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else ""


def link_from(traceparent: str) -> Link | None:
    """A link to the span that a stored `traceparent` names; None when it is empty or malformed."""
    context = trace.get_current_span(extract(traceparent)).get_span_context()
    return Link(context) if context.is_valid else None


@contextmanager
def span(
    name: str,
    *,
    attributes: Mapping[str, AttributeValue] | None = None,
    kind: SpanKind = SpanKind.INTERNAL,
    linked_to: str | None = None,
) -> Generator[Span]:
    """Runs the block in a span. With `linked_to` (a stored traceparent) it is a new trace that links back."""
    link = link_from(linked_to) if linked_to else None
    with tracer().start_as_current_span(
        name,
        context=Context() if linked_to is not None else None,
        kind=kind,
        attributes=attributes,
        links=[link] if link else None,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR))
            current.set_attribute("error.type", type(error).__name__)
            raise
