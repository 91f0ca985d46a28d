"""Backends killed and PostgreSQL restarted in mid-load: is every job accounted for, and how soon is it as fast again?

The cluster is one of its own, with the scheduler as its only user. The worker repeats what is
not answered, as any worker must; a job counts when its completion is durable.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import grpc.aio
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import worker_service_pb2 as work_pb

from deploy.local import environment, table
from deploy.local.guard import Guard
from deploy.local.home import Home
from tests.bench.scheduler_load import Client
from tests.support.databases import cut_connections
from tests.support.local_stack import free_ports
from tests.support.machine import Unit

TYPE = "faults"

ONE_TRY = 5.0
AGAIN_AFTER = 0.05
WINDOW = 0.5
BEFORE = 2.0
ENOUGH = 0.95
WORK_WITHIN = 120.0
QUIET_SECONDS = 4.0

# Jobs in a state other than SUCCEEDED, and the number of those that succeeded.
ACCOUNT = """
SELECT (SELECT count(*) FROM scheduler.jobs WHERE type = $1)
    + (SELECT count(*) FROM scheduler.ended_jobs WHERE type = $1 AND state <> 3),
    (SELECT count(DISTINCT job_id) FROM scheduler.ended_jobs WHERE type = $1 AND state = 3)
"""


@asynccontextmanager
async def own_cluster() -> AsyncGenerator[tuple[str, Unit]]:
    """A PostgreSQL that may be restarted; its URL stays the same."""
    with tempfile.TemporaryDirectory(prefix="scristill-bench-") as root, Guard() as guard:
        home = Home(root=Path(root) / "home")
        home.create()
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SCRISTILL_")}
        layout = environment.layout(home, {**kept, **free_ports()})
        [declared] = [process for process in table.process_table(layout) if process.name == "postgres"]
        postgres = Unit(declared=declared, guard=guard, log=layout.home.logs / "postgres.log")
        await postgres.start()
        try:
            yield layout.postgres.url(), postgres
        finally:
            await postgres.stop()


@dataclass(slots=True, kw_only=True)
class SteadfastWorker:
    """Leases and completes in batches; opens its stream again and repeats its writes until they are answered."""

    client: Client
    moments: list[tuple[float, int]] = field(default_factory=list)
    """When how many completions became durable."""
    completed: int = 0
    refused: int = 0
    _held: dict[str, job_pb2.LeaseRef] = field(default_factory=dict)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    await self._read(tasks)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(AGAIN_AFTER)

    async def _read(self, tasks: asyncio.TaskGroup) -> None:
        request = work_pb.LeaseJobsRequest(
            worker_id=TYPE,
            types=[TYPE],
            max_in_flight=2000,
            max_batch_size=500,
            held_leases=self._held.values(),
        )
        async for frame in self.client.work.LeaseJobs(request):
            if frame.leases.jobs:
                leases = [job.lease for job in frame.leases.jobs]
                self._held.update({lease.job_id: lease for lease in leases})
                tasks.create_task(self._complete(leases))

    async def _complete(self, leases: list[job_pb2.LeaseRef]) -> None:
        request = work_pb.CompleteJobsRequest(
            worker_id=TYPE, completions=[work_pb.JobCompletion(lease=lease) for lease in leases]
        )
        while True:
            try:
                response = await self.client.work.CompleteJobs(request, timeout=ONE_TRY)
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(AGAIN_AFTER)
        for lease in leases:
            self._held.pop(lease.job_id, None)
        done = sum(outcome.state == job_pb2.JOB_STATE_SUCCEEDED for outcome in response.outcomes)
        self.refused += len(leases) - done
        self.completed += done
        self.moments.append((time.perf_counter(), done))

    def rate(self, since: float, until: float) -> float:
        return sum(count for at, count in self.moments if since <= at < until) / (until - since)

    async def as_fast_as(self, rate: float, *, since: float) -> float:
        """Seconds from `since` to the begin of the first window in which it was."""
        async with asyncio.timeout(WORK_WITHIN):
            while True:
                await asyncio.sleep(WINDOW / 5)
                latest = time.perf_counter() - WINDOW
                starts = (at for at, _ in self.moments if since <= at <= latest)
                fast = next((at for at in starts if self.rate(at, at + WINDOW) >= ENOUGH * rate), None)
                if fast is not None:
                    return fast - since


async def strike(worker: SteadfastWorker, url: str, postgres: Unit) -> dict[str, float]:
    """The seconds to recover from killed backends, and from a restart once the server is up."""
    seconds: dict[str, float] = {}
    for fault in ("backend_kill", "restart"):
        await asyncio.sleep(QUIET_SECONDS)
        now = time.perf_counter()
        before = worker.rate(now - BEFORE, now)
        if fault == "restart":
            await postgres.stop()
            await postgres.start()
        else:
            await cut_connections(url)
        seconds[fault] = await worker.as_fast_as(before, since=time.perf_counter() if fault == "restart" else now)
    return seconds


async def faults(client: Client, url: str, postgres: Unit, *, jobs: int) -> dict[str, object]:
    """`jobs` wait already; they last until both faults are over."""
    worker = SteadfastWorker(client=client)
    working = asyncio.create_task(worker.run())
    try:
        seconds = await strike(worker, url, postgres)
        async with asyncio.timeout(WORK_WITHIN):
            # What was refused is leased again.
            while worker.completed < jobs:  # noqa: ASYNC110 - a figure that grows, not an event
                await asyncio.sleep(AGAIN_AFTER)
    finally:
        working.cancel()
        await asyncio.wait([working])
    connection = await asyncpg.connect(url, timeout=10)
    left, succeeded = await connection.fetchrow(ACCOUNT, TYPE, timeout=60)
    await connection.close(timeout=10)
    return {
        "recovery_seconds": round(max(seconds.values()), 2),
        "recovery_seconds_by_fault": {fault: round(each, 2) for fault, each in seconds.items()},
        "fault_jobs": jobs,
        "fault_jobs_unaccounted": left + abs(jobs - succeeded),
    }
