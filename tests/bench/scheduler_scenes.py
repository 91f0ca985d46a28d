"""What is measured beyond raw throughput: a held snapshot, fairness."""

import asyncio
import contextlib
import time
from collections import Counter, defaultdict

import asyncpg
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb

from tests.bench.scheduler_latency import percentile
from tests.bench.scheduler_load import PAYLOAD, Client, Drain, enqueue, job_pb2


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
