"""A job that finds a worker waiting is created as leased to it; what would have to wait anyway still waits."""

import uuid
from datetime import UTC, datetime, timedelta

from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb

from tests.integration.scheduler import builders
from tests.support.waiting import eventually


async def create(scheduler, *, request_id: str = "", **fields) -> jobs_pb.CreateJobResponse:
    return await scheduler.jobs.CreateJob(jobs_pb.CreateJobRequest(request_id=request_id, job=builders.spec(**fields)))


async def handed_out(scheduler, **fields) -> job_pb2.Job:
    """A job that was created as leased: from then on the replica knows that nothing waits."""

    async def one() -> job_pb2.Job | None:
        job = (await create(scheduler, **fields)).job
        return job if job.state == job_pb2.JOB_STATE_RUNNING and job.fencing_token == 1 else None

    return await eventually(one)


async def test_job_for_a_waiting_worker_is_leased_as_it_is_created(scheduler):
    async with builders.leasing(scheduler, max_in_flight=50) as stream:
        job = await handed_out(scheduler, payload='{"n":1}')
        leased = {each.lease.job_id: each for each in await stream.take(1)}
        while job.job_id not in leased:
            leased |= {each.lease.job_id: each for each in await stream.take(1)}
        mine = leased[job.job_id]
        [outcome] = await builders.complete(scheduler, mine)

    assert (mine.lease.fencing_token, mine.attempt, mine.payload) == (1, 1, '{"n":1}')
    assert mine.lease_duration.seconds == 600
    assert outcome.state == job_pb2.JOB_STATE_SUCCEEDED


async def test_job_that_is_created_twice_is_handed_out_once(scheduler):
    request_id = str(uuid.uuid4())
    async with builders.leasing(scheduler) as stream:
        first = await create(scheduler, request_id=request_id)
        await stream.take(1)
        second = await create(scheduler, request_id=request_id)
        await stream.nothing()

    assert (first.created, second.created) == (True, False)
    assert first.job.job_id == second.job.job_id


async def test_cap_of_a_key_holds_though_a_worker_waits(scheduler):
    await scheduler.jobs.SetKeyLimit(jobs_pb.SetKeyLimitRequest(limit_key="k", max_in_flight=1))
    async with builders.leasing(scheduler) as stream:
        await create(scheduler, limit_key="k")
        [held] = await stream.take(1)
        await create(scheduler, limit_key="k")
        await stream.nothing()
        await builders.complete(scheduler, held)
        assert await stream.take(1)


async def test_delayed_job_waits_though_a_worker_does_too(scheduler):
    due = datetime.now(UTC) + timedelta(hours=1)
    async with builders.leasing(scheduler) as stream:
        await create(scheduler, schedule_time=due)
        await stream.nothing()


async def test_paused_type_is_not_handed_out(scheduler):
    async with builders.leasing(scheduler, max_in_flight=50) as stream:
        await handed_out(scheduler)
        await stream.take(1)
        await scheduler.jobs.PauseQueue(jobs_pb.PauseQueueRequest(type="extract"))
        waiting = await create(scheduler)
        await scheduler.jobs.ResumeQueue(jobs_pb.ResumeQueueRequest(type="extract"))
        leased: list[str] = []
        while waiting.job.job_id not in leased:
            leased += [job.lease.job_id for job in await stream.take(1)]

    assert waiting.created
    assert waiting.job.state == job_pb2.JOB_STATE_PENDING


async def test_no_worker_is_handed_more_than_it_asked_for(scheduler):
    async with builders.leasing(scheduler, max_in_flight=1) as stream:
        await create(scheduler)
        [held] = await stream.take(1)
        await create(scheduler)
        await stream.nothing()
        await builders.complete(scheduler, held)
        assert await stream.take(1)
