"""Runs handlers for the jobs that the scheduler pushes."""

import asyncio
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial

import grpc
import grpc.aio
import orjson
import structlog
from google.protobuf import duration_pb2, timestamp_pb2
from scristill.errors.v1 import error_reason_pb2
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as pb
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from scristill.scheduler.v1.worker_service_pb2_grpc import WorkerServiceStub

from services.shared import deadlines
from services.shared.errors import Reason, RemoteError
from services.shared.grpc.errors import remote_errors
from services.shared.lifecycle import Drain, wait_for_event
from services.shared.retry import Backoff
from services.shared.telemetry import tracing
from services.shared.worker.heartbeat import Heartbeat
from services.shared.worker.job import Done, Interruption, Job
from services.shared.worker.outcomes import Fail, LeaseIsLost, Retry, Snooze
from services.shared.worker.reports import Reports

logger = structlog.stdlib.get_logger(__name__)

Handler = Callable[[Job], Awaitable[Done | None]]
Report = Callable[[], Awaitable[pb.JobOutcome]]

_MAX_MESSAGE_BYTES = 2000
_CREATE_TIMEOUT = 30.0
_STOP_TIMEOUT = 2.0
_LAST_FRAME_SECONDS = 0.1
_LOST_DELAY = timedelta(seconds=1)
_NO_TYPE = "worker.draining"
_RECONNECT = Backoff(initial=timedelta(milliseconds=100), maximum=timedelta(seconds=3))


