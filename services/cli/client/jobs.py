"""Jobs, and the watch over them that survives restarts of the scheduler."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1.job_pb2 import Job, JobState
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from services.cli.connection import PAGE_SIZE, Connection, is_passing, pages
from services.shared.errors import Code, Reason, RemoteError

TERMINAL = frozenset(
    {
        JobState.JOB_STATE_SUCCEEDED,
        JobState.JOB_STATE_FAILED,
        JobState.JOB_STATE_CANCELLED,
        JobState.JOB_STATE_DEAD,
    }
)


RECONNECT_SECONDS = 0.3
PATIENCE_SECONDS = 60.0


class Jobs:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = SchedulerServiceStub(connection.channel("scheduler"))

    async def every(self, job_filter: pb.JobFilter) -> AsyncIterator[Job]:
        """Newest first."""

        async def fetch(token: str) -> pb.ListJobsResponse:
            return await self.page(job_filter, token)

        async for page in pages(fetch):
            for job in page.jobs:
                yield job

    async def get(self, job_id: str) -> Job:
        with self._connection.errors("scheduler"):
            return (await self._stub.GetJob(pb.GetJobRequest(job_id=job_id))).job

    async def page(self, job_filter: pb.JobFilter, token: str = "") -> pb.ListJobsResponse:
        """Its `resume_token` is where a watch goes on without a gap."""
        with self._connection.errors("scheduler"):
            return await self._stub.ListJobs(
                pb.ListJobsRequest(filter=job_filter, page_size=PAGE_SIZE, page_token=token)
            )

    async def cancel(self, job_id: str, *, message: str, keep_children: bool) -> pb.CancelJobResponse:
        request = pb.CancelJobRequest(job_id=job_id, message=message, keep_children=keep_children)
        with self._connection.errors("scheduler"):
            return await self._stub.CancelJob(request)

    async def watch(
        self, job_filter: pb.JobFilter, *, resume_token: str = "", patient: bool = False
    ) -> AsyncIterator[Job]:
        """Changes as they come, for ever; without a token, first the jobs that are not terminal.

        Goes on where it was after the scheduler was away. Raises when that lasts longer than `PATIENCE_SECONDS`, and,
        unless `patient`, at once when the first call fails or the scheduler has a fault.
        """
        token = resume_token
        last_heard = time.monotonic() if patient else None
        while True:
            try:
                async with aclosing(self._frames(job_filter, token)) as frames:
                    async for frame in frames:
                        last_heard = time.monotonic()
                        if frame.WhichOneof("frame") == "event":
                            yield frame.event.job
                        # Only now: the token says that the event was handled.
                        token = frame.resume_token or token
            except RemoteError as error:
                if error.reason is Reason.RESUME_TOKEN_EXPIRED and token:
                    token = ""
                elif (
                    last_heard is None
                    or time.monotonic() > last_heard + PATIENCE_SECONDS
                    or not (is_passing(error) or (patient and error.code is Code.INTERNAL))
                ):
                    raise
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _frames(self, job_filter: pb.JobFilter, token: str) -> AsyncGenerator[pb.WatchJobsResponse]:
        """Of one stream."""
        request = pb.WatchJobsRequest(filter=job_filter, resume_token=token, include_current=not token)
        call = self._stub.WatchJobs(request)
        try:
            with self._connection.errors("scheduler"):
                async for frame in call:
                    yield frame
        finally:
            call.cancel()
