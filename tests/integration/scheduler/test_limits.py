"""Caps, rates and gates of keys; weights of projects."""

import asyncio
import contextlib
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb

from tests.integration.scheduler import builders, harness


async def limit(scheduler, key: str, **fields) -> None:
    await scheduler.jobs.SetKeyLimit(jobs_pb.SetKeyLimitRequest(limit_key=key, **fields))


async def test_hard_cap_holds_across_replicas(scheduler_url):
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            replica = await stack.enter_async_context(harness.replica(scheduler_url))
            clients.append(await stack.enter_async_context(harness.client(replica.address)))
        await limit(clients[0], "site", max_in_flight=3)
        created = await builders.create(clients[0], 40, limit_key="site")
        running: set[str] = set()
        most = 0
        done: list[str] = []

        async def work(client, worker_id):
            nonlocal most
            async with builders.leasing(client, worker_id=worker_id, max_in_flight=10) as stream:
                while len(done) < len(created):
                    with contextlib.suppress(TimeoutError):
                        [job] = await stream.take(1, within=0.3)
                        running.add(job.lease.job_id)
                        most = max(most, len(running))
                        await asyncio.sleep(0.01)
                        running.discard(job.lease.job_id)
                        await builders.complete(client, job, worker_id=worker_id)
                        done.append(job.lease.job_id)

        async with asyncio.timeout(60):
            await asyncio.gather(*(work(client, f"w{index}") for index, client in enumerate(clients)))

    assert sorted(done) == sorted(created)
    assert 1 <= most <= 3


async def test_capped_key_does_not_hold_up_other_jobs(scheduler):
    await limit(scheduler, "slow", max_in_flight=1)
    await builders.create(scheduler, 50, limit_key="slow")
    free = await builders.create(scheduler, 3)
    async with builders.leasing(scheduler, max_in_flight=20) as stream:
        leased = {job.lease.job_id for job in await stream.take(4)}
        await stream.nothing()

    assert set(free) < leased


async def test_rate_of_a_key_is_not_exceeded_in_any_second(scheduler):
    await limit(scheduler, "api", max_per_second=5)
    await builders.create(scheduler, 12, limit_key="api")
    started: list[float] = []
    async with builders.leasing(scheduler, max_in_flight=20) as stream:
        while len(started) < 12:
            await stream.take(1)
            started.append(time.monotonic())

    assert started[-1] - started[0] >= 11 / 5 - 0.3


async def test_no_job_is_leased_while_the_gate_of_its_key_is_shut(scheduler):
    first, second = await builders.create(scheduler, 2, limit_key="api")
    until = datetime.now(UTC) + timedelta(seconds=1.2)
    moment = Timestamp()
    moment.FromDatetime(until)
    async with builders.leasing(scheduler, max_in_flight=1) as stream:
        [job] = await stream.take(1)
        await builders.fail(scheduler, job, gate_until_time=moment, retry_delay={"nanos": 1})
        [other] = await stream.take(1)
        assert datetime.now(UTC) >= until - timedelta(milliseconds=20)

    assert {job.lease.job_id, other.lease.job_id} <= {first, second}


async def test_new_limit_opens_a_key_at_once(scheduler):
    await limit(scheduler, "site", max_in_flight=1)
    await builders.create(scheduler, 3, limit_key="site")
    async with builders.leasing(scheduler) as stream:
        await stream.take(1)
        await stream.nothing(for_seconds=0.3)
        await limit(scheduler, "site", max_in_flight=3)
        assert len(await stream.take(2)) == 2


async def test_projects_share_by_weight(scheduler):
    await scheduler.jobs.SetProjectWeight(jobs_pb.SetProjectWeightRequest(project_id="heavy", weight=3))
    await scheduler.jobs.PauseQueue(jobs_pb.PauseQueueRequest(type="extract"))
    for project_id in ("heavy", "light"):
        await builders.create(scheduler, 800, project_id=project_id)
    await scheduler.jobs.ResumeQueue(jobs_pb.ResumeQueueRequest(type="extract"))
    counted: Counter[str] = Counter()
    async with builders.leasing(scheduler, max_in_flight=50) as stream:
        while counted.total() < 800:
            jobs = await stream.take(10)
            counted.update(job.project_id for job in jobs)
            await builders.complete(scheduler, *jobs)

    assert abs(counted["heavy"] / counted.total() - 0.75) <= 0.05 * 0.75


async def test_small_project_is_not_buried_under_a_large_one(scheduler):
    await builders.create(scheduler, 9000, project_id="large")
    async with builders.leasing(scheduler, max_in_flight=20) as stream:
        held = await stream.take(20)
        small = set(await builders.create(scheduler, 5, project_id="small"))
        taken = 0
        while small:
            await builders.complete(scheduler, *held)
            held = await stream.take(1)
            taken += 1
            small -= {job.lease.job_id for job in held}

    assert taken <= 60
