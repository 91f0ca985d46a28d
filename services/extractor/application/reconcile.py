"""Proves that PostgreSQL and the index agree, and makes them agree where they do not.

One run at a time over all replicas goes through the buckets in slices of about as many
facts as the index reads at once, some of them at the same time. Digests of both sides
are compared; where they differ, facts and points are compared by id. A difference
counts only if the fact was the same, with no intent under way, both before and after its
point was read: what is merely in flight is never repaired. Repairs go through the
outbox like everything else. What a run finds is written down as it goes, so that callers
on any replica can follow it and another replica can finish it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from uuid import UUID

import structlog

from services.extractor.application.ports import IndexAudit, UnitOfWork, Wake
from services.extractor.domain.outbox import Topic
from services.extractor.domain.reconciliation import (
    BUCKET_COUNT,
    EMPTY,
    FIRST_SLICE,
    Bucket,
    Drift,
    FactState,
    IdRange,
    PointState,
    Run,
    RunRequest,
    RunState,
    compare,
    counted,
    id_range,
    moving,
    settled,
    slice_width,
)
from services.shared.errors import RemoteError, ServiceError
from services.shared.telemetry.metrics import Metrics
from services.shared.telemetry.tracing import current_traceparent

logger = structlog.stdlib.get_logger(__name__)

_LEASE = timedelta(minutes=2)
_TOGETHER = 3
"""Slices compared at the same time: the index reads one while another waits for the database or for its answer."""

_Digests = tuple[int, dict[int, Bucket], dict[int, Bucket]]
"""The epoch that was read, and the buckets of facts and of points."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """Some buckets, compared: digests of what is settled on either side, and what disagrees. `held`: facts or points,
    whichever were more."""

    epoch: int
    first: int
    last: int
    held: int
    differing: int = 0
    facts: Bucket
    points: Bucket
    drifts: Sequence[Drift] = ()

    @property
    def width(self) -> int:
        return self.last - self.first + 1


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
        """Slice after slice, concluded in order; the next ones are compared meanwhile."""
        under_way: deque[asyncio.Task[_Slice]] = deque()
        start, width = run.next_bucket, FIRST_SLICE
        try:
            while run.next_bucket < BUCKET_COUNT:
                # The first one tells which epoch is searched; all must be of the same.
                while start < BUCKET_COUNT and len(under_way) < (_TOGETHER if run.epoch else 1):
                    last = min(start + width, BUCKET_COUNT) - 1
                    under_way.append(asyncio.create_task(self._slice(run, start, last), name="reconcile-slice"))
                    start = last + 1
                compared = await under_way.popleft()
                width = slice_width(compared.width, compared.held)
                run = await self._conclude(run, compared)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        return run

    async def _slice(self, run: Run, first: int, last: int) -> _Slice:
        """By digest first, then by id where the digests differ."""
        epoch, facts, points = await self._digests(run, first, last)
        differing = [each for each in range(first, last + 1) if facts.get(each, EMPTY) != points.get(each, EMPTY)]
        alike = _sum(digest for each, digest in facts.items() if digest == points.get(each, EMPTY))
        slice_ = _Slice(
            epoch=epoch,
            first=first,
            last=last,
            held=max(_sum(facts.values()).count, _sum(points.values()).count),
            differing=len(differing),
            facts=alike,
            points=alike,
        )
        return await self._descend(slice_, differing) if differing else slice_

    async def _digests(self, run: Run, first: int, last: int) -> _Digests:
        """Both sides are read at the same time once it is known which epoch that is."""
        pace = run.pace and max(1, run.pace // _TOGETHER)
        if not run.epoch:
            epoch, points = await self._index.digests(epoch=0, first=first, last=last, pace=pace)
            return epoch, await self._fact_digests(epoch, first, last), points
        facts = asyncio.create_task(self._fact_digests(run.epoch, first, last), name="reconcile-facts")
        try:
            epoch, points = await self._index.digests(epoch=run.epoch, first=first, last=last, pace=pace)
        except BaseException:
            facts.cancel()
            await asyncio.gather(facts, return_exceptions=True)
            raise
        return epoch, await facts, points

    async def _fact_digests(self, epoch: int, first: int, last: int) -> dict[int, Bucket]:
        async with self._unit_of_work() as repositories:
            return await repositories.reconciliations.digests(epoch=epoch, first=first, last=last)

    async def _descend(self, slice_: _Slice, buckets: Sequence[int]) -> _Slice:
        """Facts and pending intents, then points, then what seems to differ again: only what has not moved is judged.

        A fact written before the first look has its intent in the outbox until the index has it, and so before its
        point is read; one written after the first look has another version at the second.
        """
        epoch = slice_.epoch
        facts, pending = await self._facts([id_range(bucket, bucket) for bucket in buckets])
        points = await self._points(epoch, buckets)
        seen = list(compare(facts, points, pending=pending, epoch=epoch))
        skipped = pending
        if seen:
            before = {drift.fact_id: drift.fact for drift in seen if drift.fact is not None}
            later, still_pending = await self._facts([(drift.fact_id, drift.fact_id) for drift in seen])
            skipped |= still_pending | moving(before, later)
        left, right = settled(facts, points, pending=skipped, epoch=epoch)
        return replace(
            slice_,
            facts=slice_.facts.plus(left),
            points=slice_.points.plus(right),
            drifts=[drift for drift in seen if drift.fact_id not in skipped],
        )

    async def _conclude(self, run: Run, compared: _Slice) -> Run:
        """Repairs, and writes down what was found and how far the run has come: all of it, or nothing."""
        repaired: set[UUID] = set()
        new: list[Drift] = []
        async with self._unit_of_work() as repositories:
            reconciliations = repositories.reconciliations
            if compared.drifts:
                if not run.dry_run:
                    repaired = await reconciliations.repair(compared.drifts, traceparent=current_traceparent())
                unknown = await reconciliations.record(run.run_id, compared.drifts, repaired=repaired)
                new = [drift for drift in compared.drifts if drift.fact_id in unknown]
            run = replace(
                run,
                epoch=compared.epoch,
                next_bucket=compared.last + 1,
                differing=run.differing + compared.differing,
                facts=run.facts.plus(compared.facts),
                points=run.points.plus(compared.points),
                drift_counts=counted(run.drift_counts, new),
                repaired=run.repaired + len(repaired),
            )
            if not await reconciliations.advance(run, owner=self._owner, lease=_LEASE):
                raise OwnerChanged
        if repaired:
            self._wake(Topic.FACT)
        for drift in new:
            self._drifts.labels(drift.kind.name.lower()).inc()
        if new:
            logger.warning("drift_found", count=len(new), repaired=len(repaired))
        return run

    async def _facts(self, ranges: Sequence[IdRange]) -> tuple[dict[UUID, FactState], frozenset[UUID]]:
        async with self._unit_of_work() as repositories:
            facts = await repositories.reconciliations.facts_in(ranges)
            return facts, await repositories.reconciliations.pending_in(ranges)

    async def _points(self, epoch: int, buckets: Sequence[int]) -> dict[UUID, PointState]:
        points: dict[UUID, PointState] = {}
        async for batch in self._index.points(epoch=epoch, buckets=buckets):
            points |= {point.fact_id: point for point in batch}
        return points

    async def _write(self, run: Run) -> None:
        async with self._unit_of_work() as repositories:
            if not await repositories.reconciliations.advance(run, owner=self._owner, lease=_LEASE):
                raise OwnerChanged


def _sum(buckets: Iterable[Bucket]) -> Bucket:
    total = EMPTY
    for bucket in buckets:
        total = total.plus(bucket)
    return total
