"""Load-tests sizes of the scheduler's connection pool: `python -m tests.bench.scheduler_pool`; last line is JSON.

For each size: throughput in batches and in single messages, and how long statements
waited for a connection. The rule in docs/configuration.md comes from this curve.
"""

import asyncio
import json
import os
import re
import sys
import urllib.request

import uvloop

from tests.bench.scheduler import serving
from tests.bench.scheduler_load import Client, Drain, connect, enqueue
from tests.support.engines import Engines

SIZES = tuple(int(size) for size in os.environ.get("BENCH_POOL_SIZES", "2,4,8,12,20").split(","))
JOBS = int(os.environ.get("BENCH_JOBS", "20000"))
METRICS_PORT = int(os.environ.get("BENCH_METRICS_PORT", "7916"))
WAIT = re.compile(r'^scristill_scheduler_sql_wait_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE)


def share_without_wait() -> float:
    """Of the statements, those that had a connection within a millisecond."""
    with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=5) as response:
        buckets = {bound: float(count) for bound, count in WAIT.findall(response.read().decode())}
    return round(buckets["0.001"] / buckets["+Inf"], 4)


async def measure(client: Client) -> dict[str, float]:
    await enqueue(client, JOBS, job_type="batched")
    batched = Drain(client=client, job_type="batched", worker_id="b", max_in_flight=2000, frame=500, batch=500)
    singles = JOBS // 6
    figures = {"batched_per_s": round(await batched.until(JOBS))}
    await enqueue(client, singles, job_type="single")
    single = Drain(client=client, job_type="single", worker_id="s", max_in_flight=256, frame=1, batch=1)
    figures["single_per_s"] = round(await single.until(singles))
    figures["without_wait"] = await asyncio.to_thread(share_without_wait)
    return figures


async def main() -> None:
    curve: dict[int, dict[str, float]] = {}
    with Engines() as engines:
        databases = await engines.databases()
        for size in SIZES:
            async with (
                databases.fresh() as url,
                serving(url, database_concurrency=size, metrics_port=METRICS_PORT) as address,
                connect(address) as client,
            ):
                curve[size] = await measure(client)
            print(json.dumps({size: curve[size]}), file=sys.stderr, flush=True)
        await databases.close()
    print(json.dumps(curve))


if __name__ == "__main__":
    uvloop.run(main())
