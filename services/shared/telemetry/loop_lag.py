"""How late the event loop runs: the one number that shows blocking code."""

import asyncio
import time
from dataclasses import dataclass, field

import structlog

from services.shared.lifecycle import wait_for_event
from services.shared.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class LoopLag:
    """Measures how much later than asked a short sleep ends. `worst` is the largest value since `reset`."""

    interval: float = 0.05
    worst: float = field(default=0.0, init=False)

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            before = time.perf_counter()
            await wait_for_event(stop, self.interval)
            self.worst = max(self.worst, time.perf_counter() - before - self.interval)

    def reset(self) -> float:
        """Returns the worst lag and starts anew."""
        worst, self.worst = self.worst, 0.0
        return worst


class LoopLagReporter:
    """The loop that every service runs: the worst lag of each period as a gauge, and a warning above the limit."""

    def __init__(self, metrics: Metrics, *, period: float = 5.0, warn_above: float = 0.25) -> None:
        self._gauge = metrics.gauge(
            "scristill_event_loop_lag_seconds",
            "Worst delay of the event loop in the last five seconds.",
            mode="livemax",
        )
        self._period = period
        self._warn_above = warn_above

    async def run(self, stop: asyncio.Event) -> None:
        lag = LoopLag()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lag.run(stop), name="loop-lag")
            while not await wait_for_event(stop, self._period):
                worst = lag.reset()
                self._gauge.set(worst)
                if worst > self._warn_above:
                    logger.warning("event_loop_blocked", lag_ms=round(worst * 1000))
