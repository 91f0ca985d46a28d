"""Rate, errors and duration of every RPC, and the messages of streams."""

from dataclasses import dataclass, field

from prometheus_client import Gauge, Histogram

from services.shared.errors import Code
from services.shared.grpc.interceptors.base import Interceptor, Proceed, Rpc
from services.shared.telemetry.metrics import DURATION_BUCKETS, Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    """What a method moves; looking a series up by its labels costs more than moving it."""

    in_flight: Gauge
    durations: dict[Code, Histogram] = field(default_factory=dict[Code, Histogram])


class MetricsInterceptor(Interceptor):
    def __init__(self, metrics: Metrics) -> None:
        self._duration = metrics.histogram(
            "scristill_rpc_server_duration_seconds",
            "Time from the arrival of a call to its status.",
            labels=("method", "code"),
            buckets=DURATION_BUCKETS,
        )
        self._in_flight = metrics.gauge(
            "scristill_rpc_server_in_flight", "Calls that are being answered.", labels=("method",)
        )
        self._messages = metrics.counter(
            "scristill_rpc_server_stream_messages_total",
            "Messages of streams, counted when the stream ends.",
            labels=("method", "direction"),
        )
        self._series: dict[str, _Series] = {}

    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        series = self._series.get(rpc.method)
        if series is None:
            series = self._series[rpc.method] = _Series(in_flight=self._in_flight.labels(rpc.name))
        series.in_flight.inc()
        try:
            await proceed()
        except BaseException as error:
            rpc.record(error)
            raise
        finally:
            series.in_flight.dec()
            duration = series.durations.get(rpc.code)
            if duration is None:
                duration = series.durations[rpc.code] = self._duration.labels(rpc.name, rpc.code.name)
            duration.observe(rpc.elapsed)
            if rpc.streaming:
                self._messages.labels(rpc.name, "received").inc(rpc.received)
                self._messages.labels(rpc.name, "sent").inc(rpc.sent)
