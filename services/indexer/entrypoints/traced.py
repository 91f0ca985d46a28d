"""The span of a batch, linked to the transactions that stated its intents."""

from collections.abc import Iterator, Sequence
from itertools import islice

from opentelemetry.context import Context
from opentelemetry.trace import Link

from services.indexer.application.intake import Apply
from services.indexer.domain.fact import Intent
from services.indexer.domain.outcome import Ack
from services.shared.telemetry import tracing

_MAX_LINKS = 32


class TracedApply:
    """Wraps the use case; many callers share a batch, so it is a trace of its own and nobody's child."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply

    async def __call__(self, intents: Sequence[Intent]) -> list[Ack]:
        with tracing.tracer().start_as_current_span(
            "indexer.apply_batch",
            context=Context(),
            attributes={"scristill.batch.size": len(intents)},
            links=list(islice(_links(intents), _MAX_LINKS)),
        ):
            return await self._apply(intents)


def _links(intents: Sequence[Intent]) -> Iterator[Link]:
    """Links to spans that are exported; the others lead nowhere and are not worth the reading."""
    for traceparent in dict.fromkeys(intent.traceparent for intent in intents):
        link = tracing.link_from(traceparent)
        if link is not None and link.context.trace_flags.sampled:
            yield link
