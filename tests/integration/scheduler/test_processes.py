"""Real processes that are stopped, continued and killed, and a database whose backends die."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import grpc.aio
import pytest
from scristill.scheduler.v1 import job_pb2

from tests.integration.scheduler import builders, harness, history
from tests.support.databases import cut_connections
from tests.support.waiting import eventually

ROUNDS = int(os.environ.get("SCHEDULER_STOP_ROUNDS", "3"))
WORKER = Path(__file__).with_name("worker_process.py")
ROOT = Path(__file__).parents[3]


class WorkerProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.records: list[history.Record] = []
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.records.append(json.loads(line))

    def count(self, event: str) -> int:
        return sum(record["event"] == event for record in self.records)

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextlib.asynccontextmanager
async def worker(address: str, name: str, *, hold: float):
    path = os.pathsep.join([str(ROOT), str(ROOT / "protos/gen/python")])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(WORKER),
        address,
        name,
        str(hold),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    running = WorkerProcess(process)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()
        await running.reader


@pytest.fixture
async def serving(scheduler_url):
    policies = {"extract": {"lease": 1, "max_stalls": 1000}}
    async with (
        harness.replica(
            scheduler_url, type_policies=policies, accept_timeout_seconds=1.0, stream_grace_seconds=0.5
        ) as replica,
        harness.client(replica.address) as client,
    ):
        yield replica.address, client


async def all_done(scheduler, created) -> list[job_pb2.Job]:
    async def check():
        try:
            jobs = [await builders.get(scheduler, job_id) for job_id in created]
        except grpc.aio.AioRpcError as error:
            # Where backends are killed a read may be the one that finds out.
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return None
        return jobs if all(job.state == job_pb2.JOB_STATE_SUCCEEDED for job in jobs) else None

    return await eventually(check, within=40)


async def test_stopped_worker_that_wakes_up_can_change_nothing(serving):
    address, scheduler = serving
    async with worker(address, "sleeper", hold=0.6) as sleeper, worker(address, "heir", hold=0.05) as heir:
        await eventually(lambda: heir.count("opened") and sleeper.count("opened"), within=30)
        created: list[str] = []
        for _ in range(ROUNDS):
            before = sleeper.count("leased")
            batch = await builders.create(scheduler, 16)
            created += batch
            await eventually(lambda before=before: sleeper.count("leased") > before, within=20)
            sleeper.send(signal.SIGSTOP)
            await all_done(scheduler, batch)
            sleeper.send(signal.SIGCONT)
            await eventually(lambda: sleeper.count("answered") >= sleeper.count("leased"), within=20)
        jobs = await all_done(scheduler, created)
        records = [*sleeper.records, *heir.records]

    history.check(records, jobs)
    refused = [record for record in sleeper.records if record["event"] == "answered" and not record["accepted"]]
    assert refused, "no stale write was ever tried"


async def test_killed_worker_gives_its_jobs_back_within_the_grace(serving):
    address, scheduler = serving
    async with worker(address, "victim", hold=30) as victim:
        created = await builders.create(scheduler, 5)
        await eventually(lambda: victim.count("leased") == 5, within=20)
        victim.send(signal.SIGKILL)
        await victim.process.wait()
        async with builders.leasing(scheduler, worker_id="heir") as stream:
            jobs = await stream.take(5, within=2.5)
            await builders.complete(scheduler, *jobs)

    history.check(victim.records, await all_done(scheduler, created))


async def test_every_job_is_accounted_for_when_backends_are_killed(serving, scheduler_url):
    address, scheduler = serving
    async with worker(address, "a", hold=0.01) as first, worker(address, "b", hold=0.01) as second:
        created = await builders.create(scheduler, 300)
        for goal in (30, 120):
            await eventually(lambda goal=goal: first.count("answered") + second.count("answered") > goal, within=30)
            await cut_connections(scheduler_url)
        jobs = await all_done(scheduler, created)
        await asyncio.sleep(0.3)
        records = [*first.records, *second.records]

    history.check(records, jobs)
