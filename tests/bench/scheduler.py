"""Benchmark of the scheduler: `python -m tests.bench.scheduler`; the last line is one JSON object.

A scheduler process, PostgreSQL with fsync on and the client share the machine. A job
counts when its completion is durable. Peers run one after the other on the same server.

`BENCH_JOBS` (60,000), `BENCH_RETAINED` (1,000,000 terminal jobs; the goal speaks of ten
times as many), `BENCH_SNAPSHOT_SECONDS` (30), `BENCH_PEER_PYTHON` (an interpreter that has
the peers of requirements/bench.txt; by default this one).
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import grpc.aio
import uvloop

from services.shared.database.migrations import Migrations, upgrade
from tests.bench import scheduler_scenes as scenes
from tests.bench.scheduler_load import Client, Drain, connect, enqueue
from tests.support.engines import Engines

JOBS = int(os.environ.get("BENCH_JOBS", "60000"))
RETAINED = int(os.environ.get("BENCH_RETAINED", "1000000"))
SNAPSHOT_SECONDS = float(os.environ.get("BENCH_SNAPSHOT_SECONDS", "30"))
PEER_PYTHON = os.environ.get("BENCH_PEER_PYTHON", sys.executable)
PORT = int(os.environ.get("BENCH_PORT", "7915"))
PEERS = Path(__file__).with_name("scheduler_peers.py")
START_WITHIN = 60.0

Figures = dict[str, object]


@contextlib.asynccontextmanager
async def serving(url: str, **settings: object) -> AsyncGenerator[str]:
    """A scheduler in a process of its own, on a migrated database."""
    await upgrade(Migrations(package="services.scheduler.migrations", schema="scheduler", url=url))
    environment = {
        **os.environ,
        "SCHEDULER_DATABASE_URL": url,
        "SCHEDULER_PORT": str(PORT),
        "SCHEDULER_METRICS_PORT": "-1",
        "SCHEDULER_LOG_LEVEL": "warning",
        **{f"SCHEDULER_{name.upper()}": str(value) for name, value in settings.items()},
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.scheduler", env=environment)
    address = f"127.0.0.1:{PORT}"
    try:
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(START_WITHIN):
            await channel.channel_ready()
        yield address
    finally:
        process.terminate()
        await process.wait()


async def throughput(client: Client) -> Figures:
    figures: Figures = {"enqueue_bulk_per_s": round(await enqueue(client, JOBS, job_type="batched"))}
    batched = Drain(client=client, job_type="batched", worker_id="b", max_in_flight=2000, frame=500, batch=500)
    figures["grpc_batched_jobs_per_s"] = round(await batched.until(JOBS))
    singles = JOBS // 6
    await enqueue(client, singles, job_type="single")
    single = Drain(client=client, job_type="single", worker_id="s", max_in_flight=256, frame=1, batch=1)
    figures["grpc_single_jobs_per_s"] = round(await single.until(singles))
    waits = await scenes.latency(client)
    figures["latency_p50_ms"] = round(statistics.median(waits) * 1000, 3)
    figures["latency_p99_ms"] = round(scenes.percentile(waits, 99) * 1000, 3)
    return figures


async def past(client: Client, url: str) -> Figures:
    """Lease latency with few and with many terminal jobs kept."""
    before = scenes.percentile(await scenes.latency(client, job_type="before"), 99)
    await scenes.fill_past(url, RETAINED)
    await scenes.latency(client, jobs=100, job_type="settle")
    after = scenes.percentile(await scenes.latency(client, job_type="after"), 99)
    return {"retained_jobs": RETAINED, "retained_p99_ratio": round(after / before, 3)}


async def snapshot(client: Client, url: str) -> Figures:
    """Throughput behind a snapshot that was held while many jobs came and went."""
    jobs = JOBS // 3
    await enqueue(client, jobs, job_type="clean")
    clean = await _drain(client, jobs, "clean")
    async with scenes.held_snapshot(url):
        await scenes.steady(client, seconds=SNAPSHOT_SECONDS, per_second=1000, job_type="steady")
        await enqueue(client, jobs, job_type="held")
        held = await _drain(client, jobs, "held")
    return {"snapshot_seconds": SNAPSHOT_SECONDS, "snapshot_ratio": round(held / clean, 3)}


async def _drain(client: Client, jobs: int, name: str) -> float:
    drain = Drain(client=client, job_type=name, worker_id=name, max_in_flight=2000, frame=500, batch=500)
    return await drain.until(jobs)


async def fairness(client: Client) -> Figures:
    figures: Figures = dict(await scenes.fairness(client, large=JOBS))
    figures["share_error"] = await scenes.share_error(client)
    return figures


def peer(name: str, url: str, jobs: int) -> Figures:
    """What a peer reaches; its absence is said, not hidden."""
    done = subprocess.run(
        [PEER_PYTHON, str(PEERS), name, url, str(jobs)], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        return {"error": done.stderr.strip().rpartition("\n")[2][:200]}
    return json.loads(done.stdout.strip().rpartition("\n")[2])


async def main() -> None:
    began = time.perf_counter()
    figures: Figures = {"jobs": JOBS, "cores": os.cpu_count()}
    with Engines() as engines:
        databases = await engines.databases()
        async with databases.fresh() as url, serving(url) as address, connect(address) as client:
            for scene in (throughput(client), fairness(client), snapshot(client, url), past(client, url)):
                figures |= await scene
                print(json.dumps(figures), file=sys.stderr, flush=True)
        for name, jobs in (("pgqueuer", JOBS), ("procrastinate", min(JOBS, 2000))):
            async with databases.fresh() as url:
                figures[name] = await asyncio.to_thread(peer, name, url, jobs)
        await databases.close()
    reached = figures["pgqueuer"]
    if isinstance(reached, dict) and "jobs_per_s" in reached:
        figures["vs_pgqueuer"] = round(float(str(figures["grpc_batched_jobs_per_s"])) / reached["jobs_per_s"], 2)
    figures["seconds"] = round(time.perf_counter() - began, 1)
    figures["load_average"] = os.getloadavg()
    print(json.dumps(figures))


if __name__ == "__main__":
    uvloop.run(main())
