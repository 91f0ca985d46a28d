"""Proves that PostgreSQL and the index agree, and makes them agree where they do not.

One run at a time over all replicas goes through the buckets in slices. Digests of both
sides are compared; where they differ, facts and points are compared by id. A difference
counts only if the fact was the same, with no intent under way, both before and after its
point was read: what is merely in flight is never repaired. Repairs go through the
outbox like everything else. What a run finds is written down as it goes, so that callers
on any replica can follow it and another replica can finish it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import structlog

from services.extractor.application.ports import IndexAudit, UnitOfWork, Wake
from services.extractor.domain.outbox import Topic
from services.extractor.domain.reconciliation import (
    BUCKET_COUNT,
    EMPTY,
    Bucket,
    Drift,
    FactState,
    PointState,
    Run,
    RunRequest,
    RunState,
    compare,
    counted,
    moving,
    settled,
)
from services.shared.errors import RemoteError, ServiceError
from services.shared.telemetry.metrics import Metrics
from services.shared.telemetry.tracing import current_traceparent

logger = structlog.stdlib.get_logger(__name__)

_LEASE = timedelta(minutes=2)
_SLICE = 256
_GROUP = 64


_Digests = tuple[int, dict[int, Bucket], dict[int, Bucket]]
"""The epoch that was read, and the buckets of facts and of points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """What the comparison by id of some buckets has shown."""

    facts: Bucket
    points: Bucket
    drifts: Sequence[Drift]


class OwnerChanged(Exception):
    """Another replica goes on with the run."""


