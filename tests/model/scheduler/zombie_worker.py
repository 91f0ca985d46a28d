"""A worker process that does what it is told on standard input and reports each call on standard output.

It leases one job at a time and renews the lease until it hears that it is lost. It never
gives up a write because of that: a worker that was stopped in the middle of its work does
not know either. One JSON object per line, in both directions.
"""

import argparse
import asyncio
import json
import sys
import time
import uuid
from datetime import UTC

import grpc.aio
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as pb
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from scristill.scheduler.v1.worker_service_pb2_grpc import WorkerServiceStub

from tests.model.scheduler.history import ENDINGS, Answer, Call

_TIMEOUT = 10.0
_RENEWALS_PER_LEASE = 4
_PAUSE_BEFORE_RECONNECT = 0.1
_INTERNAL_FAULT = 8


class ZombieWorker:
    def __init__(self, channel: grpc.aio.Channel, *, worker_id: str, job_type: str) -> None:
        self._work = WorkerServiceStub(channel)
        self._jobs = SchedulerServiceStub(channel)
        self._worker_id = worker_id
        self._type = job_type
        self._renewing: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            leasing = tasks.create_task(self._lease(tasks))
            await self._obey(tasks)
            leasing.cancel()
            for renewing in self._renewing.values():
                renewing.cancel()

    async def _lease(self, tasks: asyncio.TaskGroup) -> None:
        request = pb.LeaseJobsRequest(worker_id=self._worker_id, types=[self._type], max_in_flight=1)
        while True:
            try:
                async for frame in self._work.LeaseJobs(request):
                    for job in frame.leases.jobs:
                        self._take(job, tasks)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(_PAUSE_BEFORE_RECONNECT)

    def _take(self, job: job_pb2.LeasedJob, tasks: asyncio.TaskGroup) -> None:
        lease = job.lease
        self._report(Call.LEASE, lease, key=job.limit_key)
        self._renewing[lease.job_id, lease.fencing_token] = tasks.create_task(self._renew(job))

    async def _renew(self, job: job_pb2.LeasedJob) -> None:
        pause = job.lease_duration.ToTimedelta().total_seconds() / _RENEWALS_PER_LEASE
        held = True
        while held:
            held = await self.renew(job.lease)
            await asyncio.sleep(pause)

    async def _obey(self, tasks: asyncio.TaskGroup) -> None:
        """Carries out commands until the end of the input. A write is begun when it is read, not when it was sent."""
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            command = json.loads(line)
            lease = job_pb2.LeaseRef(job_id=command["job_id"], fencing_token=command["token"])
            tasks.create_task(self._carry_out(command["call"], lease))

    async def _carry_out(self, call: str, lease: job_pb2.LeaseRef) -> None:
        renewing = self._renewing.get((lease.job_id, lease.fencing_token))
        if renewing is not None and call in ENDINGS:
            renewing.cancel()
        await getattr(self, call)(lease)

    async def renew(self, lease: job_pb2.LeaseRef) -> bool:
        invoked = time.monotonic()
        request = pb.RenewLeasesRequest(worker_id=self._worker_id, renewals=[pb.LeaseRenewal(lease=lease)])
        try:
            response = await self._work.RenewLeases(request, timeout=_TIMEOUT)
        except grpc.aio.AioRpcError:
            self._report(Call.RENEW, lease, invoked=invoked, answer=Answer.UNKNOWN)
            return True
        [directive] = response.directives
        lost = directive.directive == pb.DIRECTIVE_LOST
        left = 0.0 if lost else directive.lease_expire_time.ToDatetime(UTC).timestamp() - time.time()
        self._report(
            Call.RENEW,
            lease,
            invoked=invoked,
            answer=Answer.REFUSED if lost else Answer.ACCEPTED,
            held_until=0.0 if lost else time.monotonic() + left,
        )
        return not lost

    async def complete(self, lease: job_pb2.LeaseRef) -> None:
        completions = [pb.JobCompletion(lease=lease, result=json.dumps({"by": self._worker_id}))]
        request = pb.CompleteJobsRequest(worker_id=self._worker_id, completions=completions)
        await self._write(Call.COMPLETE, lease, self._work.CompleteJobs, request)

    async def fail(self, lease: job_pb2.LeaseRef) -> None:
        failure = job_pb2.JobFailure(reason=_INTERNAL_FAULT, message="woke up too late")
        attempts = [pb.FailedAttempt(lease=lease, failure=failure, permanent=True)]
        request = pb.FailJobsRequest(worker_id=self._worker_id, attempts=attempts)
        await self._write(Call.FAIL, lease, self._work.FailJobs, request)

    async def release(self, lease: job_pb2.LeaseRef) -> None:
        request = pb.ReleaseJobsRequest(worker_id=self._worker_id, releases=[pb.JobRelease(lease=lease)])
        await self._write(Call.RELEASE, lease, self._work.ReleaseJobs, request)

    async def create_child(self, lease: job_pb2.LeaseRef) -> None:
        child = job_pb2.JobSpec(job_id=str(uuid.uuid4()), type="orphan", project_id="zombies", priority=5)
        request = jobs_pb.CreateJobsRequest(jobs=[child], parent_lease=lease)
        invoked = time.monotonic()
        try:
            await self._jobs.CreateJobs(request, timeout=_TIMEOUT)
            answer = Answer.ACCEPTED
        except grpc.aio.AioRpcError as error:
            refused = error.code() is grpc.StatusCode.FAILED_PRECONDITION
            answer = Answer.REFUSED if refused else Answer.UNKNOWN
        self._report(Call.CREATE_CHILD, lease, invoked=invoked, answer=answer)

    async def _write(self, call: Call, lease: job_pb2.LeaseRef, method, request) -> None:
        invoked = time.monotonic()
        try:
            [outcome] = (await method(request, timeout=_TIMEOUT)).outcomes
        except grpc.aio.AioRpcError:
            self._report(call, lease, invoked=invoked, answer=Answer.UNKNOWN)
            return
        refused = outcome.HasField("failure")
        state = "" if refused else job_pb2.JobState.Name(outcome.state).removeprefix("JOB_STATE_")
        self._report(call, lease, invoked=invoked, answer=Answer.REFUSED if refused else Answer.ACCEPTED, state=state)

    def _report(self, call: Call, lease: job_pb2.LeaseRef, **fields: object) -> None:
        event = {
            "call": call,
            "job_id": lease.job_id,
            "token": lease.fencing_token,
            "worker_id": self._worker_id,
            "returned": time.monotonic(),
            **fields,
        }
        print(json.dumps(event), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("worker_id")
    parser.add_argument("job_type")
    arguments = parser.parse_args()
    async with grpc.aio.insecure_channel(arguments.address) as channel:
        await ZombieWorker(channel, worker_id=arguments.worker_id, job_type=arguments.job_type).run()


if __name__ == "__main__":
    asyncio.run(main())
