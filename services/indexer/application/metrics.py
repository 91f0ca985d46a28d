"""What the indexer measures, beside the calls that the shared runtime measures already."""

from services.shared.telemetry.metrics import Metrics

_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


class IntakeMetrics:
    def __init__(self, metrics: Metrics) -> None:
        self._acks = metrics.counter(
            "scristill_indexer_acks_total", "Intents acknowledged, by outcome.", labels=("outcome",)
        )
        self._size = metrics.histogram(
            "scristill_indexer_batch_size", "Intents written together.", buckets=_SIZE_BUCKETS
        )
        self._seconds = metrics.histogram(
            "scristill_indexer_batch_duration_seconds", "Time from the start of a batch to its acknowledgements."
        )
        self.in_flight = metrics.gauge(
            "scristill_indexer_in_flight", "Intents held without an acknowledgement, over all streams."
        )

    def batch(self, *, size: int, seconds: float) -> None:
        self._size.observe(size)
        self._seconds.observe(seconds)

    def acknowledged(self, outcome: str) -> None:
        self._acks.labels(outcome).inc()
