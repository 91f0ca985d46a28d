"""Prometheus metrics of one process.

`Metrics` is handed to whoever measures, and each component registers its own once.
With several worker processes (`<P>_WORKERS`) every process writes its values to files
under `PROMETHEUS_MULTIPROC_DIR`, which the supervising process sets and sums up, so
that a service has one metrics port however many workers it has. Gauges are then summed
over living processes unless they say otherwise.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

MetricT = TypeVar("MetricT", Counter, Gauge, Histogram)

GaugeMode = Literal["livesum", "livemax", "livemin", "livemostrecent"]


class Metrics:
    """Creates metrics in one registry; asking for a name again gives the same metric.

    Names start with `scristill_`; label sets are constant and small.
    """

    def __init__(self) -> None:
        # A `_created` series beside each counter and histogram is half of the page, and nobody reads it.
        disable_created_metrics()
        self.registry = CollectorRegistry(auto_describe=True)
        self._known: dict[str, Any] = {}

    def counter(self, name: str, description: str, *, labels: Sequence[str] = ()) -> Counter:
        return self._once(name, lambda: Counter(name, description, labels, registry=self.registry))

    def gauge(self, name: str, description: str, *, labels: Sequence[str] = (), mode: GaugeMode = "livesum") -> Gauge:
        return self._once(
            name, lambda: Gauge(name, description, labels, registry=self.registry, multiprocess_mode=mode)
        )

    def histogram(
        self,
        name: str,
        description: str,
        *,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = DURATION_BUCKETS,
    ) -> Histogram:
        return self._once(name, lambda: Histogram(name, description, labels, registry=self.registry, buckets=buckets))

    def _once(self, name: str, create: Callable[[], MetricT]) -> MetricT:
        if name not in self._known:
            self._known[name] = create()
        return self._known[name]

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class WorkerMetrics(Metrics):
    """What the supervisor exposes: the sum over the files of its workers."""

    def __init__(self, directory: str) -> None:
        super().__init__()
        MultiProcessCollector(self.registry, path=directory)


def in_worker_process() -> bool:
    return MULTIPROCESS_DIRECTORY in os.environ
