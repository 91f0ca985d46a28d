"""The peers, each in a process of its own: `scheduler_peers.py NAME DATABASE_URL JOBS`; prints one JSON line.

A job counts when its row is gone or marked as done in the database; with awa, when its handler has run.
"""

# ruff: noqa: PLC0415 - a peer is imported by its own run alone

import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass

import asyncpg

AWA_WITHIN = 100.0


async def durable(url: str, statement: str, *, within: float = 120) -> None:
    """Waits until `statement` counts no open job."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(within):
            while await connection.fetchval(statement):  # noqa: ASYNC110 - peers give no event for this
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


def latencies(samples: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(samples, n=100)
    return {"p50_ms": round(cuts[49] * 1000, 3), "p99_ms": round(cuts[98] * 1000, 3)}


async def pgqueuer(url: str, jobs: int) -> dict[str, object]:
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    connection = await asyncpg.connect(url)
    driver = AsyncpgDriver(connection)
    queries = Queries(driver)
    await queries.install()
    started = time.perf_counter()
    for start in range(0, jobs, 5000):
        count = min(5000, jobs - start)
        await queries.enqueue(["bench"] * count, [b"x" * 64] * count, [0] * count)
    enqueue = jobs / (time.perf_counter() - started)
    worker = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))
    sent: dict[int, float] = {}
    waits: list[float] = []

    @worker.entrypoint("bench")
    async def bench(_job) -> None:
        return

    @worker.entrypoint("latency")
    async def latency(job) -> None:
        waits.append(time.perf_counter() - sent[int(job.payload)])

    started = time.perf_counter()
    running = asyncio.create_task(worker.run(batch_size=500))
    await durable(url, "SELECT count(*) FROM pgqueuer")
    drain = jobs / (time.perf_counter() - started)
    for number in range(400):
        sent[number] = time.perf_counter()
        await queries.enqueue("latency", str(number).encode(), 0)
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.5)
    worker.shutdown.set()
    await asyncio.wait([running], timeout=5)
    return {"enqueue_per_s": round(enqueue), "jobs_per_s": round(drain), **latencies(waits)}


async def procrastinate(url: str, jobs: int) -> dict[str, object]:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=url))

    @app.task(name="bench")
    async def bench() -> None:
        return

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        started = time.perf_counter()
        await bench.batch_defer_async(*[{} for _ in range(jobs)])
        enqueue = jobs / (time.perf_counter() - started)
        started = time.perf_counter()
        await app.run_worker_async(concurrency=20, wait=False, install_signal_handlers=False)
        drain = jobs / (time.perf_counter() - started)
    return {"enqueue_per_s": round(enqueue), "jobs_per_s": round(drain)}


async def awa(url: str, jobs: int) -> dict[str, object]:
    from awa import AsyncClient

    @dataclass
    class Bench:
        sent: float

    waits: list[float] = []
    client = AsyncClient(url, max_connections=20)
    await client.migrate()
    # Without this it stays on the storage of earlier versions, which COPY does not know.
    await client.install_queue_storage()

    @client.task(Bench, queue="bench")
    async def bench(job) -> None:
        waits.append(time.perf_counter() - job.args.sent)

    async def handled(count: int) -> None:
        """Its own count of what is stored does not return under load, so that it gets the benefit of the doubt."""
        async with asyncio.timeout(AWA_WITHIN):
            while len(waits) < count:  # noqa: ASYNC110 - it gives no event for this
                await asyncio.sleep(0.02)

    started = time.perf_counter()
    for start in range(0, jobs, 5000):
        await client.enqueue_many_copy([Bench(sent=0.0)] * min(5000, jobs - start), queue="bench")
    enqueue = jobs / (time.perf_counter() - started)
    started = time.perf_counter()
    await client.start([("bench", 256)], poll_interval_ms=50)
    await handled(jobs)
    drain = jobs / (time.perf_counter() - started)
    waits.clear()
    for _ in range(400):
        await client.insert(Bench(sent=time.perf_counter()), queue="bench")
        await asyncio.sleep(0.01)
    await handled(400)
    await client.shutdown()
    await client.close()
    return {"enqueue_per_s": round(enqueue), "jobs_per_s": round(drain), **latencies(waits)}


PEERS = {"pgqueuer": pgqueuer, "awa": awa, "procrastinate": procrastinate}

if __name__ == "__main__":
    print(json.dumps(asyncio.run(PEERS[sys.argv[1]](sys.argv[2], int(sys.argv[3])))))
