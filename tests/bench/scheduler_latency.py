"""How long a job waits for its handler: beside peers, and with none and with many terminal jobs kept.

What is compared is sampled in turns, each on a database of its own, with a checkpoint and a
warm-up before every sample: whatever the machine does falls on all alike, and no sample pays
for another.
"""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb

from tests.bench.scheduler_load import Client, job_pb2

PEERS = Path(__file__).with_name("scheduler_peers.py")
DAYS = 6
WARM_UP = 100
PER_SECOND = 100.0
SAMPLE = 400
LOAD_WITHIN = 1200.0

Sample = Callable[[int], Awaitable[list[float]]]
"""Seconds that each of so many jobs waited, from the call that creates it to its handler."""

# One day of the past, as the service partitions it. The table is new to the transaction, so that PostgreSQL need not
# log its rows, and its indexes are built when it is attached.
DAY = """
CREATE TABLE scheduler.{name} (LIKE scheduler.ended_jobs INCLUDING DEFAULTS);
INSERT INTO scheduler.{name} (job_id, create_time, update_time, schedule_time, start_time, spec_hash, fencing_token,
    state, priority, attempt, max_attempts, max_stalls, lease_end, type, project_id, payload, end_time, result)
SELECT uuidv7(at - now()), at, at, at, at, n, 1, 3, 5, 1, 5, 3, 1, 'past', 'project-' || n % 100, '{{}}', at, '{{}}'
FROM generate_series(1, {jobs}) n, LATERAL (SELECT '{start}'::timestamptz + n * interval '1 day' / ({jobs} + 1)) t(at);
ALTER TABLE scheduler.ended_jobs ATTACH PARTITION scheduler.{name} FOR VALUES FROM ('{start}') TO ('{end}');
"""


def percentile(samples: list[float], hundredth: int) -> float:
    return statistics.quantiles(samples, n=100)[hundredth - 1]


def shown(waits: list[float], prefix: str = "") -> dict[str, object]:
    return {
        f"{prefix}latency_p50_ms": round(statistics.median(waits) * 1000, 3),
        f"{prefix}latency_p99_ms": round(percentile(waits, 99) * 1000, 3),
    }


async def in_turns(samples: Mapping[str, Sample], *, rounds: int, admin_url: str) -> dict[str, list[float]]:
    """All waits of each, `SAMPLE` a round; who begins changes from round to round."""
    waits: dict[str, list[float]] = {name: [] for name in samples}
    admin = await asyncpg.connect(admin_url)
    names = list(samples)
    for _ in range(rounds):
        for name in names:
            await admin.execute("CHECKPOINT", timeout=LOAD_WITHIN)
            # After it the first change of a page is logged as the whole page.
            await samples[name](WARM_UP)
            waits[name] += await samples[name](SAMPLE)
        names = names[1:] + names[:1]
    await admin.close()
    return waits


def sampled(client: Client) -> Sample:
    return lambda jobs: latency(client, jobs=jobs)


@contextlib.asynccontextmanager
async def peer(python: str, name: str, url: str) -> AsyncGenerator[Sample]:
    """A peer in a process of its own, which takes a sample per line that it reads."""
    process = await asyncio.create_subprocess_exec(
        *(python, str(PEERS), "latency", name, url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout

    async def sample(jobs: int) -> list[float]:
        requests.write(f"{jobs}\n".encode())
        return json.loads(await answers.readline())

    try:
        yield sample
    finally:
        requests.close()
        await process.wait()


async def latency(client: Client, *, jobs: int, job_type: str = "latency") -> list[float]:
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
                pending.add(asyncio.create_task(_complete(client, job)))

    async def send(number: int) -> None:
        payload = f'{{"n":{number}}}'
        sent[payload] = time.perf_counter()
        spec = job_pb2.JobSpec(type=job_type, project_id="bench", priority=5, payload=payload)
        await client.jobs.CreateJob(jobs_pb.CreateJobRequest(job=spec))

    receiver = asyncio.create_task(receive())
    started = time.perf_counter()
    for number in range(jobs):
        await asyncio.sleep(max(0.0, started + number / PER_SECOND - time.perf_counter()))
        pending.add(asyncio.create_task(send(number)))
    await receiver
    await asyncio.gather(*pending)
    call.cancel()
    return waits


async def _complete(client: Client, job: job_pb2.LeasedJob) -> None:
    completion = work_pb.JobCompletion(lease=job.lease)
    await client.work.CompleteJobs(work_pb.CompleteJobsRequest(worker_id="latency", completions=[completion]))


async def fill_past(url: str, jobs: int) -> None:
    """Terminal jobs that ended over the past days, in the partitions of these days."""
    connection = await asyncpg.connect(url)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for day in range(1, DAYS + 1):
        start = today - timedelta(days=day)
        await connection.execute(
            DAY.format(
                name=f"ended_jobs_{start:%Y%m%d_%H%M}",
                jobs=jobs // DAYS + (day <= jobs % DAYS),
                start=start.isoformat(),
                end=(start + timedelta(days=1)).isoformat(),
            ),
            timeout=LOAD_WITHIN,
        )
    await connection.execute("VACUUM (ANALYZE) scheduler.ended_jobs", timeout=LOAD_WITHIN)
    await connection.close()
