"""Requests and short walks that the tests share."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator

import grpc
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb

WAIT = 10.0


def spec(**fields) -> job_pb2.JobSpec:
    return job_pb2.JobSpec(**{"type": "extract", "project_id": "p", "priority": 5, **fields})


async def create(scheduler, count: int = 1, **fields) -> list[str]:
    response = await scheduler.jobs.CreateJobs(
        jobs_pb.CreateJobsRequest(request_id=str(uuid.uuid4()), jobs=[spec(**fields) for _ in range(count)])
    )
    assert not any(result.HasField("failure") for result in response.results)
    return [result.job_id for result in response.results]


async def get(scheduler, job_id: str) -> job_pb2.Job:
    return (await scheduler.jobs.GetJob(jobs_pb.GetJobRequest(job_id=job_id))).job


class Stream:
    """An open LeaseJobs call, read as a list of jobs. Only its own task reads: a cancelled read would end the call."""

    def __init__(self, call) -> None:
        self.call = call
        self.frames: asyncio.Queue[work_pb.LeaseJobsResponse] = asyncio.Queue()
        self.buffered: list[job_pb2.LeasedJob] = []
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            frame = None
            while frame is not grpc.aio.EOF:
                frame = await self.call.read()
                self.frames.put_nowait(frame)

    async def frame(self, *, within: float = WAIT) -> work_pb.LeaseJobsResponse:
        async with asyncio.timeout(within):
            return await self.frames.get()

    async def take(self, count: int, *, within: float = WAIT) -> list[job_pb2.LeasedJob]:
        async with asyncio.timeout(within):
            while len(self.buffered) < count:
                frame = await self.frames.get()
                assert frame, "the stream ended"
                self.buffered += frame.leases.jobs
        taken, self.buffered = self.buffered[:count], self.buffered[count:]
        return taken

    async def nothing(self, *, for_seconds: float = 0.5) -> None:
        """Holds that no job arrives for a while."""
        with contextlib.suppress(TimeoutError):
            jobs = await self.take(1, within=for_seconds)
            raise AssertionError(f"leased {jobs}")


@contextlib.asynccontextmanager
async def leasing(scheduler, *, worker_id: str = "w", types=("extract",), max_in_flight: int = 10, **fields):
    request = work_pb.LeaseJobsRequest(worker_id=worker_id, types=types, max_in_flight=max_in_flight, **fields)
    call = scheduler.work.LeaseJobs(request)
    stream = Stream(call)
    assert (await stream.frame()).HasField("opened")
    try:
        yield stream
    finally:
        call.cancel()
        await stream.reader


async def complete(scheduler, *jobs, result: str = "", worker_id: str = "w"):
    return list(
        (
            await scheduler.work.CompleteJobs(
                work_pb.CompleteJobsRequest(
                    worker_id=worker_id,
                    completions=[work_pb.JobCompletion(lease=job.lease, result=result) for job in jobs],
                )
            )
        ).outcomes
    )


async def fail(scheduler, job, *, worker_id: str = "w", **fields):
    attempt = work_pb.FailedAttempt(lease=job.lease, failure=job_pb2.JobFailure(reason=8, message="boom"), **fields)
    request = work_pb.FailJobsRequest(worker_id=worker_id, attempts=[attempt])
    return (await scheduler.work.FailJobs(request)).outcomes[0]


async def release(scheduler, job, *, worker_id: str = "w", **fields):
    request = work_pb.ReleaseJobsRequest(worker_id=worker_id, releases=[work_pb.JobRelease(lease=job.lease, **fields)])
    return (await scheduler.work.ReleaseJobs(request)).outcomes[0]


async def renew(scheduler, *jobs, worker_id: str = "w", **fields):
    request = work_pb.RenewLeasesRequest(
        worker_id=worker_id, renewals=[work_pb.LeaseRenewal(lease=job.lease, **fields) for job in jobs]
    )
    return list((await scheduler.work.RenewLeases(request)).directives)


async def events(call) -> AsyncIterator[jobs_pb.WatchJobsResponse]:
    async for frame in call:
        if frame.HasField("event"):
            yield frame