class Worker:
    """Serves job types of its own: `handlers` maps each type to the coroutine that does it.

    `concurrency` handlers run at once, and the scheduler hands out no more than that.
    When the drain starts, no more jobs come; handlers get `finish_within` to end, then
    they are cancelled and their jobs go back without spending an attempt.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        handlers: Mapping[str, Handler],
        concurrency: int,
        worker_id: str = "",
        finish_within: timedelta = timedelta(seconds=5),
        rng: random.Random | None = None,
    ) -> None:
        self._handlers = dict(handlers)
        self._concurrency = concurrency
        self._finish_within = finish_within.total_seconds()
        self._rng = rng or random.SystemRandom()
        self.worker_id = worker_id or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._work = WorkerServiceStub(channel)
        self._producer = SchedulerServiceStub(channel)
        self._jobs: dict[str, Job] = {}
        self._heartbeat = Heartbeat(stub=self._work, worker_id=self.worker_id, jobs=self._jobs.values)
        self._reports = Reports(stub=self._work, worker_id=self.worker_id, rng=self._rng)
        self._idle = asyncio.Event()
        self._draining = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return len(self._jobs)

    async def run(self, drain: Drain) -> None:
        """Works until the drain has started and every job that was held is settled."""
        async with self._reports, self._heartbeat, asyncio.TaskGroup() as background:
            heartbeat = background.create_task(self._heartbeat.run(), name="worker-heartbeat")
            async with asyncio.TaskGroup() as handlers:
                stream = background.create_task(self._stream(handlers), name="worker-stream")
                await drain.wait()
                await self._stop_leasing(stream)
                await self._finish()
            heartbeat.cancel()

    async def _stop_leasing(self, stream: asyncio.Task[None]) -> None:
        """Ends the stream without losing a job that is on its way.

        A second stream of the same worker replaces the first, which then delivers what
        was sent and ends with its last frame; what arrives now is given back at once.
        """
        self._draining.set()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                while not stream.done():
                    await self._replace(stream)
        except TimeoutError:
            logger.warning("lease_stream_cut", jobs_held=len(self._jobs))
        finally:
            stream.cancel()

    async def _replace(self, stream: asyncio.Task[None]) -> None:
        """One try: calls go round the replicas, and only the one that holds the stream can end it."""
        replacement = self._work.LeaseJobs(
            pb.LeaseJobsRequest(worker_id=self.worker_id, types=[_NO_TYPE], max_in_flight=1)
        )
        try:
            await replacement.read()
        except grpc.aio.AioRpcError as error:
            logger.info("lease_stream_not_replaced", code=error.code().name)
        finally:
            await asyncio.wait([stream], timeout=_LAST_FRAME_SECONDS)
            replacement.cancel()

    async def _finish(self) -> None:
        """Lets handlers end, then interrupts those that do not."""
        if self._jobs:
            self._idle.clear()
            try:
                async with asyncio.timeout(self._finish_within):
                    await self._idle.wait()
            except TimeoutError:
                for job in list(self._jobs.values()):
                    job.interrupt(Interruption.DRAINED)

    async def _stream(self, handlers: asyncio.TaskGroup) -> None:
        failures = 0
        while not self._draining.is_set():
            try:
                delay = await self._read_stream(handlers)
                failures = 0
            except (grpc.aio.AioRpcError, EOFError) as error:
                failures += 1
                delay = _RECONNECT.delay(failures, rng=self._rng)
                self._heartbeat.accept_again()
                code = error.code().name if isinstance(error, grpc.aio.AioRpcError) else "EOF"
                logger.warning("lease_stream_broken", code=code, failures=failures, jobs_held=len(self._jobs))
            await wait_for_event(self._draining, delay.total_seconds())

    async def _read_stream(self, handlers: asyncio.TaskGroup) -> timedelta:
        """Starts what arrives until the last frame. Returns when to open the next stream."""
        async for frame in self._work.LeaseJobs(self._request()):
            kind = frame.WhichOneof("frame")
            if kind == "leases":
                for leased in frame.leases.jobs:
                    self._start(leased, handlers)
            elif kind == "draining":
                return frame.draining.reconnect_delay.ToTimedelta()
        raise EOFError("the lease stream ended without its last frame")

    def _request(self) -> pb.LeaseJobsRequest:
        return pb.LeaseJobsRequest(
            worker_id=self.worker_id,
            types=sorted(self._handlers),
            max_in_flight=self._concurrency,
            held_leases=[job.lease for job in self._jobs.values()],
        )

    def _start(self, leased: job_pb2.LeasedJob, handlers: asyncio.TaskGroup) -> None:
        job = Job(leased, create=self._create_children)
        stale = self._jobs.get(job.job_id)
        if stale is not None:
            # Leased anew, so that the handler that still runs here holds nothing any more.
            stale.interrupt(Interruption.LOST)
        self._jobs[job.job_id] = job
        job.task = handlers.create_task(self._handle(job), name=f"job:{job.type}:{job.job_id}")

    async def _handle(self, job: Job) -> None:
        try:
            report = await self._attempt(job)
            job.finished = True
            if report and job.unreported:
                await self._heartbeat.save(job)
            outcome = await report() if report else None
            if outcome is not None and outcome.HasField("failure"):
                reason = error_reason_pb2.ErrorReason.Name(outcome.failure.reason)
                logger.warning("report_refused", job_id=job.job_id, type=job.type, reason=reason)
        except RemoteError as error:
            logger.error("report_failed", job_id=job.job_id, type=job.type, error=str(error))  # noqa: TRY400 - no fault of ours; the lease runs out
        finally:
            if self._jobs.get(job.job_id) is job:
                del self._jobs[job.job_id]
            if not self._jobs:
                self._idle.set()

    async def _attempt(self, job: Job) -> Report | None:
        """Runs the handler. Returns how to report what came of it; None when there is nobody to tell."""
        if self._draining.is_set():
            return self._release(job)
        try:
            done = await self._run_handler(job)
        except asyncio.CancelledError:
            if job.interruption is None:
                raise
            return self._interrupted(job)
        except LeaseIsLost:
            # The handler may mean what it works on, while the job is still ours here: refused if it is not, and else
            # nobody would renew or end it before its lease runs out.
            return self._release(job, delay=_LOST_DELAY)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends its attempt, and is logged there
            return self._failed(job, error)
        return self._completed(job, done or Done())

    def _completed(self, job: Job, done: Done) -> Report:
        completion = pb.JobCompletion(
            lease=job.lease,
            result=orjson.dumps(done.result).decode() if done.result else "",
            children=[job.child_spec(child) for child in done.children],
        )
        return partial(self._reports.completing.submit, completion)

    def _failed(self, job: Job, error: Exception) -> Report:
        match error:
            case Snooze():
                if error.checkpoint is not None:
                    job.save(error.checkpoint)
                return self._release(job, delay=error.delay)
            case Fail():
                return self._fail(job, error.message, error.reason, permanent=True)
            case Retry():
                return self._fail(job, error.message, error.reason, retry=error)
            case _:
                logger.error("handler_failed", job_id=job.job_id, type=job.type, attempt=job.attempt, exc_info=error)
                return self._fail(job, f"the handler raised {type(error).__name__}", Reason.INTERNAL_FAULT)

    async def _run_handler(self, job: Job) -> Done | None:
        attributes = {"job.id": job.job_id, "job.type": job.type, "job.attempt": job.attempt}
        left = job.deadline_seconds
        with tracing.span(f"job {job.type}", attributes=attributes, linked_to=job.traceparent):
            if left is None:
                return await self._handlers[job.type](job)
            with deadlines.within(left):
                return await self._handlers[job.type](job)

    def _interrupted(self, job: Job) -> Report | None:
        if job.task is not None:
            job.task.uncancel()
        logger.info("handler_interrupted", job_id=job.job_id, type=job.type, why=job.interruption)
        return None if job.interruption is Interruption.LOST else self._release(job)

    def _release(self, job: Job, *, delay: timedelta = timedelta()) -> Report:
        release = pb.JobRelease(lease=job.lease, delay=_duration(delay), checkpoint=job.unsaved_checkpoint)
        return partial(self._reports.releasing.submit, release)

    def _fail(
        self, job: Job, message: str, reason: Reason, *, permanent: bool = False, retry: Retry | None = None
    ) -> Report:
        attempt = pb.FailedAttempt(
            lease=job.lease,
            failure=job_pb2.JobFailure(
                reason=error_reason_pb2.ErrorReason.ValueType(reason),
                message=message.encode()[:_MAX_MESSAGE_BYTES].decode(errors="ignore"),
            ),
            permanent=permanent,
            retry_delay=_duration(retry.delay) if retry and retry.delay is not None else None,
            gate_until_time=_timestamp(retry) if retry and retry.gate_until else None,
        )
        return partial(self._reports.failing.submit, attempt)

    async def _create_children(self, job: Job, specs: Sequence[job_pb2.JobSpec]) -> None:
        request = jobs_pb.CreateJobsRequest(jobs=specs, parent_lease=job.lease)
        try:
            with remote_errors("scheduler"):
                await self._producer.CreateJobs(request, timeout=_CREATE_TIMEOUT)
        except RemoteError as error:
            if error.reason is Reason.LEASE_LOST:
                job.interrupt(Interruption.LOST)
                raise LeaseIsLost from error
            raise


def _duration(span: timedelta) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(span)
    return duration


def _timestamp(retry: Retry) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    if retry.gate_until is not None:
        timestamp.FromDatetime(retry.gate_until)
    return timestamp
