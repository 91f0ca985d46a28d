"""A loop that shows the queues in front of the models as gauges."""

import asyncio

from services.llm_gateway.application.catalogue import Catalogue
from services.shared.lifecycle import wait_for_event
from services.shared.telemetry.metrics import Metrics

_INTERVAL_SECONDS = 1.0
_LABELS = ("model", "operation")


class QueueReporter:
    def __init__(self, catalogue: Catalogue, metrics: Metrics) -> None:
        self._catalogue = catalogue
        self._in_flight = metrics.gauge("scristill_llm_in_flight", "Calls that run.", labels=_LABELS)
        self._waiting = metrics.gauge("scristill_llm_waiting", "Requests that wait for a model.", labels=_LABELS)
        self._limit = metrics.gauge("scristill_llm_concurrency_limit", "Calls that may run.", labels=_LABELS)
        self._gate = metrics.gauge(
            "scristill_llm_gate_seconds",
            "How long the gate of a `Retry-After` stays shut.",
            labels=_LABELS,
            mode="livemax",
        )

    async def run(self, stop: asyncio.Event) -> None:
        self._report()
        while not await wait_for_event(stop, _INTERVAL_SECONDS):
            self._report()

    def _report(self) -> None:
        for model, queue in self._catalogue.queues():
            labels = (model.name, model.operation.value)
            self._in_flight.labels(*labels).set(queue.in_flight)
            self._waiting.labels(*labels).set(queue.waiting)
            self._limit.labels(*labels).set(queue.concurrency_limit)
            self._gate.labels(*labels).set(queue.gate_seconds)
