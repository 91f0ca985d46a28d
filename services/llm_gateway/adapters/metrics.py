"""Metrics of calls to models. Labels are the model and the operation: as many as are configured."""

from services.llm_gateway.application.ports import CallObserver, Sample
from services.llm_gateway.domain.calls import ModelInfo
from services.shared.telemetry.metrics import DURATION_BUCKETS, Metrics

_LABELS = ("model", "operation")


class CallMetrics:
    def __init__(self, metrics: Metrics) -> None:
        self.attempts = metrics.counter(
            "scristill_llm_attempts_total", "Calls to providers that ended.", labels=(*_LABELS, "outcome")
        )
        self.tokens = metrics.counter("scristill_llm_tokens_total", "Tokens used.", labels=(*_LABELS, "direction"))
        self.duration = metrics.histogram(
            "scristill_llm_attempt_duration_seconds",
            "Time from sending a call to a provider to its end.",
            labels=_LABELS,
            buckets=DURATION_BUCKETS,
        )
        self.first_token = metrics.histogram(
            "scristill_llm_first_token_seconds",
            "Time from sending a call to a provider to its first text.",
            labels=_LABELS,
            buckets=DURATION_BUCKETS,
        )

    def of(self, model: ModelInfo) -> CallObserver:
        return _ModelMetrics(self, (model.name, model.operation.value))


class _ModelMetrics:
    def __init__(self, metrics: CallMetrics, labels: tuple[str, str]) -> None:
        self._outcomes = {
            outcome: metrics.attempts.labels(*labels, outcome) for outcome in ("ok", "failed", "throttled")
        }
        self._input = metrics.tokens.labels(*labels, "input")
        self._output = metrics.tokens.labels(*labels, "output")
        self._duration = metrics.duration.labels(*labels)
        self._first_token = metrics.first_token.labels(*labels)

    def attempt_ended(self, sample: Sample) -> None:
        outcome = "throttled" if sample.throttled else "failed" if sample.failed else "ok"
        self._outcomes[outcome].inc()
        self._input.inc(sample.usage.input_tokens)
        self._output.inc(sample.usage.output_tokens)
        self._duration.observe(sample.seconds)
        if sample.first_token_seconds is not None:
            self._first_token.observe(sample.first_token_seconds)
