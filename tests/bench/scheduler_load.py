"""Loads on a scheduler: the pieces that the benchmark puts together.

A job counts when its completion is durable, that is when `CompleteJobs` has answered.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc.aio
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from scristill.scheduler.v1.worker_service_pb2_grpc import WorkerServiceStub

BATCH = 2500
PAYLOAD = '{"source_id":"0190a6f2-5d5e-7a36-8f64-2f6b9c1a7e11","chunk":17}'


def payload(number: int) -> str:
    """No two of a load are equal, for a column of equal ones would be sent once."""
    return f"{PAYLOAD[:-3]}1{number:05}}}"


@dataclass(slots=True, kw_only=True)
class Client:
    jobs: SchedulerServiceStub
    work: WorkerServiceStub


@asynccontextmanager
async def connect(address: str) -> AsyncGenerator[Client]:
    options = [("grpc.max_receive_message_length", 32 << 20), ("grpc.max_send_message_length", 32 << 20)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Client(jobs=SchedulerServiceStub(channel), work=WorkerServiceStub(channel))


async def enqueue(
    client: Client, count: int, *, job_type: str, batch: int = BATCH, concurrency: int = 2, project_id: str = "bench"
) -> float:
    """Creates jobs in bulk. Returns jobs per second."""
    left = iter(range(0, count, batch))

    async def produce() -> None:
        for start in left:
            specs = [
                job_pb2.JobSpec(type=job_type, project_id=project_id, priority=5, payload=payload(number))
                for number in range(start, min(start + batch, count))
            ]
            await client.jobs.CreateJobs(jobs_pb.CreateJobsRequest(jobs=specs))

    started = time.perf_counter()
    await asyncio.gather(*(produce() for _ in range(concurrency)))
    return count / (time.perf_counter() - started)


@dataclass(slots=True, kw_only=True)
class Drain:
    """Leases and completes jobs as fast as they come, `batch` to a message, by several workers."""

    client: Client
    job_type: str
    worker_id: str
    max_in_flight: int
    frame: int
    batch: int
    workers: int = 1
    completed: int = 0
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _failure: BaseException | None = None

    async def until(self, count: int) -> float:
        """Returns jobs per second, from the first frame to the last durable completion."""
        calls = [self.client.work.LeaseJobs(self._request(number)) for number in range(self.workers)]
        for call in calls:
            await call.read()
        started = time.perf_counter()
        readers = [asyncio.create_task(self._read(call, count)) for call in calls]
        for reader in readers:
            reader.add_done_callback(self._finished)
        await self._ended.wait()
        elapsed = time.perf_counter() - started
        for reader, call in zip(readers, calls, strict=True):
            reader.cancel()
            call.cancel()
        if self._failure is not None:
            raise self._failure
        return count / elapsed

    def _request(self, number: int) -> work_pb.LeaseJobsRequest:
        return work_pb.LeaseJobsRequest(
            worker_id=f"{self.worker_id}-{number}",
            types=[self.job_type],
            max_in_flight=self.max_in_flight // self.workers,
            max_batch_size=self.frame,
        )

    async def _read(self, call, count: int) -> None:
        """Reads frames, and completions as they come back: an answer that is there costs no task of its own."""
        answers: asyncio.Queue = asyncio.Queue()
        counter = asyncio.create_task(self._count(answers, count))
        counter.add_done_callback(self._finished)
        try:
            while frame := await call.read():
                jobs = frame.leases.jobs
                for start in range(0, len(jobs), self.batch):
                    completions = [work_pb.JobCompletion(lease=job.lease) for job in jobs[start : start + self.batch]]
                    request = work_pb.CompleteJobsRequest(worker_id=self.worker_id, completions=completions)
                    answers.put_nowait(self.client.work.CompleteJobs(request))
        finally:
            counter.cancel()

    async def _count(self, answers: asyncio.Queue, count: int) -> None:
        while self.completed < count:
            response = await (await answers.get())
            self.completed += sum(outcome.state == job_pb2.JOB_STATE_SUCCEEDED for outcome in response.outcomes)
        self._ended.set()

    def _finished(self, task: asyncio.Task) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
            self._ended.set()
