"""Benchmark of the scheduler: `python -m tests.bench.scheduler [SCENE …]`; the last line is one JSON object.

A scheduler process, PostgreSQL with fsync on and the client share the machine. A job
counts when its completion is durable. Peers run one after the other on the same server,
and in turns with ours where latency is compared. Each scene has a database of its own.
Scenes: throughput, latency, limits, fairness, snapshot, retained, peers, faults; all of
them unless some are named.

`BENCH_JOBS` (60,000), `BENCH_RETAINED` (1,000,000 terminal jobs; the goal speaks of ten
times as many), `BENCH_SNAPSHOT_SECONDS` (30; the goal speaks of 300), `BENCH_PEER_PYTHON`
(an interpreter that has the peers of requirements/bench.txt; by default this one).
"""

import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import cast

import grpc.aio
import uvloop

from deploy.local.ports import free_port
from services.shared.database.migrations import Migrations, upgrade
from tests.bench import scheduler_faults as faults
from tests.bench import scheduler_latency as latencies
from tests.bench import scheduler_scenes as scenes
from tests.bench.scheduler_limits import limits
from tests.bench.scheduler_load import BATCH, Client, Drain, connect, enqueue, payload
from tests.support.databases import Databases
from tests.support.engines import Engines

JOBS = int(os.environ.get("BENCH_JOBS", "60000"))
RETAINED = int(os.environ.get("BENCH_RETAINED", "1000000"))
SNAPSHOT_SECONDS = float(os.environ.get("BENCH_SNAPSHOT_SECONDS", "30"))
PEER_PYTHON = os.environ.get("BENCH_PEER_PYTHON", sys.executable)
START_WITHIN = 60.0
PEER_WITHIN = 120.0

SCENES = sys.argv[1:] or ["throughput", "latency", "limits", "fairness", "snapshot", "retained", "peers", "faults"]
# What a peer gets to do: those that take seconds per thousand jobs get fewer.
PEER_JOBS = {"pgqueuer": JOBS, "awa": min(JOBS, 20_000), "procrastinate": min(JOBS, 2000)}
FAULT_JOBS = 250_000
WARM_UP = 5000
CALLS = 4
ENQUEUE_ROUNDS = 5
LATENCY_ROUNDS = 5
RETAINED_ROUNDS = 12
SINGLE_WORKERS = 8

Figures = dict[str, object]


@contextlib.asynccontextmanager
async def serving(url: str, **settings: object) -> AsyncGenerator[str]:
    """A scheduler in a process of its own, on a migrated database."""
    await upgrade(Migrations(package="services.scheduler.migrations", schema="scheduler", url=url))
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "SCHEDULER_DATABASE_URL": url,
        "SCHEDULER_PORT": address.rpartition(":")[2],
        "SCHEDULER_METRICS_PORT": "-1",
        "SCHEDULER_LOG_LEVEL": "warning",
        **{f"SCHEDULER_{name.upper()}": str(value) for name, value in settings.items()},
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.scheduler", env=environment)
    try:
        async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(START_WITHIN):
            await channel.channel_ready()
        yield address
    finally:
        process.terminate()
        await process.wait()


async def throughput(client: Client, _url: str) -> Figures:
    await enqueue(client, WARM_UP, job_type="batched", concurrency=CALLS)
    await _drain(client, WARM_UP, "batched")
    figures: Figures = {"enqueue_bulk_per_s": round(await enqueue(client, JOBS, job_type="batched", concurrency=CALLS))}
    figures["grpc_batched_jobs_per_s"] = round(await _drain(client, JOBS, "batched"))
    singles = JOBS // 6
    await enqueue(client, singles, job_type="single")
    single = Drain(
        client=client, job_type="single", worker_id="s", max_in_flight=256, frame=1, batch=1, workers=SINGLE_WORKERS
    )
    figures["grpc_single_jobs_per_s"] = round(await single.until(singles))
    return figures


@contextlib.asynccontextmanager
async def served(databases: Databases) -> AsyncGenerator[tuple[str, Client]]:
    async with databases.fresh() as url, serving(url) as address, connect(address) as client:
        yield url, client


async def latency(databases: Databases) -> Figures:
    """In turns with pgqueuer. Then awa alone, for it keeps the server busy when it has nothing to do."""
    async with (
        served(databases) as (_, client),
        databases.fresh() as url,
        latencies.peer(PEER_PYTHON, "pgqueuer", url) as pgqueuer,
    ):
        samples = {"": latencies.sampled(client), "pgqueuer_": pgqueuer}
        waits = await latencies.in_turns(samples, rounds=LATENCY_ROUNDS, admin_url=databases.admin_url)
    async with databases.fresh() as url, latencies.peer(PEER_PYTHON, "awa", url) as awa:
        waits |= await latencies.in_turns({"awa_": awa}, rounds=1, admin_url=databases.admin_url)
    figures: Figures = {}
    for prefix, each in waits.items():
        figures |= latencies.shown(each, prefix)
    return figures


