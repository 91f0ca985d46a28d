"""Removes tombstones that no redelivery can need any more."""

import asyncio
from datetime import timedelta

import structlog

from services.indexer.application.epochs import Epochs
from services.indexer.application.ports import FactStore
from services.indexer.domain.errors import CollectionMissing
from services.shared.clock import Clock
from services.shared.errors import ServiceError
from services.shared.lifecycle import wait_for_event
from services.shared.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

_PAGE = 500


class TombstoneCollector:
    """`retention` must exceed the longest time after which an old intent may still arrive."""

    def __init__(
        self,
        *,
        epochs: Epochs,
        facts: FactStore,
        clock: Clock,
        retention: timedelta,
        interval: timedelta,
        metrics: Metrics,
    ) -> None:
        self._epochs = epochs
        self._facts = facts
        self._clock = clock
        self._retention = retention
        self._interval = interval
        self._collected = metrics.counter(
            "scristill_indexer_tombstones_collected_total", "Tombstones removed after their retention."
        )
        self._kept = metrics.gauge(
            "scristill_indexer_tombstones",
            "Tombstones in the epoch that is searched, as the last sweep left them.",
            mode="livemostrecent",
        )
        self._swept = metrics.gauge(
            "scristill_indexer_tombstones_swept_timestamp_seconds",
            "When a sweep over old tombstones last came to its end, in Unix time.",
            mode="livemostrecent",
        )

    async def run(self, stop: asyncio.Event) -> None:
        while not await wait_for_event(stop, self._interval.total_seconds()):
            try:
                await self.collect()
            except ServiceError as error:
                if isinstance(error, CollectionMissing):
                    self._epochs.forget()
                logger.warning("tombstones_not_collected", reason=error.reason.name, message=error.message)

    async def collect(self) -> int:
        """One sweep over all epochs. Replicas may sweep at the same time: each tombstone goes once."""
        older_than = self._clock.now() - self._retention
        total = 0
        catalogue = await self._epochs.view()
        for epoch in catalogue.writable:
            while found := await self._facts.collect_tombstones(epoch, older_than=older_than, limit=_PAGE):
                total += found
        self._collected.inc(total)
        self._kept.set(await self._facts.count(catalogue.serving, tombstones=True))
        self._swept.set(self._clock.now().timestamp())
        if total:
            logger.info("tombstones_collected", count=total)
        return total
