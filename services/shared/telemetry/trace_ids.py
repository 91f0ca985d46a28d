"""Trace ids without spans, for processes that export none.

Logs of all services share the id of a call, and rows keep it, whether spans are recorded or
not. A span of the SDK that is sampled out still costs a sampler, attributes and a resource;
here it is a pair of numbers.
"""

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext


class IdsOnlyProvider(trace.TracerProvider):
    def get_tracer(self, *_names: Any, **_more: Any) -> trace.Tracer:
        return _IdsOnlyTracer()

    def shutdown(self) -> None:
        """There is nothing to flush."""


class _IdsOnlyTracer(trace.Tracer):
    def start_span(self, name: str, context: Context | None = None, *_options: Any, **_more: Any) -> Span:  # noqa: ARG002
        """A new span id in the trace of the parent, whose decision to record travels on; without one, a new trace."""
        parent = trace.get_current_span(context).get_span_context()
        span_id = random.getrandbits(64)
        if parent.is_valid:
            own = SpanContext(parent.trace_id, span_id, False, parent.trace_flags, parent.trace_state)
        else:
            own = SpanContext(random.getrandbits(128), span_id, is_remote=False)
        return NonRecordingSpan(own)

    @contextmanager
    def start_as_current_span(  # pyright: ignore[reportIncompatibleMethodOverride] - no spans to decorate functions with
        self, name: str, context: Context | None = None, *_options: Any, **_more: Any
    ) -> Generator[Span]:
        with trace.use_span(self.start_span(name, context)) as span:
            yield span
