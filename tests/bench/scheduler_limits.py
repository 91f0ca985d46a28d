"""Hard caps and gates, judged by what workers saw: the history of who held what, and when it was leased."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, timedelta

from google.protobuf import timestamp_pb2
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb

from tests.bench.scheduler_load import PAYLOAD, Client

CAP = 7
WORKERS = 3
SHUT_SECONDS = 0.15
FAIL_EVERY = 25
DONE_WITHIN = 120.0


@dataclass(slots=True, kw_only=True)
class History:
    """`held` counts a job from its arrival until its completion is sent, so that it is never counted for too long."""

    held: int = 0
    most_held: int = 0
    exceeded: int = 0
    done: int = 0
    leases: list[tuple[float, float]] = field(default_factory=list)
    """When the claim of each lease began, by the clock of the database, and when the lease arrived."""
    shut: list[tuple[float, float]] = field(default_factory=list)
    """From when on and until when the gate was known to be shut."""

    def arrived(self, job: job_pb2.LeasedJob, *, accept: timedelta) -> None:
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        self.exceeded += self.held > CAP
        self.leases.append((job.lease_expire_time.ToDatetime(UTC).timestamp() - accept.total_seconds(), time.time()))

    @property
    def gate_violations(self) -> int:
        """Leases whose claim began after the gate was known to be shut, and that arrived before it opened."""
        return sum(
            any(since <= claimed and arrived < until for since, until in self.shut) for claimed, arrived in self.leases
        )


async def work(client: Client, job_type: str, name: str, history: History, *, fails: bool) -> None:
    """Holds each job for a few milliseconds. With `fails` some jobs fail, and shut the gate of their key."""
    rng = random.Random(name)
    call = client.work.LeaseJobs(work_pb.LeaseJobsRequest(worker_id=name, types=[job_type], max_in_flight=2 * CAP))
    accept = (await call.read()).opened.accept_timeout.ToTimedelta()

    async def attempt(job: job_pb2.LeasedJob) -> None:
        await asyncio.sleep(rng.uniform(0.001, 0.004))
        history.held -= 1
        if fails and job.attempt == 1 and rng.randrange(FAIL_EVERY) == 0:
            await _fail(client, job, name, history)
        else:
            completions = [work_pb.JobCompletion(lease=job.lease)]
            await client.work.CompleteJobs(work_pb.CompleteJobsRequest(worker_id=name, completions=completions))
            history.done += 1

    async with asyncio.TaskGroup() as attempts:
        while frame := await call.read():
            for job in frame.leases.jobs:
                history.arrived(job, accept=accept)
                attempts.create_task(attempt(job))


async def _fail(client: Client, job: job_pb2.LeasedJob, name: str, history: History) -> None:
    until = timestamp_pb2.Timestamp()
    until.FromNanoseconds(time.time_ns() + round(SHUT_SECONDS * 1e9))
    attempt = work_pb.FailedAttempt(
        lease=job.lease, failure=job_pb2.JobFailure(reason=8, message="come later"), gate_until_time=until
    )
    await client.work.FailJobs(work_pb.FailJobsRequest(worker_id=name, attempts=[attempt]))
    history.shut.append((time.time(), until.ToDatetime(UTC).timestamp()))


async def scene(client: Client, job_type: str, *, jobs: int, cap: int, fails: bool) -> History:
    await client.jobs.SetKeyLimit(jobs_pb.SetKeyLimitRequest(limit_key=job_type, max_in_flight=cap))
    spec = job_pb2.JobSpec(
        type=job_type, project_id="bench", priority=5, payload=PAYLOAD, limit_key=job_type, max_attempts=50
    )
    await client.jobs.CreateJobs(jobs_pb.CreateJobsRequest(jobs=[spec] * jobs))
    history = History()
    working = [
        asyncio.create_task(work(client, job_type, f"{job_type}-{number}", history, fails=fails))
        for number in range(WORKERS)
    ]
    async with asyncio.timeout(DONE_WITHIN):
        while history.done < jobs:
            await asyncio.sleep(0.01)
            for task in working:
                if task.done():
                    task.result()
    for task in working:
        task.cancel()
    await asyncio.wait(working)
    return history


async def limits(client: Client) -> dict[str, object]:
    capped = await scene(client, "capped", jobs=1500, cap=CAP, fails=False)
    gated = await scene(client, "gated", jobs=300, cap=0, fails=True)
    return {
        "cap_exceeded": capped.exceeded,
        "cap_most_held": f"{capped.most_held} of {CAP}",
        "gates_shut": len(gated.shut),
        "gate_violations": gated.gate_violations,
    }
