"""Removes tombstones that no redelivery can need any more."""

import asyncio
from datetime import timedelta

import structlog
from prometheus_client import Counter

from services.indexer.application.epochs import Epochs
from services.indexer.application.ports import FactStore
from services.shared.clock import Clock
from services.shared.errors import ServiceError
from services.shared.lifecycle import wait_for_event

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
        collected: Counter,
    ) -> None:
        self._epochs = epochs
        self._facts = facts
        self._clock = clock
        self._retention = retention
        self._interval = interval
        self._collected = collected

    async def run(self, stop: asyncio.Event) -> None:
        while not await wait_for_event(stop, self._interval.total_seconds()):
            try:
                await self.collect()
            except ServiceError as error:
                logger.warning("tombstones_not_collected", reason=error.reason.name, message=error.message)

    async def collect(self) -> int:
        """One sweep over all epochs. Replicas may sweep at the same time: each tombstone goes once."""
        older_than = self._clock.now() - self._retention
        total = 0
        for epoch in (await self._epochs.view()).writable:
            while found := await self._facts.collect_tombstones(epoch, older_than=older_than, limit=_PAGE):
                total += found
        self._collected.inc(total)
        if total:
            logger.info("tombstones_collected", count=total)
        return total