class Reconciler:
    """`begin` opens or finds a run, `go_on` works on one that this process owns."""

    def __init__(
        self,
        *,
        unit_of_work: UnitOfWork,
        index: IndexAudit,
        wake: Wake,
        new_id: Callable[[], UUID],
        owner: str,
        metrics: Metrics,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._index = index
        self._wake = wake
        self._new_id = new_id
        self._owner = owner
        self._drifts = metrics.counter(
            "scristill_extractor_drifts_total", "Facts and points that did not agree, by kind.", labels=("kind",)
        )

    async def begin(self, request: RunRequest) -> tuple[Run, bool]:
        """The run under way, and whether it is a new one, which the caller must then work on."""
        while True:
            async with self._unit_of_work() as repositories:
                run, opened = await repositories.reconciliations.open(
                    self._new_id(), request, owner=self._owner, lease=_LEASE
                )
            if run is not None:
                return run, opened

    async def take_over(self) -> Run | None:
        """A run whose owner has vanished; the caller must work on it."""
        async with self._unit_of_work() as repositories:
            return await repositories.reconciliations.take_over(owner=self._owner, lease=_LEASE)

    async def go_on(self, run: Run) -> Run:
        """Works to the end. A failure of a peer ends the run as FAILED, and is raised."""
        try:
            run = await self._slices(run)
            run = replace(run, state=RunState.DONE)
            await self._write(run)
        except (RemoteError, ServiceError):
            await self._write(replace(run, state=RunState.FAILED))
            raise
        logger.info(
            "reconciled",
            epoch=run.epoch,
            fact_count=run.facts.count,
            point_count=run.points.count,
            drift_counts=dict(run.drift_counts),
            agree=run.facts == run.points,
        )
        return run

    async def _slices(self, run: Run) -> Run:
        """Slice after slice; the next one is read while this one is compared."""
        ahead: asyncio.Task[_Digests] | None = None
        try:
            while run.next_bucket < BUCKET_COUNT:
                epoch, facts, points = await (ahead or self._digests(run, run.next_bucket))
                run = replace(run, epoch=epoch)
                following = run.next_bucket + _SLICE
                ahead = None
                if following < BUCKET_COUNT:
                    ahead = asyncio.create_task(self._digests(run, following), name="reconcile-ahead")
                run = await self._slice(run, facts, points)
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.wait({ahead})
        return run

    async def _slice(self, run: Run, facts: Mapping[int, Bucket], points: Mapping[int, Bucket]) -> Run:
        """The next buckets: by digest first, then by id where the digests differ."""
        first, last = run.next_bucket, _last(run.next_bucket)
        differing = [each for each in range(first, last + 1) if facts.get(each, EMPTY) != points.get(each, EMPTY)]
        alike = [each for each in range(first, last + 1) if each not in set(differing)]
        run = replace(
            run,
            differing=run.differing + len(differing),
            facts=_sum(run.facts, facts, alike),
            points=_sum(run.points, points, alike),
        )
        for start in range(0, len(differing), _GROUP):
            run = await self._descend(run, differing[start : start + _GROUP])
        run = replace(run, next_bucket=last + 1)
        await self._write(run)
        return run

    async def _digests(self, run: Run, first: int) -> _Digests:
        """Both sides are read at the same time once it is known which epoch that is."""
        last = _last(first)
        if not run.epoch:
            epoch, points = await self._index.digests(epoch=0, first=first, last=last, pace=run.pace)
            return epoch, await self._fact_digests(epoch, first, last), points
        facts = asyncio.create_task(self._fact_digests(run.epoch, first, last), name="reconcile-facts")
        try:
            epoch, points = await self._index.digests(epoch=run.epoch, first=first, last=last, pace=run.pace)
        except BaseException:
            facts.cancel()
            await asyncio.gather(facts, return_exceptions=True)
            raise
        return epoch, await facts, points

    async def _fact_digests(self, epoch: int, first: int, last: int) -> dict[int, Bucket]:
        async with self._unit_of_work() as repositories:
            return await repositories.reconciliations.digests(epoch=epoch, first=first, last=last)

    async def _descend(self, run: Run, buckets: Sequence[int]) -> Run:
        finding = await self._compare(run.epoch, buckets)
        run = await self._repair(run, finding)
        return replace(run, facts=run.facts.plus(finding.facts), points=run.points.plus(finding.points))

    async def _repair(self, run: Run, finding: _Finding) -> Run:
        if not finding.drifts:
            return run
        repaired: set[UUID] = set()
        async with self._unit_of_work() as repositories:
            if not run.dry_run:
                repaired = await repositories.reconciliations.repair(finding.drifts, traceparent=current_traceparent())
            new = await repositories.reconciliations.record(run.run_id, finding.drifts, repaired=repaired)
        self._wake(Topic.FACT)
        for drift in finding.drifts:
            if drift.fact_id in new:
                self._drifts.labels(drift.kind.name.lower()).inc()
        logger.warning("drift_found", count=len(new), repaired=len(repaired))
        return replace(
            run,
            drift_counts=counted(run.drift_counts, [drift for drift in finding.drifts if drift.fact_id in new]),
            repaired=run.repaired + len(repaired),
        )

    async def _compare(self, epoch: int, buckets: Sequence[int]) -> _Finding:
        """Facts and pending intents, then points, then both again: only what has not moved in between is judged.

        A fact written before the first look has its intent in the outbox until the index has it, and so before its
        point is read; one written after the first look has another version at the second.
        """
        facts, pending = await self._facts(buckets)
        points = await self._points(epoch, buckets)
        later, still_pending = await self._facts(buckets)
        skipped = pending | still_pending | moving(facts, later)
        left, right = settled(facts, points, pending=skipped, epoch=epoch)
        return _Finding(facts=left, points=right, drifts=list(compare(facts, points, pending=skipped, epoch=epoch)))

    async def _facts(self, buckets: Sequence[int]) -> tuple[dict[UUID, FactState], frozenset[UUID]]:
        async with self._unit_of_work() as repositories:
            facts = await repositories.reconciliations.facts_in(buckets)
            return facts, await repositories.reconciliations.pending_in(buckets)

    async def _points(self, epoch: int, buckets: Sequence[int]) -> dict[UUID, PointState]:
        points: dict[UUID, PointState] = {}
        async for batch in self._index.points(epoch=epoch, buckets=buckets):
            points |= {point.fact_id: point for point in batch}
        return points

    async def _write(self, run: Run) -> None:
        async with self._unit_of_work() as repositories:
            if not await repositories.reconciliations.advance(run, owner=self._owner, lease=_LEASE):
                raise OwnerChanged


def _last(first: int) -> int:
    return min(first + _SLICE, BUCKET_COUNT) - 1


def _sum(known: Bucket, buckets: Mapping[int, Bucket], which: Sequence[int]) -> Bucket:
    for bucket in which:
        known = known.plus(buckets.get(bucket, EMPTY))
    return known
