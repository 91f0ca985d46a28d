"""SIGTERM to real processes in mid-load: nothing is lost, nothing is paid for, and nothing waits for a lease to end.

Leases, their acceptance and the grace after a broken stream are all longer than a test may take. A job that
had to wait for one of them would never end.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from scristill.scheduler.v1 import job_pb2

from deploy.local import probes
from deploy.local.ports import free_port
from tests.integration.scheduler import builders, harness, history
from tests.integration.scheduler.test_processes import WorkerProcess
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[3]
WORKER = Path(__file__).with_name("library_process.py")
LEASE_SECONDS = 600.0
WITHIN = 60.0


@contextlib.asynccontextmanager
async def spawned(*command: str, **variables: str) -> AsyncGenerator[asyncio.subprocess.Process]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos/gen/python")])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **variables},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def replica(url: str) -> AsyncGenerator[tuple[asyncio.subprocess.Process, str]]:
    address = f"127.0.0.1:{free_port()}"
    async with spawned(
        *("-m", "services.scheduler"),
        SCHEDULER_DATABASE_URL=url,
        SCHEDULER_PORT=address.rpartition(":")[2],
        SCHEDULER_METRICS_PORT="-1",
        SCHEDULER_TYPE_POLICIES=json.dumps({"extract": {"lease": LEASE_SECONDS}}),
        SCHEDULER_ACCEPT_TIMEOUT_SECONDS=str(LEASE_SECONDS),
        SCHEDULER_STREAM_GRACE_SECONDS=str(LEASE_SECONDS),
        SCHEDULER_LOG_LEVEL="error",
    ) as process:
        await probes.until_ready(probes.grpc_health(address), within=WITHIN)
        yield process, address


@contextlib.asynccontextmanager
async def worker(
    addresses: Sequence[str], name: str, *, hold: float, concurrency: int = 8
) -> AsyncGenerator[WorkerProcess]:
    async with spawned(str(WORKER), f"ipv4:{','.join(addresses)}", name, str(concurrency), str(hold)) as process:
        running = WorkerProcess(process)
        yield running
    await running.reader


async def terminate(process: asyncio.subprocess.Process) -> None:
    """Returns once it has ended, in order."""
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(WITHIN):
        assert await process.wait() == 0


@pytest.fixture
async def replicas(scheduler_url):
    async with replica(scheduler_url) as first, replica(scheduler_url) as second:
        yield [first, second]


@pytest.fixture
async def scheduler(replicas):
    """Of the replica that stays."""
    async with harness.client(replicas[1][1]) as client:
        yield client


async def all_done(scheduler: harness.Client, created: Sequence[str]) -> list[job_pb2.Job]:
    async def check() -> list[job_pb2.Job] | None:
        jobs = [await builders.get(scheduler, job_id) for job_id in created]
        return jobs if all(job.state == job_pb2.JOB_STATE_SUCCEEDED for job in jobs) else None

    return await eventually(check, within=WITHIN, every=0.2)


def check(records: Sequence[history.Record], jobs: Sequence[job_pb2.Job]) -> None:
    leases: dict[str, list[history.Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record["at"]):
        if record["event"] == "leased":
            leases[record["job"]].append(record)
    handled = Counter(record["job"] for record in records if record["event"] == "handled")
    for job in jobs:
        assert (job.attempt, job.stall_count) == (1, 0), f"{job.job_id} has paid for the drain"
        assert handled[job.job_id] == 1, f"{job.job_id} was worked on to its end {handled[job.job_id]} times"
        last = leases[job.job_id][-1]
        assert json.loads(job.result) == {"worker": last["worker"], "token": job.fencing_token}
        for earlier, later in zip(leases[job.job_id], leases[job.job_id][1:], strict=False):
            assert later["token"] > earlier["token"]
            assert later["at"] < earlier["at"] + LEASE_SECONDS, f"{job.job_id} has waited for its lease to run out"


async def test_sigterm_of_a_worker_costs_its_jobs_nothing(scheduler, replicas):
    addresses = [address for _, address in replicas]
    async with worker(addresses, "leaver", hold=LEASE_SECONDS) as leaver, worker(addresses, "heir", hold=0.02) as heir:
        created = await builders.create(scheduler, 300)
        await eventually(lambda: leaver.count("leased") == 8 and heir.count("handled") > 20, within=WITHIN)
        await terminate(leaver.process)
        jobs = await all_done(scheduler, created)
        await terminate(heir.process)

    check([*leaver.records, *heir.records], jobs)
    assert not leaver.count("handled")
    given_back = {record["job"] for record in leaver.records}
    assert given_back <= {record["job"] for record in heir.records}


async def test_sigterm_of_busy_workers_loses_no_job_that_is_on_its_way(scheduler, replicas):
    """Handlers are quick, so that each worker is sent jobs at the moment when it is told to stop."""
    addresses = [address for _, address in replicas]
    async with contextlib.AsyncExitStack() as stack:
        leavers = [await stack.enter_async_context(worker(addresses, f"leaver-{n}", hold=0.001)) for n in range(3)]
        created = await builders.create(scheduler, 2000)
        for leaver in leavers:
            await eventually(lambda leaver=leaver: leaver.count("handled") > 50, within=WITHIN)
            await terminate(leaver.process)
        heir = await stack.enter_async_context(worker(addresses, "heir", hold=0, concurrency=200))
        jobs = await all_done(scheduler, created)
        await terminate(heir.process)

    check([record for each in (*leavers, heir) for record in each.records], jobs)


async def test_sigterm_of_a_replica_costs_no_job_anything(scheduler, replicas):
    (leaving, _), _ = replicas
    addresses = [address for _, address in replicas]
    async with worker(addresses, "a", hold=0.02) as first, worker(addresses, "b", hold=0.02) as second:
        created = await builders.create(scheduler, 1000)
        await eventually(lambda: first.count("handled") > 20 and second.count("handled") > 20, within=WITHIN)
        await terminate(leaving)
        jobs = await all_done(scheduler, created)
        await terminate(first.process)
        await terminate(second.process)

    check([*first.records, *second.records], jobs)
