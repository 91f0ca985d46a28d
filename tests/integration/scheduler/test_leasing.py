"""Streams: credit, acceptance, pings, broken streams, drains, pauses, replicas."""

import asyncio
import contextlib

import asyncpg
import grpc
import pytest
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb

from tests.integration.scheduler import builders, harness
from tests.support.waiting import eventually


@contextlib.asynccontextmanager
async def serving(url: str, **overrides):
    async with harness.replica(url, **overrides) as replica, harness.client(replica.address) as client:
        yield client


async def test_worker_never_holds_more_than_it_asked_for(scheduler):
    await builders.create(scheduler, 20)
    async with builders.leasing(scheduler, max_in_flight=3) as stream:
        held = await stream.take(3)
        await stream.nothing()
        await builders.complete(scheduler, held[0])
        await stream.take(1)
        await stream.nothing()


async def test_leases_still_held_from_an_earlier_stream_count(scheduler):
    await builders.create(scheduler, 5)
    async with builders.leasing(scheduler, max_in_flight=2) as stream:
        held = await stream.take(2)
    async with builders.leasing(scheduler, max_in_flight=2, held_leases=[job.lease for job in held]) as stream:
        await stream.nothing()
        await builders.complete(scheduler, held[0])
        assert len(await stream.take(1)) == 1


async def test_frames_are_no_larger_than_asked_for(scheduler):
    await builders.create(scheduler, 10)
    async with builders.leasing(scheduler, max_batch_size=2) as stream:
        sizes: list[int] = []
        while sum(sizes) < 10:
            frame = await stream.frame()
            sizes.append(len(frame.leases.jobs))
    assert sizes == [2] * 5


async def test_idle_stream_is_pinged(scheduler):
    async with builders.leasing(scheduler, ping_interval={"seconds": 1}) as stream:
        frame = await stream.frame()
        assert frame.ping.HasField("server_time")


async def test_job_that_is_not_accepted_in_time_is_leased_again(scheduler_url):
    async with serving(scheduler_url, accept_timeout_seconds=0.3) as scheduler:
        await builders.create(scheduler)
        async with builders.leasing(scheduler, worker_id="deaf") as deaf:
            [job] = await deaf.take(1)
            async with builders.leasing(scheduler, worker_id="other") as other:
                [again] = await other.take(1)

    assert again.lease.job_id == job.lease.job_id
    assert (again.attempt, again.stall_count) == (1, 1)


async def test_broken_stream_brings_jobs_back_after_the_grace(scheduler_url):
    async with serving(scheduler_url, accept_timeout_seconds=60, stream_grace_seconds=0.5) as scheduler:
        await builders.create(scheduler)
        async with builders.leasing(scheduler, worker_id="dying") as dying:
            [job] = await dying.take(1)
            await builders.renew(scheduler, job, worker_id="dying")
        async with builders.leasing(scheduler, worker_id="heir") as heir:
            await heir.nothing(for_seconds=0.2)
            [again] = await heir.take(1, within=3)

    assert again.lease.job_id == job.lease.job_id
    assert again.stall_count == 1


async def test_worker_that_renews_keeps_its_job_without_a_stream(scheduler_url):
    async with serving(scheduler_url, stream_grace_seconds=0.4) as scheduler:
        await builders.create(scheduler)
        async with builders.leasing(scheduler) as stream:
            [job] = await stream.take(1)
        await eventually(lambda: _lease_seconds(scheduler, job, below=1))
        await builders.renew(scheduler, job)
        async with builders.leasing(scheduler, worker_id="vulture") as vulture:
            await vulture.nothing(for_seconds=1)
        [outcome] = await builders.complete(scheduler, job)

    assert outcome.state == job_pb2.JOB_STATE_SUCCEEDED


async def _is_pending(scheduler, job_id: str) -> bool:
    return (await builders.get(scheduler, job_id)).state == job_pb2.JOB_STATE_PENDING


async def _lease_seconds(scheduler, job, *, below: float) -> bool:
    now = await builders.get(scheduler, job.lease.job_id)
    left = now.lease_expire_time.ToDatetime() - now.update_time.ToDatetime()
    return left.total_seconds() < below


async def test_stalls_end_as_dead_and_do_not_spend_attempts(scheduler_url):
    policies = {"extract": {"lease": 0.3, "max_stalls": 2}}
    async with serving(scheduler_url, type_policies=policies, accept_timeout_seconds=0.2) as scheduler:
        [job_id] = await builders.create(scheduler)
        async with builders.leasing(scheduler) as stream:
            [first] = await stream.take(1)
            await eventually(lambda: _is_pending(scheduler, job_id))
            await builders.renew(scheduler, first)
            [second] = await stream.take(1)

            async def dead():
                job = await builders.get(scheduler, job_id)
                return job if job.state == job_pb2.JOB_STATE_DEAD else None

            job = await eventually(dead)

    assert (first.attempt, second.attempt) == (1, 1)
    assert (job.stall_count, job.last_failure.reason) == (2, 30)


