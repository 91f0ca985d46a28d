"""What the index holds: digests, points and counts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from services.indexer.application.epochs import Epochs
from services.indexer.application.pace import Pace
from services.indexer.application.ports import FactStore, PointScanner
from services.indexer.domain.digest import DigestTable
from services.indexer.domain.epochs import Catalogue, Epoch
from services.indexer.domain.errors import CollectionMissing
from services.indexer.domain.fact import StoredPoint
from services.indexer.domain.identity import BUCKET_COUNT
from services.shared.clock import Clock

T = TypeVar("T")


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
        return await self._read(
            lambda catalogue: self._digests(
                catalogue.get(epoch), first=first, last=last, max_points_per_second=max_points_per_second
            )
        )

    async def _digests(self, target: Epoch, *, first: int, last: int, max_points_per_second: int) -> Digests:
        buckets = None if (first, last) == (0, BUCKET_COUNT - 1) else range(first, last + 1)
        pace = Pace(self._clock, per_second=max_points_per_second)
        table = DigestTable()
        tombstones = 0
        async for shares in self._scanner.shares(target, buckets=buckets):
            table.add(shares.live)
            tombstones += shares.tombstone_count
            await pace.spent(len(shares.live) + shares.tombstone_count)
        return Digests(epoch=target.number, table=table, tombstone_count=tombstones)

    async def points(self, *, epoch: int, buckets: Collection[int]) -> AsyncIterator[Sequence[StoredPoint]]:
        try:
            target = (await self._epochs.view()).get(epoch)
            async for points in self._scanner.scan(target, buckets=set(buckets)):
                yield points
        except CollectionMissing:
            self._epochs.forget()
            raise

    async def stats(self, *, project_id: str) -> IndexStats:
        return await self._read(lambda catalogue: self._stats(catalogue, project_id=project_id))

    async def _stats(self, catalogue: Catalogue, *, project_id: str) -> IndexStats:
        serving = catalogue.serving
        return IndexStats(
            epochs=[
                EpochSize(epoch=epoch, point_count=await self._facts.approximate_count(epoch))
                for epoch in catalogue.writable
            ],
            live_point_count=await self._facts.count(serving, tombstones=False, project_id=project_id),
            tombstone_count=await self._facts.count(serving, tombstones=True, project_id=project_id),
        )

    async def _read(self, look: Callable[[Catalogue], Awaitable[T]]) -> T:
        """Looks again once: a collection that was wiped is made anew, empty, when the epochs are loaded."""
        try:
            return await look(await self._epochs.view())
        except CollectionMissing:
            self._epochs.forget()
            return await look(await self._epochs.view())
