"""Deletion of a source with proof: nothing of it is left in PostgreSQL, and the index holds only tombstones."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from services.extractor.application.ports import IndexAudit, UnitOfWork, Wake
from services.extractor.application.sources import delete_source
from services.extractor.domain.outbox import Topic
from services.extractor.domain.reconciliation import bucket_of

_LOOK_SECONDS = 0.1
_BUCKETS_TOGETHER = 256
_SERVING = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionCertificate:
    """What was removed, and what the index still finds of it, which is nothing."""

    fact_count: int
    chunk_count: int
    point_count: int
    cached_result_count: int
    remaining_point_count: int
    fact_digest: bytes
    token: str
    """By which a search sees that they are gone."""


class CertifyDeletion:
    def __init__(self, *, unit_of_work: UnitOfWork, index: IndexAudit, wake: Wake) -> None:
        self._unit_of_work = unit_of_work
        self._index = index
        self._wake = wake

    async def __call__(self, source_id: UUID) -> DeletionCertificate:
        """Deletes the source at once, then waits until the index has acknowledged every tombstone.

        The wait ends with the deadline of the caller; what was deleted stays deleted.
        """
        async with self._unit_of_work() as repositories:
            await repositories.sources.lock([source_id])
            fact_ids = await repositories.facts.ids(source_id)
            chunk_count, result_count = await repositories.sources.count_chunks(source_id)
            deleted = await delete_source(repositories, source_id)
        self._wake(Topic.FACT)
        self._wake(Topic.JOB)
        await self._acknowledged(fact_ids)
        tombstones, remaining = await self._look(source_id, fact_ids)
        return DeletionCertificate(
            fact_count=len(fact_ids),
            chunk_count=chunk_count,
            point_count=tombstones,
            cached_result_count=result_count,
            remaining_point_count=remaining,
            fact_digest=sha256(b"".join(fact_id.bytes for fact_id in fact_ids)).digest(),
            token=deleted.token,
        )

    async def _acknowledged(self, fact_ids: Sequence[UUID]) -> None:
        while fact_ids:
            async with self._unit_of_work() as repositories:
                waiting = await repositories.outbox.waiting(fact_ids)
            if not waiting:
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def _look(self, source_id: UUID, fact_ids: Sequence[UUID]) -> tuple[int, int]:
        """Tombstones of the facts, and live points of the source, in the buckets where its facts were."""
        deleted = set(fact_ids)
        buckets = sorted({bucket_of(fact_id) for fact_id in fact_ids})
        tombstones = remaining = 0
        for start in range(0, len(buckets), _BUCKETS_TOGETHER):
            group = buckets[start : start + _BUCKETS_TOGETHER]
            async for points in self._index.points(epoch=_SERVING, buckets=group):
                tombstones += sum(point.tombstone and point.fact_id in deleted for point in points)
                remaining += sum(not point.tombstone and point.source_id == source_id for point in points)
        return tombstones, remaining
