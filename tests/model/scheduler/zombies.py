"""Rounds of SIGSTOP, re-lease and SIGCONT with real processes, judged by the history checker.

In each round a worker is stopped with a job in its hands. Its lease runs out, another
worker gets the job, and then the first one wakes up and writes as if nothing had
happened. Each kind of write takes its turn; every other time both workers write at once.

    python -m tests.model.scheduler.zombies --rounds 1000

prints one JSON object as its last line.
"""

import argparse
import asyncio
import itertools
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import grpc.aio
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from deploy.local import probes
from deploy.local.ports import free_port
from tests.model.scheduler.conftest import migrate
from tests.model.scheduler.history import STALE_WRITE, WRITES, Answer, Call, Event, Violation, check
from tests.support.engines import Engines

ROOT = Path(__file__).parents[3]
POLICIES = {"*": {"lease": 0.6, "max_stalls": 1000, "max_attempts": 100}}
ACCEPT_SECONDS = 0.4
PATIENCE = 60.0

_STALE_WRITES = (Call.COMPLETE, Call.FAIL, Call.RELEASE, Call.RENEW, Call.CREATE_CHILD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`stale_writes` were tried by a worker that had lost its job, as far as it could be known."""

    rounds: int
    stale_writes: int
    stale_writes_accepted: int
    violations: list[str]
    seconds: float


@dataclass(slots=True)
class WorkerProcess:
    """A `zombie_worker` and the events that it reports."""

    worker_id: str
    process: asyncio.subprocess.Process
    events: list[Event]
    news: asyncio.Condition

    async def listen(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self.news:
                self.events.append(Event(**_typed(json.loads(line))))
                self.news.notify_all()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def tell(self, call: Call, lease: Event) -> None:
        """A stopped process reads this when it goes on."""
        assert self.process.stdin is not None
        command = {"call": call, "job_id": lease.job_id, "token": lease.token}
        self.process.stdin.write(json.dumps(command).encode() + b"\n")


def _typed(fields: dict) -> dict:
    answer = Answer(fields.pop("answer", Answer.ACCEPTED))
    return {**fields, "call": Call(fields["call"]), "answer": answer}


@dataclass(slots=True)
class Lane:
    """Two workers that do one type of job, one round after the other."""

    scheduler: SchedulerServiceStub
    job_type: str
    workers: dict[str, WorkerProcess]
    events: list[Event]
    news: asyncio.Condition
    job_ids: list[str] = field(default_factory=list)

    async def play(self, number: int) -> None:
        call = _STALE_WRITES[number % len(_STALE_WRITES)]
        job_id = await self._create()
        first = await self._until(lambda event: event.call is Call.LEASE and event.job_id == job_id)
        zombie = self.workers[first.worker_id]
        zombie.stop()
        zombie.tell(call, first)
        second = await self._until(
            lambda event: event.call is Call.LEASE and event.job_id == job_id and event.worker_id != zombie.worker_id
        )
        if number % 2:
            zombie.go_on()
            await self._until(
                lambda event: event.call is call and event.token == first.token and event.job_id == job_id
            )
        else:
            zombie.go_on()
        await self._complete(job_id, second)

    async def _complete(self, job_id: str, lease: Event) -> None:
        """Has the holder complete the job. A holder that was too slow itself has lost it to somebody, who shall."""
        told: set[tuple[str, int]] = set()
        position = 0
        while True:
            for event in self.events[position:]:
                position += 1
                if event.job_id != job_id:
                    continue
                if event.call is Call.COMPLETE and event.accepted:
                    return
                if (
                    event.call is Call.LEASE
                    and event.token >= lease.token
                    and (event.worker_id, event.token) not in told
                ):
                    told.add((event.worker_id, event.token))
                    self.workers[event.worker_id].tell(Call.COMPLETE, event)
            async with asyncio.timeout(PATIENCE), self.news:
                await self.news.wait_for(lambda: len(self.events) > position)  # noqa: B023 - awaited at once

    async def _create(self) -> str:
        spec = job_pb2.JobSpec(type=self.job_type, project_id="zombies", priority=5)
        request = pb.CreateJobRequest(request_id=str(uuid.uuid4()), job=spec)
        invoked = time.monotonic()
        job_id = (await self.scheduler.CreateJob(request, timeout=PATIENCE)).job.job_id
        self.job_ids.append(job_id)
        self.events.append(Event(call=Call.CREATE, job_id=job_id, invoked=invoked, returned=time.monotonic()))
        return job_id

    async def _until(self, matches) -> Event:
        def found() -> Event | None:
            return next((event for event in self.events if matches(event)), None)

        async with asyncio.timeout(PATIENCE), self.news:
            return await self.news.wait_for(found)

    async def observe(self) -> None:
        for job_id in self.job_ids:
            job = (await self.scheduler.GetJob(pb.GetJobRequest(job_id=job_id), timeout=PATIENCE)).job
            state = job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_")
            self.events.append(
                Event(call=Call.OBSERVE, job_id=job_id, returned=time.monotonic(), token=job.fencing_token, state=state)
            )


@asynccontextmanager
async def scheduler_processes(database_url: str, *, replicas: int) -> AsyncGenerator[list[str]]:
    """Replicas on one database. Yields their addresses."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_scheduler(database_url)) for _ in range(replicas)]


@asynccontextmanager
async def _scheduler(database_url: str) -> AsyncGenerator[str]:
    """The service as it is deployed. Yields its address."""
    port = free_port()
    environment = {
        **os.environ,
        "SCHEDULER_DATABASE_URL": database_url,
        "SCHEDULER_PORT": str(port),
        "SCHEDULER_METRICS_PORT": "-1",
        "SCHEDULER_TYPE_POLICIES": json.dumps(POLICIES),
        "SCHEDULER_ACCEPT_TIMEOUT_SECONDS": str(ACCEPT_SECONDS),
        "SCHEDULER_LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.scheduler", cwd=ROOT, env=environment
    )
    try:
        address = f"127.0.0.1:{port}"
        await probes.until_ready(probes.grpc_health(address), within=PATIENCE)
        yield address
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def _worker(address: str, worker_id: str, lane: Lane) -> AsyncGenerator[WorkerProcess]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.model.scheduler.zombie_worker", address, worker_id, lane.job_type),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    worker = WorkerProcess(worker_id, process, lane.events, lane.news)
    listening = asyncio.create_task(worker.listen())
    try:
        yield worker
    finally:
        process.kill()
        await process.wait()
        await listening


async def play(addresses: Sequence[str], *, rounds: int, lanes: int) -> Report:
    """The two workers of a lane are connected to different replicas, as far as there are several."""
    started = time.monotonic()
    numbers = iter(range(rounds))
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(addresses[0]))
        played = [
            Lane(SchedulerServiceStub(channel), f"zombie-{lane}", {}, [], asyncio.Condition()) for lane in range(lanes)
        ]
        for lane, (name, address) in itertools.product(played, zip("AB", itertools.cycle(addresses), strict=False)):
            worker_id = f"{lane.job_type}-{name}"
            lane.workers[worker_id] = await stack.enter_async_context(_worker(address, worker_id, lane))
        async with asyncio.TaskGroup() as tasks:
            for lane in played:
                tasks.create_task(_play_lane(lane, numbers))
        for lane in played:
            await lane.observe()
    events = [event for lane in played for event in lane.events]
    violations = check(events)
    return Report(
        rounds=rounds,
        stale_writes=len(list(_stale_writes(events))),
        stale_writes_accepted=sum(violation.promise == STALE_WRITE for violation in violations),
        violations=[*map(str, violations), *map(str, _unfinished(events))],
        seconds=round(time.monotonic() - started, 1),
    )