async def test_lease_that_is_renewed_is_not_taken_before_its_threshold(scheduler_url):
    async with serving(
        scheduler_url, type_policies={"extract": {"lease": 1.2}}, accept_timeout_seconds=0.2
    ) as scheduler:
        await builders.create(scheduler)
        async with builders.leasing(scheduler) as stream:
            [job] = await stream.take(1)
            await builders.renew(scheduler, job)
            async with builders.leasing(scheduler, worker_id="other") as other:
                await other.nothing(for_seconds=0.9)
                assert await other.take(1, within=3)


async def test_total_deadline_ends_a_job_that_is_renewed_for_ever(scheduler_url):
    policies = {"extract": {"lease": 0.4, "total_deadline": 1}}
    async with serving(scheduler_url, type_policies=policies) as scheduler:
        [job_id] = await builders.create(scheduler)
        async with builders.leasing(scheduler) as stream:
            [job] = await stream.take(1)
            assert job.HasField("deadline_time")

            async def lost():
                [directive] = await builders.renew(scheduler, job)
                return directive.directive == work_pb.DIRECTIVE_LOST

            await eventually(lost)
            ended = await builders.get(scheduler, job_id)

    assert (ended.state, ended.last_failure.reason) == (job_pb2.JOB_STATE_DEAD, 12)


async def test_pause_stops_leases_and_resume_brings_them_back(scheduler):
    await scheduler.jobs.PauseQueue(jobs_pb.PauseQueueRequest(type="extract"))
    await builders.create(scheduler, 2)
    async with builders.leasing(scheduler) as stream:
        await stream.nothing()
        stats = await scheduler.jobs.GetQueueStats(jobs_pb.GetQueueStatsRequest(types=["extract"]))
        await scheduler.jobs.ResumeQueue(jobs_pb.ResumeQueueRequest(type="extract"))
        assert len(await stream.take(2)) == 2

    assert stats.queues[0].paused
    assert stats.queues[0].ready_count == 2


async def test_urgent_jobs_go_first(scheduler):
    await scheduler.jobs.PauseQueue(jobs_pb.PauseQueueRequest(type="extract"))
    low = await builders.create(scheduler, 3, priority=9)
    high = await builders.create(scheduler, 3, priority=0)
    await scheduler.jobs.ResumeQueue(jobs_pb.ResumeQueueRequest(type="extract"))
    async with builders.leasing(scheduler, max_in_flight=6) as stream:
        leased = [job.lease.job_id for job in await stream.take(6)]

    assert leased == [*high, *low]


async def test_drain_ends_the_stream_with_a_frame_and_leases_stay(scheduler_url):
    async with harness.replica(scheduler_url) as first, harness.client(first.address) as scheduler:
        await builders.create(scheduler, 3)
        async with builders.leasing(scheduler, max_in_flight=1) as stream:
            [job] = await stream.take(1)
            first.runtime.drain.start()
            frame = await stream.frame()
            assert frame.HasField("draining")
            assert await stream.frame() is grpc.aio.EOF
            [outcome] = await builders.complete(scheduler, job)

    assert outcome.state == job_pb2.JOB_STATE_SUCCEEDED


async def test_second_stream_of_a_worker_replaces_the_first(scheduler):
    async with builders.leasing(scheduler) as first, builders.leasing(scheduler) as second:
        assert (await first.frame()).HasField("draining")
        await builders.create(scheduler)
        assert await second.take(1)


async def test_few_jobs_spread_over_many_workers(scheduler):
    async with contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(builders.leasing(scheduler, worker_id=f"w{index}")) for index in range(4)
        ]
        await builders.create(scheduler, 8)
        leased = [await stream.take(2) for stream in streams]

    assert len({job.lease.job_id for jobs in leased for job in jobs}) == 8


async def test_replicas_share_the_work_and_no_job_runs_twice(scheduler_url):
    async with serving(scheduler_url) as first, serving(scheduler_url) as second:
        created = await builders.create(first, 200)
        async with (
            builders.leasing(first, worker_id="a", max_in_flight=200) as one,
            builders.leasing(second, worker_id="b", max_in_flight=200) as two,
        ):
            leased: list[str] = []

            async def drain(stream):
                with contextlib.suppress(TimeoutError):
                    while True:
                        leased.extend(job.lease.job_id for job in await stream.take(1, within=1.5))

            await asyncio.gather(drain(one), drain(two))

    assert sorted(leased) == sorted(created)


async def test_replica_without_jobs_gets_those_that_another_created(scheduler_url):
    async with (
        serving(scheduler_url) as first,
        serving(scheduler_url) as second,
        builders.leasing(second, worker_id="b") as stream,
    ):
        await builders.create(first, 5)
        assert len(await stream.take(5, within=3)) == 5


async def test_completion_at_another_replica_gives_the_worker_room(scheduler_url):
    async with serving(scheduler_url) as first, serving(scheduler_url) as second:
        await builders.create(first, 2)
        async with builders.leasing(first, max_in_flight=1) as stream:
            await builders.complete(second, *await stream.take(1))
            assert await stream.take(1, within=3)