async def retained(databases: Databases) -> Figures:
    """Lease latency of two schedulers, one of which keeps many terminal jobs."""
    async with served(databases) as (_, without), served(databases) as (url, kept):
        started = time.perf_counter()
        await latencies.fill_past(url, RETAINED)
        loaded = time.perf_counter() - started
        samples = {"without": latencies.sampled(without), "kept": latencies.sampled(kept)}
        waits = await latencies.in_turns(samples, rounds=RETAINED_ROUNDS, admin_url=databases.admin_url)
    before, after = (latencies.percentile(waits[name], 99) for name in samples)
    return {
        "retained_jobs": RETAINED,
        "retained_load_seconds": round(loaded, 1),
        "retained_p99_ms": [round(before * 1000, 3), round(after * 1000, 3)],
        "retained_p99_ratio": round(after / before, 3),
    }


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


async def struck() -> Figures:
    """On a cluster of its own, which the faults are for."""
    jobs = max(JOBS * 3, FAULT_JOBS)
    async with faults.own_cluster() as (url, postgres), serving(url) as address, connect(address) as client:
        await enqueue(client, jobs, job_type=faults.TYPE, concurrency=CALLS)
        return await faults.faults(client, url, postgres, jobs=jobs)


async def _drain(client: Client, jobs: int, name: str) -> float:
    drain = Drain(client=client, job_type=name, worker_id=name, max_in_flight=2000, frame=500, batch=500)
    return await drain.until(jobs)


async def fairness(client: Client) -> Figures:
    figures: Figures = dict(await scenes.fairness(client, large=JOBS))
    figures["share_error"] = await scenes.share_error(client)
    return figures


async def enqueue_in_turns(databases: Databases) -> Figures:
    """Bulk enqueue beside pgqueuer: as it is used, and with as many calls at once and jobs to a call as ours."""
    ways = {"pgqueuer": (1, 2 * BATCH), "pgqueuer_concurrent": (CALLS, BATCH)}
    seen: dict[str, list[float]] = {name: [] for name in ("own", *ways)}
    for _ in range(ENQUEUE_ROUNDS):
        async with served(databases) as (_, client):
            await enqueue(client, WARM_UP, job_type="batched", concurrency=CALLS)
            seen["own"].append(round(await enqueue(client, JOBS, job_type="batched", concurrency=CALLS)))
        for name, way in ways.items():
            async with databases.fresh() as url:
                found = await asyncio.to_thread(peer, "enqueue", url, JOBS, *way, len(payload(0)))
            if "error" in found:
                return {"enqueue_in_turns": found}
            seen[name].append(float(str(found["enqueue_per_s"])))
    median = {name: statistics.median(each) for name, each in seen.items()}
    return {"enqueue_in_turns": seen} | {f"enqueue_vs_{name}": round(median["own"] / median[name], 2) for name in ways}


def peer(*arguments: object) -> Figures:
    """What a peer reaches; its absence is said, not hidden."""
    try:
        done = subprocess.run(
            [PEER_PYTHON, str(latencies.PEERS), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=PEER_WITHIN,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done within {PEER_WITHIN:g} s"}
    if done.returncode != 0:
        return {"error": done.stderr.strip().rpartition("\n")[2][:200]}
    return json.loads(done.stdout.strip().rpartition("\n")[2])


def beside(figures: Figures, pgqueuer: Figures) -> Figures:
    """The figures that are compared with the fastest peer of the same run."""
    if "error" in pgqueuer:
        return {}
    return {"vs_pgqueuer": _ratio(figures, "grpc_batched_jobs_per_s", pgqueuer["jobs_per_s"])}


def _ratio(figures: Figures, name: str, reached: object) -> object:
    own = figures.get(name)
    return round(float(str(own)) / float(str(reached)), 2) if own is not None else None


async def main() -> None:
    began = time.perf_counter()
    figures: Figures = {"jobs": JOBS, "cores": os.cpu_count()}

    def add(more: Figures) -> None:
        figures.update(more)
        print(json.dumps(figures), file=sys.stderr, flush=True)

    with Engines() as engines:
        databases = await engines.databases()
        alone: dict[str, Callable[[Client, str], Awaitable[Figures]]] = {
            "throughput": throughput,
            "limits": lambda client, _: limits(client),
            "fairness": lambda client, _: fairness(client),
            "snapshot": snapshot,
        }
        in_turns = {"latency": latency, "retained": retained}
        for name in SCENES:
            if name in alone:
                async with served(databases) as (url, client):
                    add(await alone[name](client, url))
            elif name in in_turns:
                add(await in_turns[name](databases))
        for name, jobs in PEER_JOBS.items() if "peers" in SCENES else ():
            async with databases.fresh() as url:
                add({name: await asyncio.to_thread(peer, "throughput", name, url, jobs)})
                if name == "pgqueuer":
                    add(beside(figures, cast("Figures", figures[name])))
        if "peers" in SCENES:
            add(await enqueue_in_turns(databases))
        await databases.close()
    if "faults" in SCENES:
        add(await struck())
    figures["seconds"] = round(time.perf_counter() - began, 1)
    figures["load_average"] = os.getloadavg()
    print(json.dumps(figures))


if __name__ == "__main__":
    uvloop.run(main())
