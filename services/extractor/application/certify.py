"""Deletion of a source with proof: PostgreSQL and the gateway have nothing of it, the index only tombstones."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

import structlog

from services.extractor.application.ports import ForgottenResults, IndexAudit, ResultCache, UnitOfWork, Wake
from services.extractor.application.sources import delete_source
from services.extractor.domain.outbox import Topic
from services.extractor.domain.reconciliation import bucket_of
from services.shared.errors import RemoteError

logger = structlog.stdlib.get_logger(__name__)

_LOOK_SECONDS = 0.1
_FORGET_AGAIN_SECONDS = 0.5
_BUCKETS_TOGETHER = 256
_SERVING = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletionCertificate:
    """What was removed, and what the index still finds of it, which is nothing."""

    fact_count: int
    chunk_count: int
    point_count: int
    cached_result_count: int
    forgotten: ForgottenResults
    remaining_point_count: int
    fact_digest: bytes
    token: str
    """By which a search sees that they are gone."""


class CertifyDeletion:
    def __init__(self, *, unit_of_work: UnitOfWork, cache: ResultCache, index: IndexAudit, wake: Wake) -> None:
        self._unit_of_work = unit_of_work
        self._cache = cache
        self._index = index
        self._wake = wake

    async def __call__(self, source_id: UUID) -> DeletionCertificate:
        """Deletes the source at once, then waits until gateway and index have nothing of it.

        The wait ends with the deadline of the caller; what was deleted stays deleted.
        """
        async with self._unit_of_work() as repositories:
            await repositories.sources.lock([source_id])
            fact_ids = await repositories.facts.ids(source_id)
            chunk_count, result_count = await repositories.sources.count_chunks(source_id)
            deleted = await delete_source(repositories, source_id)
        for topic in Topic:
            self._wake(topic)
        forgotten = await self._forgotten(deleted.scopes)
        await self._acknowledged(fact_ids)
        tombstones, remaining = await self._look(source_id, fact_ids)
        return DeletionCertificate(
            fact_count=len(fact_ids),
            chunk_count=chunk_count,
            point_count=tombstones,
            cached_result_count=result_count,
            forgotten=forgotten,
            remaining_point_count=remaining,
            fact_digest=sha256(b"".join(fact_id.bytes for fact_id in fact_ids)).digest(),
            token=deleted.token,
        )

    async def _forgotten(self, scopes: Sequence[str]) -> ForgottenResults:
        """Asks by itself, beside the outbox, because the answer holds the counts."""
        if not scopes:
            return ForgottenResults(result_count=0, dead_letter_count=0)
        while True:
            try:
                answers = await self._cache.forget(scopes)
            except RemoteError as error:
                answers = [error]
            failures = [answer for answer in answers if isinstance(answer, RemoteError)]
            if not failures:
                forgotten = [answer for answer in answers if isinstance(answer, ForgottenResults)]
                return ForgottenResults(
                    result_count=sum(each.result_count for each in forgotten),
                    dead_letter_count=sum(each.dead_letter_count for each in forgotten),
                )
            logger.info("certificate_waits_for_the_gateway", error=str(failures[0]))
            await asyncio.sleep(_FORGET_AGAIN_SECONDS)

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
