"""Fills the epoch that is being built from the one that is searched.

Every fact, tombstones included, is brought over as an ordinary intent under the version
guard, so it can neither overwrite what arrived meanwhile nor bring a deleted fact back.
No progress is stored: a pass reads what the new epoch holds and adds what is missing or
older. Buckets are taken in random order, so that replicas share the work.
"""

import asyncio
from collections.abc import Sequence
from random import Random

import structlog
from prometheus_client import Counter

from services.indexer.application.apply_intents import ApplyIntents
from services.indexer.application.epochs import Epochs
from services.indexer.application.ports import FactStore, PointScanner
from services.indexer.domain.epochs import Epoch, EpochState
from services.indexer.domain.errors import CollectionMissing
from services.indexer.domain.fact import StoredPoint
from services.indexer.domain.identity import BUCKET_COUNT, embedding_id
from services.indexer.domain.versions import Verdict, overwrites
from services.shared.errors import ServiceError
from services.shared.lifecycle import wait_for_event

logger = structlog.stdlib.get_logger(__name__)

_STRIDE = 64
_BATCH = 128


class Backfill:
    def __init__(
        self,
        *,
        epochs: Epochs,
        facts: FactStore,
        scanner: PointScanner,
        apply: ApplyIntents,
        rng: Random,
        interval_seconds: float,
        copied: Counter,
    ) -> None:
        self._epochs = epochs
        self._facts = facts
        self._scanner = scanner
        self._apply = apply
        self._rng = rng
        self._interval = interval_seconds
        self._copied = copied

    async def run(self, stop: asyncio.Event) -> None:
        while not await wait_for_event(stop, self._interval):
            try:
                await self.fill(stop)
            except ServiceError as error:
                if isinstance(error, CollectionMissing):
                    self._epochs.forget()
                logger.warning("backfill_interrupted", reason=error.reason.name, message=error.message)

    async def fill(self, stop: asyncio.Event) -> int:
        """One pass; returns how many facts it brought over. Ends early when told to stop or the epoch is no more."""
        starts = list(range(0, BUCKET_COUNT, _STRIDE))
        self._rng.shuffle(starts)
        total = 0
        for start in starts:
            catalogue = await self._epochs.view()
            target = next((epoch for epoch in catalogue.epochs if epoch.state is EpochState.BUILDING), None)
            if target is None or stop.is_set():
                break
            total += await self._fill_buckets(catalogue.serving, target, range(start, start + _STRIDE))
        if total:
            logger.info("backfill_pass_done", copied=total)
        return total

    async def _fill_buckets(self, source: Epoch, target: Epoch, buckets: range) -> int:
        copied = 0
        async for points in self._scanner.scan(source, buckets=buckets):
            for at in range(0, len(points), _BATCH):
                copied += await self._copy(source, target, points[at : at + _BATCH])
        return copied

    async def _copy(self, source: Epoch, target: Epoch, points: Sequence[StoredPoint]) -> int:
        ids = {point.fact_id: embedding_id(target.number, point.fact_id) for point in points}
        held = await self._facts.states(target, ids.values())
        missing = [point.embedding_id for point in points if overwrites(point.version, held.get(ids[point.fact_id]))]
        if not missing:
            return 0
        intents = await self._facts.intents(source, missing)
        result = await self._apply.to_epoch(target, intents)
        copied = sum(verdict is Verdict.APPLIED for verdict in result.verdicts)
        self._copied.inc(copied)
        return copied
