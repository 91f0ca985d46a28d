"""What the index holds: digests, points and counts."""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass

from services.indexer.application.epochs import Epochs
from services.indexer.application.pace import Pace
from services.indexer.application.ports import FactStore, PointScanner
from services.indexer.domain.digest import DigestTable
from services.indexer.domain.epochs import Epoch
from services.indexer.domain.fact import StoredPoint
from services.indexer.domain.identity import BUCKET_COUNT
from services.shared.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Digests:
    epoch: int
    table: DigestTable
    tombstone_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSize:
    epoch: Epoch
    point_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStats:
    epochs: Sequence[EpochSize]
    live_point_count: int
    tombstone_count: int


class InspectIndex:
    def __init__(self, *, epochs: Epochs, facts: FactStore, scanner: PointScanner, clock: Clock) -> None:
        self._epochs = epochs
        self._facts = facts
        self._scanner = scanner
        self._clock = clock

    async def digests(self, *, epoch: int, first: int, last: int, max_points_per_second: int) -> Digests:
        """Reads every point of the buckets once; memory does not depend on how many there are."""
        target = (await self._epochs.view()).get(epoch)
        buckets = None if (first, last) == (0, BUCKET_COUNT - 1) else range(first, last + 1)
        pace = Pace(self._clock, per_second=max_points_per_second)
        table = DigestTable()
        tombstones = 0
        async for points in self._scanner.scan(target, buckets=buckets):
            tombstones += _accumulate(table, points)
            await pace.spent(len(points))
        return Digests(epoch=target.number, table=table, tombstone_count=tombstones)

    async def points(self, *, epoch: int, buckets: Collection[int]) -> AsyncIterator[Sequence[StoredPoint]]:
        target = (await self._epochs.view()).get(epoch)
        async for points in self._scanner.scan(target, buckets=set(buckets), full=True):
            yield points

    async def stats(self, *, project_id: str) -> IndexStats:
        catalogue = await self._epochs.view()
        serving = catalogue.serving
        return IndexStats(
            epochs=[
                EpochSize(epoch=epoch, point_count=await self._facts.approximate_count(epoch))
                for epoch in catalogue.writable
            ],
            live_point_count=await self._facts.count(serving, tombstones=False, project_id=project_id),
            tombstone_count=await self._facts.count(serving, tombstones=True, project_id=project_id),
        )


def _accumulate(table: DigestTable, points: Sequence[StoredPoint]) -> int:
    """Adds the live points; returns how many tombstones were among them."""
    tombstones = 0
    for point in points:
        if point.tombstone:
            tombstones += 1
        else:
            table.add(
                fact_id=point.fact_id,
                version=point.version,
                content_hash=point.content_hash,
                epoch=point.epoch,
            )
    return tombstones
