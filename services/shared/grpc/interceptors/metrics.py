"""Rate, errors and duration of every RPC, and the messages of streams."""

from services.shared.grpc.interceptors.base import Interceptor, Proceed, Rpc
from services.shared.telemetry.metrics import DURATION_BUCKETS, Metrics


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

    async def intercept(self, rpc: Rpc, proceed: Proceed) -> None:
        in_flight = self._in_flight.labels(rpc.name)
        in_flight.inc()
        try:
            await proceed()
        except BaseException as error:
            rpc.record(error)
            raise
        finally:
            in_flight.dec()
            self._duration.labels(rpc.name, rpc.code.name).observe(rpc.elapsed)
            if rpc.streaming:
                self._messages.labels(rpc.name, "received").inc(rpc.received)
                self._messages.labels(rpc.name, "sent").inc(rpc.sent)
