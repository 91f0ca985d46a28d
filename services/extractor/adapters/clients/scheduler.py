"""The scheduler as the outbox sees it: jobs are created and cancelled, each as often as it takes."""

from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from uuid import UUID

import grpc.aio
import orjson
from opentelemetry import context as otel_context
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from services.extractor.domain.outbox import Intent
from services.extractor.domain.source import JobEnding, JobFate
from services.shared.errors import Code, Reason, RemoteError
from services.shared.grpc.errors import from_item_failure, remote_errors
from services.shared.telemetry import tracing

PEER = "scheduler"
EXTRACT = "extract"

_PRIORITY = 5
_MAX_ATTEMPTS = 5
_TIMEOUT = 30.0
_BAD_STATES = (job_pb2.JOB_STATE_CANCELLED, job_pb2.JOB_STATE_DEAD, job_pb2.JOB_STATE_FAILED)


class SchedulerClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = SchedulerServiceStub(channel)

    async def create_jobs(self, intents: Sequence[Intent]) -> Sequence[RemoteError | None]:
        """All intents have the same traceparent, which the jobs keep."""
        request = pb.CreateJobsRequest(jobs=[_spec(intent) for intent in intents])
        with _trace_of(intents[0]), remote_errors(PEER):
            response = await self._stub.CreateJobs(request, timeout=_TIMEOUT)
        return [
            from_item_failure(result.failure, peer=PEER) if result.HasField("failure") else None
            for result in response.results
        ]

    async def cancel_job(self, intent: Intent) -> None:
        with _trace_of(intent):
            await self.withdraw(intent.key)

    async def withdraw(self, job_id: UUID) -> None:
        try:
            with remote_errors(PEER):
                await self._stub.CancelJob(pb.CancelJobRequest(job_id=str(job_id)), timeout=_TIMEOUT)
        except RemoteError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    async def endings(self, job_ids: Sequence[UUID]) -> dict[UUID, JobEnding]:
        request = pb.ListJobsRequest(
            filter=pb.JobFilter(job_ids=[str(job_id) for job_id in job_ids]), page_size=len(job_ids)
        )
        with remote_errors(PEER):
            response = await self._stub.ListJobs(request, timeout=_TIMEOUT)
        known = {UUID(job.job_id): _ending(job) for job in response.jobs}
        return {job_id: known.get(job_id, JobEnding(fate=JobFate.LOST)) for job_id in job_ids}

    async def ending_badly(self) -> AsyncIterator[tuple[UUID, JobEnding]]:
        request = pb.WatchJobsRequest(filter=pb.JobFilter(types=[EXTRACT], states=_BAD_STATES))
        with remote_errors(PEER):
            async for response in self._stub.WatchJobs(request):
                if response.WhichOneof("frame") == "event" and not response.event.deleted:
                    job = response.event.job
                    yield UUID(job.job_id), _ending(job)
        raise RemoteError(peer=PEER, code=Code.UNAVAILABLE, message="the watch has ended")


def _ending(job: job_pb2.Job) -> JobEnding:
    if job.state in (job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING):
        return JobEnding(fate=JobFate.OPEN)
    if job.state == job_pb2.JOB_STATE_SUCCEEDED:
        return JobEnding(fate=JobFate.SUCCEEDED)
    if job.state == job_pb2.JOB_STATE_CANCELLED:
        return JobEnding(fate=JobFate.ENDED_BADLY, reason=Reason.CANCELLED_BY_CALLER, message="the job was cancelled")
    failure = job.last_failure
    return JobEnding(fate=JobFate.ENDED_BADLY, reason=Reason(failure.reason), message=failure.message)


def _spec(intent: Intent) -> job_pb2.JobSpec:
    payload = {"source_id": str(intent.source_id), "version": intent.version}
    return job_pb2.JobSpec(
        job_id=str(intent.key),
        type=EXTRACT,
        project_id=str(intent.project_id),
        priority=_PRIORITY,
        payload=orjson.dumps(payload).decode(),
        max_attempts=_MAX_ATTEMPTS,
    )


@contextmanager
def _trace_of(intent: Intent) -> Generator[None]:
    """Goes on with the trace of the call that stated the intent."""
    token = otel_context.attach(tracing.extract(intent.traceparent))
    try:
        yield
    finally:
        otel_context.detach(token)
