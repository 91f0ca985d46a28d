"""One trace per command: its id is what the user can show to whoever runs the stack."""

import logging
import os
from collections.abc import Generator
from contextlib import contextmanager

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from services.cli.version import suite_version
from services.shared.telemetry import tracing

EXPORT_SECONDS = "1"
"""A command does not wait longer for a collector that is gone."""


@contextmanager
def traced(name: str, *, endpoint: str | None) -> Generator[str]:
    """Runs the block as the root span of a new trace and yields the trace id. Spans are sent at the end."""
    provider = _configure(endpoint)
    try:
        with tracing.span(name):
            yield tracing.current_trace_id()
    finally:
        provider.shutdown()


@contextmanager
def untraced() -> Generator[None]:
    """Calls inside belong to no trace that is kept: polling would drown the rest of it."""
    ids = SpanContext(
        trace_id=_random_id(bits=128),
        span_id=_random_id(bits=64),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.DEFAULT),
    )
    span = NonRecordingSpan(ids)
    token = otel_context.attach(trace.set_span_in_context(span))
    try:
        yield
    finally:
        otel_context.detach(token)


def _configure(endpoint: str | None) -> tracing.Provider:
    if endpoint:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        os.environ.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", EXPORT_SECONDS)
    # A collector that is down is no concern of the user's command.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    return tracing.configure(service="cli", version=suite_version())


def _random_id(*, bits: int) -> int:
    return int.from_bytes(os.urandom(bits // 8)) or 1
