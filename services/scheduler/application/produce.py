"""Use cases of those who have work to do: create, read, cancel, retry and delete jobs."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Self

from services.scheduler.application.dispatcher import Dispatcher
from services.scheduler.application.ports import (
    Cancelled,
    Created,
    Creation,
    JobControl,
    JobCreation,
    JobReading,
    Page,
)
from services.scheduler.application.signals import Signals
from services.scheduler.domain.job import Job, JobFilter, JobSpec, LeaseRef
from services.shared.batching import Batcher
from services.shared.errors import NotFound, RequestIdReused

_GROUP_COMMIT = 1000


class CreateResult(NamedTuple):
    job_id: str
    created: bool
    refusal: RequestIdReused | None = None


class ProduceJobs:
    def __init__(
        self,
        *,
        creation: JobCreation,
        control: JobControl,
        reading: JobReading,
        dispatcher: Dispatcher,
        signals: Signals,
    ) -> None:
        self._creation = creation
        self._control = control
        self._reading = reading
        self._dispatcher = dispatcher
        self._signals = signals
        self._singles = Batcher(self._create_roots, name="create", max_weight=_GROUP_COMMIT)

    async def __aenter__(self) -> Self:
        await self._singles.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._singles.__aexit__(None, None, None)

    async def create_one(self, spec: JobSpec) -> tuple[Job, bool]:
        """Creates a job in a transaction shared with whoever calls at the same time."""
        result = await self._singles.submit(spec)
        if result.refusal is not None:
            raise result.refusal
        return await self.get(result.job_id), result.created

    async def create_many(self, specs: Sequence[JobSpec], *, parent: LeaseRef | None) -> Sequence[CreateResult]:
        created = await self._creation.create(specs, parent=parent)
        self._dispatcher.offer(created.ready)
        return self._results(specs, created)

    async def _create_roots(self, specs: Sequence[JobSpec]) -> Sequence[CreateResult]:
        handed_out = await self._dispatcher.hand_out(specs, self._creation)
        if handed_out is None:
            return await self.create_many(specs, parent=None)
        return self._results(specs, handed_out)

    def _results(self, specs: Sequence[JobSpec], created: Created) -> list[CreateResult]:
        if any(spec.schedule_time for spec in specs):
            self._signals.delayed.set()
        self._signals.changed.set()
        return [_to_result(spec, creation) for spec, creation in zip(specs, created.results, strict=True)]

    async def get(self, job_id: str) -> Job:
        jobs = await self._reading.get([job_id])
        if not jobs:
            raise NotFound.of("job", job_id)
        return jobs[0]

    async def list_page(self, job_filter: JobFilter, *, after: tuple[datetime, str] | None, limit: int) -> Page:
        return await self._reading.list_page(job_filter, after=after, limit=limit)

    async def cancel(self, job_id: str, *, message: str, descend: bool) -> Cancelled:
        cancelled = await self._control.cancel(job_id, message=message, descend=descend)
        self._signals.changed.set()
        self._signals.count_ended(cancelled.settlement.ended)
        return cancelled

    async def retry(self, job_id: str, *, request_id: str) -> Job:
        job, ready = await self._control.retry(job_id, request_id=request_id)
        self._dispatcher.offer(ready)
        self._signals.changed.set()
        return job

    async def delete(self, job_id: str) -> None:
        await self._control.delete(job_id)
        self._signals.changed.set()


def _to_result(spec: JobSpec, creation: Creation) -> CreateResult:
    if creation is Creation.DIFFERS:
        refusal = RequestIdReused(f"job {spec.job_id} exists with another spec", metadata={"request_id": spec.job_id})
        return CreateResult(job_id=spec.job_id, created=False, refusal=refusal)
    return CreateResult(spec.job_id, creation is Creation.CREATED)
