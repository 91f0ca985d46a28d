import asyncio
import contextlib

import asyncpg
import grpc
import pytest
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb

from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.scheduler import builders, harness


class Watch:
    def __init__(self, call) -> None:
        self.call = call
        self.token = ""
        self.frames: list[jobs_pb.WatchJobsResponse] = []

    async def next(self) -> jobs_pb.WatchJobsResponse:
        async with asyncio.timeout(10):
            frame = await self.call.read()
        assert frame, "the stream ended"
        self.frames.append(frame)
        self.token = frame.resume_token
        return frame

    async def events(self, count: int) -> list[jobs_pb.JobEvent]:
        found: list[jobs_pb.JobEvent] = []
        while len(found) < count:
            frame = await self.next()
            if frame.HasField("event"):
                found.append(frame.event)
        return found


@contextlib.asynccontextmanager
async def watching(scheduler, **fields):
    job_filter = jobs_pb.JobFilter(**fields.pop("filter", {}))
    call = scheduler.jobs.WatchJobs(jobs_pb.WatchJobsRequest(filter=job_filter, **fields))
    watch = Watch(call)
    assert (await watch.next()).HasField("opened")
    try:
        yield watch
    finally:
        call.cancel()


async def test_watch_shows_the_way_of_a_job_in_order(scheduler):
    async with watching(scheduler) as watch, builders.leasing(scheduler) as stream:
        [job_id] = await builders.create(scheduler)
        [job] = await stream.take(1)
        await builders.renew(scheduler, job, progress=job_pb2.JobProgress(completed_count=1, total_count=2))
        await builders.complete(scheduler, job)

        states: list[int] = []
        while not states or states[-1] != job_pb2.JOB_STATE_SUCCEEDED:
            [event] = await watch.events(1)
            assert event.job.job_id == job_id
            states.append(event.job.state)

    assert states == sorted(states)


async def test_resumed_watch_misses_nothing_and_repeats_nothing(scheduler):
    created: list[str] = []
    seen: list[str] = []
    token = ""
    for round_number in range(5):
        async with watching(scheduler, resume_token=token, filter={"states": [job_pb2.JOB_STATE_PENDING]}) as watch:
            if round_number == 0:
                token = watch.token
            created += await builders.create(scheduler, 4)
            seen += [event.job.job_id for event in await watch.events(3)]
            token = watch.token
    async with watching(scheduler, resume_token=token) as watch:
        seen += [event.job.job_id for event in await watch.events(len(created) - len(seen))]

    assert seen == created


async def test_token_of_a_list_closes_the_gap_to_the_watch(scheduler):
    [before] = await builders.create(scheduler)
    page = await scheduler.jobs.ListJobs(jobs_pb.ListJobsRequest())
    [after] = await builders.create(scheduler)

    async with watching(scheduler, resume_token=page.resume_token) as watch:
        [event] = await watch.events(1)

    assert [job.job_id for job in page.jobs] == [before]
    assert event.job.job_id == after


async def test_watch_can_begin_with_the_present_states(scheduler):
    created = await builders.create(scheduler, 3)
    await scheduler.jobs.CancelJob(jobs_pb.CancelJobRequest(job_id=created[0]))

    async with watching(scheduler, include_current=True) as watch:
        present = await watch.events(2)
        tokens = {frame.resume_token for frame in watch.frames}
        assert (await watch.next()).HasField("checkpoint")
        [later] = await builders.create(scheduler)
        [event] = await watch.events(1)

    assert {event.job.job_id for event in present} == set(created[1:])
    assert tokens == {""}
    assert event.job.job_id == later


async def test_filters_apply(scheduler):
    async with watching(scheduler, filter={"project_ids": ["mine"], "types": ["extract"]}) as watch:
        await builders.create(scheduler, project_id="other")
        await builders.create(scheduler, project_id="mine", type="scrape")
        [job_id] = await builders.create(scheduler, project_id="mine")
        [event] = await watch.events(1)

    assert event.job.job_id == job_id


async def test_deletion_shows_the_last_state(scheduler):
    [job_id] = await builders.create(scheduler, payload='{"a":1}')
    await scheduler.jobs.CancelJob(jobs_pb.CancelJobRequest(job_id=job_id))
    async with watching(scheduler) as watch:
        await scheduler.jobs.DeleteJob(jobs_pb.DeleteJobRequest(job_id=job_id))
        [event] = await watch.events(1)

    assert event.deleted
    assert (event.job.job_id, event.job.payload, event.job.state) == (job_id, '{"a":1}', job_pb2.JOB_STATE_CANCELLED)


async def test_idle_watch_gets_checkpoints_that_move_on(scheduler):
    async with watching(scheduler, checkpoint_interval={"seconds": 1}) as watch:
        first = watch.token
        await builders.create(scheduler)
        await watch.events(1)
        frame = await watch.next()

    assert frame.HasField("checkpoint")
    assert frame.resume_token != first


async def test_drain_ends_a_watch_with_a_frame_to_resume_from(replica, scheduler):
    async with watching(scheduler) as watch:
        replica.runtime.drain.start()
        frame = await watch.next()
        assert frame.HasField("draining")
        assert frame.resume_token
        assert await watch.call.read() is grpc.aio.EOF


async def test_token_older_than_the_log_is_out_of_range(scheduler, scheduler_url):
    async with watching(scheduler) as watch:
        old = watch.token
    await builders.create(scheduler)
    connection = await asyncpg.connect(scheduler_url)
    await connection.execute("UPDATE scheduler.change_horizon SET xid = pg_current_xact_id()")
    await connection.close()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with watching(scheduler, resume_token=old):
            pass

    error = from_rpc_error(caught.value, peer="scheduler")
    assert (error.code.name, error.reason) == ("OUT_OF_RANGE", Reason.RESUME_TOKEN_EXPIRED)
    async with watching(scheduler, resume_token=error.metadata["oldest_token"]):
        pass


async def test_foreign_token_is_refused(scheduler):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with watching(scheduler, resume_token="bm90IG91cnM"):
            pass

    assert from_rpc_error(caught.value, peer="scheduler").reason is Reason.PAGE_TOKEN_INVALID


async def test_change_of_a_transaction_that_commits_late_is_not_missed(scheduler, scheduler_url):
    """A reader that went by sequence numbers would pass the open transaction and never see its change."""
    connection = await asyncpg.connect(scheduler_url)
    [late] = await builders.create(scheduler, type="late")
    async with watching(scheduler) as watch:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(
            "INSERT INTO scheduler.job_changes (replica_id, job_ids, states) "
            "VALUES (gen_random_uuid(), ARRAY[$1::uuid], ARRAY[1]::smallint[])",
            late,
        )
        await builders.create(scheduler)
        await asyncio.sleep(0.6)
        await transaction.commit()
        events = await watch.events(2)
    await connection.close()

    assert late in {event.job.job_id for event in events}


async def test_watch_of_one_replica_sees_what_another_does(scheduler, scheduler_url):
    async with (
        harness.replica(scheduler_url) as second,
        harness.client(second.address) as other,
        watching(other) as watch,
    ):
        [job_id] = await builders.create(scheduler)
        [event] = await watch.events(1)

    assert event.job.job_id == job_id