async def test_completion_right_after_the_start_of_a_replica_is_not_overlooked(scheduler_url):
    async with serving(scheduler_url) as old, serving(scheduler_url, foreign_poll_seconds=1.0) as new:
        await builders.create(old, 2)
        async with builders.leasing(new, max_in_flight=1) as stream:
            await builders.complete(old, *await stream.take(1))
            assert await stream.take(1, within=5)


@pytest.mark.parametrize("state", ["crashed", "drained"])
async def test_job_of_a_replica_that_is_gone_is_not_lost(scheduler_url, state):
    async with serving(scheduler_url, accept_timeout_seconds=0.4) as survivor:
        async with harness.replica(scheduler_url) as gone, harness.client(gone.address) as scheduler:
            await builders.create(scheduler, 3)
            if state == "drained":
                await gone.drain()
        async with builders.leasing(survivor, worker_id="heir") as stream:
            assert len(await stream.take(3)) == 3


async def test_worker_that_let_its_leases_run_out_gets_no_more_until_it_is_heard(scheduler_url):
    """A stopped process still has an open stream; without this it would use up the stalls of one job after another."""
    async with serving(scheduler_url, accept_timeout_seconds=0.3) as scheduler:
        [job_id] = await builders.create(scheduler)
        async with builders.leasing(scheduler, worker_id="stopped") as stopped:
            [job] = await stopped.take(1)
            await stopped.nothing(for_seconds=1.5)
            waiting = await builders.get(scheduler, job_id)
            await builders.renew(scheduler, job, worker_id="stopped")
            [again] = await stopped.take(1)

    assert (waiting.state, waiting.stall_count) == (job_pb2.JOB_STATE_PENDING, 1)
    assert again.lease.job_id == job_id


async def test_worker_that_is_silent_is_doubted_where_its_stream_is(scheduler_url):
    """Whichever replica finds that the leases ran out."""
    async with (
        serving(scheduler_url, accept_timeout_seconds=0.3) as sweeping,
        serving(scheduler_url, accept_timeout_seconds=60.0) as other,
        builders.leasing(other, worker_id="stopped") as stopped,
    ):
        [job_id] = await builders.create(other)
        [job] = await stopped.take(1)
        await _run_out(scheduler_url, job_id)
        await eventually(lambda: _is_pending(sweeping, job_id))
        await stopped.nothing(for_seconds=1)
        await builders.renew(other, job, worker_id="stopped")
        assert await stopped.take(1)


async def test_worker_whose_call_is_held_up_here_is_not_silent(scheduler_url):
    """Its other lease runs out meanwhile; it has no reason to call again."""
    async with serving(scheduler_url, accept_timeout_seconds=1.5) as scheduler:
        await builders.create(scheduler, 2)
        async with builders.leasing(scheduler, max_in_flight=2) as stream:
            first, second = await stream.take(2)
            async with _row_locked(scheduler_url, first.lease.job_id):
                completing = asyncio.create_task(builders.complete(scheduler, first))
                await stream.nothing(for_seconds=0.1)
                [again] = await stream.take(1, within=8)
            await completing

    assert again.lease.job_id == second.lease.job_id


async def test_child_of_a_silent_worker_shows_that_it_lives(scheduler_url):
    async with serving(scheduler_url, accept_timeout_seconds=0.3) as scheduler:
        await builders.create(scheduler, 2)
        async with builders.leasing(scheduler, worker_id="slow", max_in_flight=2) as slow:
            lost, held = await slow.take(2)
            await builders.renew(scheduler, held, worker_id="slow")
            await slow.nothing(for_seconds=1)
            children = [builders.spec(type="child")]
            await scheduler.jobs.CreateJobs(jobs_pb.CreateJobsRequest(jobs=children, parent_lease=held.lease))
            [again] = await slow.take(1)

    assert again.lease.job_id == lost.lease.job_id


async def test_news_of_an_earlier_lease_makes_no_room_for_a_later_one(scheduler_url):
    """A job is given back at another replica, and leased here again before this one has read of it."""
    async with (
        serving(scheduler_url, foreign_poll_seconds=1.0) as here,
        serving(scheduler_url) as there,
        builders.leasing(here, max_in_flight=2) as stream,
    ):
        await builders.create(here)
        [first] = await stream.take(1)
        await builders.release(there, first)
        await here.jobs.PauseQueue(jobs_pb.PauseQueueRequest(type="extract"))
        await here.jobs.ResumeQueue(jobs_pb.ResumeQueueRequest(type="extract"))
        [again] = await stream.take(1)
        await builders.create(there, 2)
        assert await stream.take(1, within=5)
        await stream.nothing()

    assert again.lease.fencing_token == first.lease.fencing_token + 1


@contextlib.asynccontextmanager
async def _row_locked(url: str, job_id: str):
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("SELECT FROM scheduler.jobs WHERE job_id = $1 FOR UPDATE", job_id)
        yield
    await connection.close()


async def _run_out(url: str, job_id: str) -> None:
    """Ends a lease as time would."""
    connection = await asyncpg.connect(url)
    await connection.execute(
        "UPDATE scheduler.jobs SET lease_expire_time = now() - interval '1 second' WHERE job_id = $1", job_id
    )
    await connection.close()
