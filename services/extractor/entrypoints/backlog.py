"""A loop that measures what waits: outbox, dead letters, facts that the index has not acknowledged."""

import asyncio
from datetime import timedelta

import structlog

from services.extractor.application.ports import UnitOfWork
from services.extractor.domain.outbox import Topic
from services.shared.clock import Clock
from services.shared.errors import Unavailable
from services.shared.lifecycle import wait_for_event
from services.shared.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

_PERIOD_SECONDS = 5.0


class BacklogMonitor:
    """All replicas measure the same table: gauges take one value, not the sum."""

    def __init__(self, *, unit_of_work: UnitOfWork, orphan_after: timedelta, clock: Clock, metrics: Metrics) -> None:
        self._unit_of_work = unit_of_work
        self._orphan_after = orphan_after
        self._clock = clock
        self._depth = metrics.gauge(
            "scristill_extractor_outbox_depth", "Intents in the outbox.", labels=("topic",), mode="livemostrecent"
        )
        self._age = metrics.gauge(
            "scristill_extractor_outbox_oldest_age_seconds",
            "Age of the oldest intent in the outbox.",
            labels=("topic",),
            mode="livemostrecent",
        )
        self._dead = metrics.gauge(
            "scristill_extractor_dead_letters", "Intents that can never be applied.", mode="livemostrecent"
        )
        self._orphans = metrics.gauge(
            "scristill_extractor_orphaned_facts",
            "Facts that the index has not acknowledged for longer than the bound.",
            mode="livemostrecent",
        )

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._measure()
            except Unavailable as error:
                logger.warning("backlog_not_measured", error=error.message)
            await wait_for_event(stop, _PERIOD_SECONDS)

    async def _measure(self) -> None:
        async with self._unit_of_work() as repositories:
            backlog = {each.topic: each for each in await repositories.outbox.backlog()}
            self._dead.set(await repositories.outbox.count_dead_letters())
            orphans = await repositories.extractions.unindexed(older_than=self._orphan_after)
        self._orphans.set(orphans)
        now = self._clock.now()
        for topic in Topic:
            found = backlog.get(topic)
            oldest = found.oldest_time if found else None
            self._depth.labels(topic.value).set(found.depth if found else 0)
            self._age.labels(topic.value).set((now - oldest).total_seconds() if oldest else 0)