async def _play_lane(lane: Lane, numbers: Iterator[int]) -> None:
    for number in numbers:
        await lane.play(number)


def _stale_writes(events: list[Event]) -> Iterator[Event]:
    newest: dict[str, list[Event]] = {}
    for event in events:
        if event.call is Call.LEASE:
            newest.setdefault(event.job_id, []).append(event)
    for event in events:
        leases = newest.get(event.job_id, ())
        if event.call in WRITES and any(
            lease.token > event.token and lease.returned < event.invoked for lease in leases
        ):
            yield event


def _unfinished(events: list[Event]) -> Iterator[Violation]:
    for event in events:
        if event.call is Call.OBSERVE and event.state != "SUCCEEDED":
            yield Violation("every job of a round ends", event.job_id, event.state)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Wakes workers that lost their jobs, and counts what they can change.")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=2, help="scheduler processes on the one database")
    parser.add_argument("--lanes", type=int, default=4, help="rounds that go on at the same time")
    arguments = parser.parse_args()
    with Engines() as engines:
        databases = await engines.databases()
        async with databases.fresh() as url:
            await migrate(url)
            async with scheduler_processes(url, replicas=arguments.replicas) as addresses:
                report = await play(addresses, rounds=arguments.rounds, lanes=arguments.lanes)
    print(json.dumps(asdict(report)))


if __name__ == "__main__":
    asyncio.run(main())
