"""What is measured beyond raw throughput: latency, a large past, a held snapshot, fairness."""

import asyncio
import contextlib
import statistics
import time
from collections import Counter, defaultdict

import asyncpg
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb

from tests.bench.scheduler_load import PAYLOAD, Client, Drain, enqueue, job_pb2

FILL = """
INSERT INTO scheduler.ended_jobs (job_id, create_time, update_time, schedule_time, start_time, spec_hash, fencing_token,
    state, priority, attempt, max_attempts, max_stalls, lease_end, type, project_id, payload, end_time, result)
SELECT gen_random_uuid(), now(), now(), now(), now(), n, 1, 3, 5, 1, 5, 3, 1, 'past', 'project-' || n % 100, '{}',
    now(), '{}'
FROM generate_series(1, $1) n
"""


def percentile(samples: list[float], hundredth: int) -> float:
    return statistics.quantiles(samples, n=100)[hundredth - 1]


async def latency(
    client: Client, *, jobs: int = 500, per_second: float = 100, job_type: str = "latency"
) -> list[float]:
    """Seconds from the call of `CreateJob` to the arrival at the worker, at a steady rate."""
    call = client.work.LeaseJobs(work_pb.LeaseJobsRequest(worker_id=job_type, types=[job_type], max_in_flight=100))
    await call.read()
    sent: dict[str, float] = {}
    waits: list[float] = []
    pending: set[asyncio.Task] = set()

    async def receive() -> None:
        while len(waits) < jobs:
            frame = await call.read()
            now = time.perf_counter()
            for job in frame.leases.jobs:
                waits.append(now - sent[job.payload])
                pending.add(asyncio.create_task(complete(client, job)))

    async def send(number: int) -> None:
        payload = f'{{"n":{number}}}'
        sent[payload] = time.perf_counter()
        spec = job_pb2.JobSpec(type=job_type, project_id="bench", priority=5, payload=payload)
        await client.jobs.CreateJob(jobs_pb.CreateJobRequest(job=spec))

    receiver = asyncio.create_task(receive())
    started = time.perf_counter()
    for number in range(jobs):
        await asyncio.sleep(max(0.0, started + number / per_second - time.perf_counter()))
        pending.add(asyncio.create_task(send(number)))
    await receiver
    await asyncio.gather(*pending)
    call.cancel()
    return waits


async def complete(client: Client, job: job_pb2.LeasedJob) -> None:
    completion = work_pb.JobCompletion(lease=job.lease)
    await client.work.CompleteJobs(work_pb.CompleteJobsRequest(worker_id="latency", completions=[completion]))


async def fill_past(url: str, jobs: int) -> None:
    connection = await asyncpg.connect(url)
    for start in range(0, jobs, 500_000):
        await connection.execute(FILL, min(500_000, jobs - start), timeout=600)
    await connection.execute("VACUUM ANALYZE scheduler.ended_jobs", timeout=600)
    await connection.close()


@contextlib.asynccontextmanager
async def held_snapshot(url: str):
    connection = await asyncpg.connect(url, server_settings={"idle_in_transaction_session_timeout": "0"})
    async with connection.transaction(isolation="repeatable_read"):
        await connection.fetchval("SELECT count(*) FROM scheduler.jobs")
        yield
    await connection.close()


async def steady(client: Client, *, seconds: float, per_second: int, job_type: str) -> None:
    """Creates and drains jobs at a rate, to leave dead rows behind."""
    total = int(seconds * per_second)
    drain = Drain(client=client, job_type=job_type, worker_id=job_type, max_in_flight=1000, frame=500, batch=200)
    draining = asyncio.create_task(drain.until(total))
    started = time.perf_counter()
    for tick in range(int(seconds * 10)):
        await enqueue(client, per_second // 10, job_type=job_type, concurrency=1)
        await asyncio.sleep(max(0.0, started + (tick + 1) / 10 - time.perf_counter()))
    await draining


async def fairness(client: Client, *, large: int, small_projects: int = 99, each: int = 10) -> dict[str, float]:
    """One project with a large backlog against many with few jobs: when do these get theirs?"""

    async def waits_of_small(job_type: str) -> float:
        call = client.work.LeaseJobs(work_pb.LeaseJobsRequest(worker_id=job_type, types=[job_type], max_in_flight=50))
        await call.read()
        specs = [
            job_pb2.JobSpec(type=job_type, project_id=f"small-{project}", priority=5, payload=PAYLOAD)
            for project in range(small_projects)
            for _ in range(each)
        ]
        await client.jobs.CreateJobs(jobs_pb.CreateJobsRequest(jobs=specs))
        started = time.perf_counter()
        waits: list[float] = []
        while len(waits) < len(specs):
            jobs = (await call.read()).leases.jobs
            now = time.perf_counter()
            waits += [now - started for job in jobs if job.project_id.startswith("small")]
            completions = [work_pb.JobCompletion(lease=job.lease) for job in jobs]
            if completions:
                await client.work.CompleteJobs(work_pb.CompleteJobsRequest(worker_id=job_type, completions=completions))
        call.cancel()
        return percentile(waits, 99)

    unloaded = await waits_of_small("unloaded")
    await enqueue(client, large, job_type="loaded", project_id="large")
    loaded = await waits_of_small("loaded")
    return {"others_p99_ratio": round(loaded / unloaded, 2)}


async def share_error(client: Client, *, dispatches: int = 4000) -> float:
    """The largest relative error of a project's share against its weight."""
    weights = {"weight-1": 1.0, "weight-2": 2.0, "weight-5": 5.0}
    for project_id, weight in weights.items():
        await client.jobs.SetProjectWeight(jobs_pb.SetProjectWeightRequest(project_id=project_id, weight=weight))
    await client.jobs.PauseQueue(jobs_pb.PauseQueueRequest(type="weighted"))
    for project_id in weights:
        await enqueue(client, dispatches, job_type="weighted", project_id=project_id)
    call = client.work.LeaseJobs(work_pb.LeaseJobsRequest(worker_id="weighted", types=["weighted"], max_in_flight=100))
    await call.read()
    await client.jobs.ResumeQueue(jobs_pb.ResumeQueueRequest(type="weighted"))
    counted: Counter[str] = Counter()
    while counted.total() < dispatches:
        jobs = (await call.read()).leases.jobs
        counted.update(job.project_id for job in jobs)
        if jobs:
            completions = [work_pb.JobCompletion(lease=job.lease) for job in jobs]
            await client.work.CompleteJobs(work_pb.CompleteJobsRequest(worker_id="weighted", completions=completions))
    call.cancel()
    total = sum(weights.values())
    shares: dict[str, float] = defaultdict(float)
    for project_id, weight in weights.items():
        wanted = weight / total
        shares[project_id] = abs(counted[project_id] / counted.total() - wanted) / wanted
    return round(max(shares.values()), 4)
