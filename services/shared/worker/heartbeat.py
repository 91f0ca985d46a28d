"""Keeps leases alive, carries progress and checkpoints, and obeys directives.

Liveness is the lease: when renewals fail for so long that a lease must have run out by
the worker's own clock, its handler is stopped without asking.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Self

import grpc
import grpc.aio
import structlog
from scristill.scheduler.v1 import worker_service_pb2 as pb

from services.shared.batching import Batcher
from services.shared.worker.job import Interruption, Job

if TYPE_CHECKING:
    from scristill.scheduler.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

logger = structlog.stdlib.get_logger(__name__)

_TICK_SECONDS = 0.25
# A job that is done within this time never needs a renewal; one that is not must be accepted.
_ACCEPT_AFTER_SECONDS = 0.2
_REPORT_SECONDS = 1.0
_RENEW_TIMEOUT = 10.0
_MAX_RENEWALS = 5000
_MAX_SAVED = 500
_CONCURRENT_SAVES = 4


class Heartbeat:
    def __init__(self, *, stub: "WorkerServiceAsyncStub", worker_id: str, jobs: Callable[[], Collection[Job]]) -> None:
        self._stub = stub
        self._worker_id = worker_id
        self._jobs = jobs
        self._accepted: set[str] = set()
        self._saving: Batcher[Job, None] = Batcher(
            self._save, name="worker-save", max_weight=_MAX_SAVED, concurrency=_CONCURRENT_SAVES
        )

    async def __aenter__(self) -> Self:
        await self._saving.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._saving.__aexit__(None, None, None)

    async def save(self, job: Job) -> None:
        """Sends what a job has reported last, which must not be overtaken by its end."""
        await self._saving.submit(job)

    async def _save(self, jobs: Sequence[Job]) -> Sequence[None]:
        await self.renew(jobs)
        return [None] * len(jobs)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = time.monotonic()
            jobs = [job for job in self._jobs() if not job.finished]
            self._accepted &= {job.job_id for job in jobs}
            due = [job for job in jobs if self._is_due(job, now)]
            for start in range(0, len(due), _MAX_RENEWALS):
                await self.renew(due[start : start + _MAX_RENEWALS])
            for job in jobs:
                if now - job.renewed_at > job.lease_seconds:
                    job.interrupt(Interruption.LOST)

    def accept_again(self) -> None:
        """After a broken stream every lease is in doubt: renews all of them at the next tick."""
        self._accepted.clear()

    async def renew(self, jobs: Collection[Job]) -> None:
        renewals = [_renewal(job) for job in jobs]
        sent = time.monotonic()
        try:
            response = await self._stub.RenewLeases(
                pb.RenewLeasesRequest(worker_id=self._worker_id, renewals=renewals), timeout=_RENEW_TIMEOUT
            )
        except grpc.aio.AioRpcError as error:
            logger.warning("renew_failed", jobs=len(renewals), code=error.code().name)
            return
        for job, renewal, directive in zip(jobs, renewals, response.directives, strict=True):
            self._obey(job, renewal, directive, sent=sent)

    def _is_due(self, job: Job, now: float) -> bool:
        age = now - job.renewed_at
        if job.job_id not in self._accepted:
            return age >= _ACCEPT_AFTER_SECONDS
        if job.unreported:
            return age >= min(_REPORT_SECONDS, job.heartbeat_seconds)
        return age >= job.heartbeat_seconds - _TICK_SECONDS

    def _obey(self, job: Job, renewal: pb.LeaseRenewal, answer: pb.LeaseDirective, *, sent: float) -> None:
        if answer.directive == pb.DIRECTIVE_LOST:
            job.interrupt(Interruption.LOST)
            return
        self._accepted.add(job.job_id)
        job.renewed_at = sent
        if renewal.HasField("progress") and job.progress == renewal.progress:
            job.progress = None
        if job.unsaved_checkpoint == renewal.checkpoint:
            job.unsaved_checkpoint = ""
        if answer.directive == pb.DIRECTIVE_CANCEL:
            job.interrupt(Interruption.CANCELLED)


def _renewal(job: Job) -> pb.LeaseRenewal:
    return pb.LeaseRenewal(lease=job.lease, progress=job.progress, checkpoint=job.unsaved_checkpoint)
