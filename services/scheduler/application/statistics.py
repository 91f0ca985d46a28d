"""Queue and duration statistics, read at most once a second however many ask."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from services.scheduler.application.ports import DurationStats, QueueStats, Statistics
from services.scheduler.application.rounds import rounds
from services.scheduler.application.telemetry import SchedulerMetrics
from services.shared.clock import Clock

DEFAULT_WINDOW = timedelta(hours=1)

_FRESH_SECONDS = 1.0
_METRICS_WINDOW = timedelta(minutes=5)
_CACHED_ANSWERS = 256

Key = tuple[tuple[str, ...], bool, timedelta]
Answer = tuple[Sequence[QueueStats], Sequence[DurationStats]]


class QueueStatistics:
    def __init__(self, *, statistics: Statistics, metrics: SchedulerMetrics, clock: Clock, interval: timedelta) -> None:
        self._statistics = statistics
        self._metrics = metrics
        self._clock = clock
        self._interval = interval.total_seconds()
        self._answers: dict[Key, tuple[float, Answer]] = {}
        self._reading = asyncio.Lock()

    async def get(self, types: Sequence[str], *, by_project: bool, window: timedelta) -> Answer:
        """At most a second old. Readers wait for each other, so that a dashboard cannot pile up queries."""
        key = (tuple(types), by_project, window)
        async with self._reading:
            known = self._answers.get(key)
            now = self._clock.monotonic()
            if known is not None and now - known[0] < _FRESH_SECONDS:
                return known[1]
            answer = (
                await self._statistics.queues(types, by_project=by_project),
                await self._statistics.durations(types, window=window),
            )
            if len(self._answers) >= _CACHED_ANSWERS:
                self._answers.clear()
            self._answers[key] = (self._clock.monotonic(), answer)
        return answer

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps the gauges up to date."""
        await rounds(self._show, name="statistics", stop=stop)

    async def _show(self) -> float:
        queues, durations = await self.get((), by_project=False, window=_METRICS_WINDOW)
        self._metrics.show_queues(queues)
        self._metrics.show_durations(durations)
        return self._interval
