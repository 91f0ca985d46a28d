"""The peers, each in a process of its own.

`scheduler_peers.py throughput NAME DATABASE_URL JOBS` prints one JSON line. A job counts when its row is gone or marked
as done in the database; with awa, when its handler has run.

`scheduler_peers.py enqueue DATABASE_URL JOBS CALLS BATCH BYTES` prints how many jobs per second pgqueuer takes in: so
many calls at once on a connection each, so many jobs to a call, payloads of so many bytes.

`scheduler_peers.py latency NAME DATABASE_URL` reads a number of jobs per line and answers each line with a JSON list:
the seconds that each of them waited, from the call that creates it to its handler, at some 100 a second.
"""

# ruff: noqa: PLC0415 - a peer is imported by its own run alone

import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import asyncpg

AWA_WITHIN = 100.0
LATE = 30.0


async def durable(url: str, statement: str, *, within: float = 120) -> None:
    """Waits until `statement` counts no open job."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(within):
            while await connection.fetchval(statement):  # noqa: ASYNC110 - peers give no event for this
                await asyncio.sleep(0.02)
    finally:
        await connection.close()


Sample = Callable[[int], Awaitable[list[float]]]


async def steadily(enqueue: Callable[[int], Awaitable[object]], waits: list[float], jobs: int) -> list[float]:
    waits.clear()
    for number in range(jobs):
        await enqueue(number)
        await asyncio.sleep(0.01)
    async with asyncio.timeout(LATE):
        while len(waits) < jobs:  # noqa: ASYNC110 - peers give no event for this
            await asyncio.sleep(0.02)
    return list(waits)


async def pgqueuer(url: str, jobs: int) -> dict[str, object]:
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    connection = await asyncpg.connect(url)
    driver = AsyncpgDriver(connection)
    queries = Queries(driver)
    await queries.install()
    started = time.perf_counter()
    await _pgqueuer_fill(queries.enqueue, range(0, jobs, 5000), jobs=jobs, batch=5000, size=64)
    enqueue = jobs / (time.perf_counter() - started)
    worker = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))

    @worker.entrypoint("bench")
    async def bench(_job) -> None:
        return

    started = time.perf_counter()
    running = asyncio.create_task(worker.run(batch_size=500))
    await durable(url, "SELECT count(*) FROM pgqueuer")
    drain = jobs / (time.perf_counter() - started)
    worker.shutdown.set()
    await asyncio.wait([running], timeout=5)
    return {"enqueue_per_s": round(enqueue), "jobs_per_s": round(drain)}


async def pgqueuer_enqueue(url: str, jobs: int, calls: int, batch: int, size: int) -> float:
    """Jobs per second. The first call of each connection is not timed."""
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    connections = [Queries(AsyncpgDriver(await asyncpg.connect(url))) for _ in range(calls)]
    await connections[0].install()
    left = iter(range(0, jobs, batch))

    fill = partial(_pgqueuer_fill, jobs=jobs, batch=batch, size=size)

    await asyncio.gather(*(fill(queries.enqueue, [0]) for queries in connections))
    started = time.perf_counter()
    await asyncio.gather(*(fill(queries.enqueue, left) for queries in connections))
    return jobs / (time.perf_counter() - started)


async def _pgqueuer_fill(
    take: Callable[..., Awaitable[object]], starts: Iterable[int], *, jobs: int, batch: int, size: int
) -> None:
    """One call for each start, of `batch` jobs with payloads of `size` bytes, or of as many as are left."""
    for start in starts:
        count = min(batch, jobs - start)
        await take(["bench"] * count, [b"x" * size] * count, [0] * count)


@asynccontextmanager
async def pgqueuer_latency(url: str) -> AsyncGenerator[Sample]:
    from pgqueuer import PgQueuer
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    queries = Queries(AsyncpgDriver(await asyncpg.connect(url)))
    await queries.install()
    worker = PgQueuer(AsyncpgDriver(await asyncpg.connect(url)))
    sent: dict[int, float] = {}
    waits: list[float] = []

    @worker.entrypoint("latency")
    async def latency(job) -> None:
        waits.append(time.perf_counter() - sent[int(job.payload)])

    async def enqueue(number: int) -> None:
        sent[number] = time.perf_counter()
        await queries.enqueue("latency", str(number).encode(), 0)

    running = asyncio.create_task(worker.run(batch_size=500))
    yield lambda jobs: steadily(enqueue, waits, jobs)
    worker.shutdown.set()
    await asyncio.wait([running], timeout=5)


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
    @dataclass
    class Bench:
        sent: float

    handled = 0
    client = await _awa_client(url)

    @client.task(Bench, queue="bench")
    async def bench(_job) -> None:
        nonlocal handled
        handled += 1

    started = time.perf_counter()
    for start in range(0, jobs, 5000):
        await client.enqueue_many_copy([Bench(sent=0.0)] * min(5000, jobs - start), queue="bench")
    enqueue = jobs / (time.perf_counter() - started)
    started = time.perf_counter()
    await client.start([("bench", 256)], poll_interval_ms=50)
    # Its own count of what is stored does not return under load, so that it gets the benefit of the doubt.
    async with asyncio.timeout(AWA_WITHIN):
        while handled < jobs:  # noqa: ASYNC110 - it gives no event for this
            await asyncio.sleep(0.02)
    drain = jobs / (time.perf_counter() - started)
    await client.shutdown()
    await client.close()
    return {"enqueue_per_s": round(enqueue), "jobs_per_s": round(drain)}


@asynccontextmanager
async def awa_latency(url: str) -> AsyncGenerator[Sample]:
    @dataclass
    class Latency:
        sent: float

    waits: list[float] = []
    client = await _awa_client(url)

    @client.task(Latency, queue="latency")
    async def latency(job) -> None:
        waits.append(time.perf_counter() - job.args.sent)

    async def enqueue(_number: int) -> None:
        await client.insert(Latency(sent=time.perf_counter()), queue="latency")

    await client.start([("latency", 256)], poll_interval_ms=50)
    yield lambda jobs: steadily(enqueue, waits, jobs)
    await client.shutdown()
    await client.close()


async def _awa_client(url: str):
    from awa import AsyncClient

    client = AsyncClient(url, max_connections=20)
    await client.migrate()
    # Without this it stays on the storage of earlier versions, which COPY does not know.
    await client.install_queue_storage()
    return client


async def answer(name: str, url: str) -> None:
    async with LATENCIES[name](url) as sample:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await sample(int(line))), flush=True)


async def throughput(name: str, url: str, jobs: str) -> None:
    print(json.dumps(await THROUGHPUTS[name](url, int(jobs))))


async def enqueue(url: str, *numbers: str) -> None:
    print(json.dumps({"enqueue_per_s": round(await pgqueuer_enqueue(url, *map(int, numbers)))}))


THROUGHPUTS = {"pgqueuer": pgqueuer, "awa": awa, "procrastinate": procrastinate}
LATENCIES = {"pgqueuer": pgqueuer_latency, "awa": awa_latency}

if __name__ == "__main__":
    asyncio.run({"throughput": throughput, "enqueue": enqueue, "latency": answer}[sys.argv[1]](*sys.argv[2:]))
