"""Cancel, retry, delete, list."""

import uuid

import grpc
import pytest
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb

from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.scheduler import builders


async def cancel(scheduler, job_id, **fields):
    return await scheduler.jobs.CancelJob(jobs_pb.CancelJobRequest(job_id=job_id, **fields))


async def refused(call) -> Reason:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value, peer="scheduler").reason


async def test_cancel_of_a_waiting_job_ends_it_at_once(scheduler):
    [job_id] = await builders.create(scheduler)
    response = await cancel(scheduler, job_id, message="no longer needed")

    assert response.job.state == job_pb2.JOB_STATE_CANCELLED
    assert response.affected_count == 1
    async with builders.leasing(scheduler) as stream:
        await stream.nothing()


async def test_cancel_of_a_running_job_is_a_directive_and_release_obeys_it(scheduler):
    [job_id] = await builders.create(scheduler)
    async with builders.leasing(scheduler) as stream:
        [job] = await stream.take(1)
        response = await cancel(scheduler, job_id)
        [directive] = await builders.renew(scheduler, job)
        outcome = await builders.release(scheduler, job)

    assert response.job.state == job_pb2.JOB_STATE_RUNNING
    assert response.job.cancel_requested
    assert directive.directive == work_pb.DIRECTIVE_CANCEL
    assert outcome.state == job_pb2.JOB_STATE_CANCELLED


async def test_failed_attempt_of_a_job_to_be_cancelled_is_not_retried(scheduler):
    [job_id] = await builders.create(scheduler)
    async with builders.leasing(scheduler) as stream:
        [job] = await stream.take(1)
        await cancel(scheduler, job_id)
        outcome = await builders.fail(scheduler, job)

    assert outcome.state == job_pb2.JOB_STATE_CANCELLED


async def test_cancel_reaches_descendants_also_through_ended_parents(scheduler):
    [root] = await builders.create(scheduler, type="crawl")
    async with builders.leasing(scheduler, types=["crawl", "scrape"]) as stream:
        [crawl] = await stream.take(1)
        await scheduler.work.CompleteJobs(
            work_pb.CompleteJobsRequest(
                worker_id="w",
                completions=[work_pb.JobCompletion(lease=crawl.lease, children=[builders.spec(type="scrape")] * 2)],
            )
        )
        first, running = await stream.take(2)
        await scheduler.work.CompleteJobs(
            work_pb.CompleteJobsRequest(
                worker_id="w",
                completions=[work_pb.JobCompletion(lease=first.lease, children=[builders.spec(type="extract")] * 3)],
            )
        )
        response = await cancel(scheduler, root)

        assert response.job.state == job_pb2.JOB_STATE_SUCCEEDED
        assert response.affected_count == 4
        [directive] = await builders.renew(scheduler, running)
        assert directive.directive == work_pb.DIRECTIVE_CANCEL
        born = await scheduler.jobs.CreateJobs(
            jobs_pb.CreateJobsRequest(jobs=[builders.spec()], parent_lease=running.lease)
        )
        late = await builders.get(scheduler, born.results[0].job_id)
    extracts = await scheduler.jobs.ListJobs(
        jobs_pb.ListJobsRequest(filter=jobs_pb.JobFilter(parent_job_ids=[first.lease.job_id]))
    )
    assert {job.state for job in extracts.jobs} == {job_pb2.JOB_STATE_CANCELLED}
    assert late.state == job_pb2.JOB_STATE_CANCELLED


async def test_cancel_can_spare_the_children(scheduler):
    [root] = await builders.create(scheduler, type="crawl")
    async with builders.leasing(scheduler, types=["crawl"]) as stream:
        [crawl] = await stream.take(1)
        children = await scheduler.jobs.CreateJobs(
            jobs_pb.CreateJobsRequest(jobs=[builders.spec()], parent_lease=crawl.lease)
        )
        response = await cancel(scheduler, root, keep_children=True)

    assert response.affected_count == 1
    child = await builders.get(scheduler, children.results[0].job_id)
    assert child.state == job_pb2.JOB_STATE_PENDING


async def test_retry_revives_once_per_request(scheduler):
    [job_id] = await builders.create(scheduler)
    await cancel(scheduler, job_id)
    request = jobs_pb.RetryJobRequest(job_id=job_id, request_id=str(uuid.uuid4()))

    first = await scheduler.jobs.RetryJob(request)
    second = await scheduler.jobs.RetryJob(request)
    other = jobs_pb.RetryJobRequest(job_id=job_id, request_id=str(uuid.uuid4()))

    assert first.job.state == second.job.state == job_pb2.JOB_STATE_PENDING
    assert not first.job.cancel_requested
    assert await refused(scheduler.jobs.RetryJob(other)) is Reason.JOB_STATE_CONFLICT


async def test_a_succeeded_job_is_not_retried(scheduler):
    [job_id] = await builders.create(scheduler)
    async with builders.leasing(scheduler) as stream:
        await builders.complete(scheduler, *await stream.take(1))

    call = scheduler.jobs.RetryJob(jobs_pb.RetryJobRequest(job_id=job_id))
    assert await refused(call) is Reason.JOB_STATE_CONFLICT


async def test_attempts_end_as_dead_and_retry_gives_fresh_ones(scheduler):
    [job_id] = await builders.create(scheduler, max_attempts=2)
    async with builders.leasing(scheduler) as stream:
        for expected in (job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_DEAD):
            [job] = await stream.take(1)
            outcome = await builders.fail(scheduler, job, retry_delay={"nanos": 1})
            assert outcome.state == expected
        dead = await builders.get(scheduler, job_id)
        await scheduler.jobs.RetryJob(jobs_pb.RetryJobRequest(job_id=job_id))
        [again] = await stream.take(1)

    assert (dead.attempt, dead.last_failure.message, dead.last_failure.attempt) == (2, "boom", 2)
    assert again.attempt == 1


async def test_delete_needs_a_terminal_job_and_is_idempotent(scheduler):
    [job_id] = await builders.create(scheduler)
    request = jobs_pb.DeleteJobRequest(job_id=job_id)

    assert await refused(scheduler.jobs.DeleteJob(request)) is Reason.JOB_STATE_CONFLICT
    await cancel(scheduler, job_id)
    await scheduler.jobs.DeleteJob(request)
    await scheduler.jobs.DeleteJob(request)
    assert await refused(scheduler.jobs.GetJob(jobs_pb.GetJobRequest(job_id=job_id))) is Reason.RESOURCE_NOT_FOUND


@pytest.mark.parametrize("name", ["CancelJob", "RetryJob", "GetJob"])
async def test_unknown_jobs_are_not_found(scheduler, name):
    request = getattr(jobs_pb, f"{name}Request")(job_id=str(uuid.uuid4()))

    assert await refused(getattr(scheduler.jobs, name)(request)) is Reason.RESOURCE_NOT_FOUND


async def list_all(scheduler, page_size=3, **fields) -> list[str]:
    found: list[str] = []
    token = ""
    while True:
        response = await scheduler.jobs.ListJobs(
            jobs_pb.ListJobsRequest(
                filter=jobs_pb.JobFilter(**fields) if fields else None, page_size=page_size, page_token=token
            )
        )
        assert len(response.jobs) <= page_size
        found += [job.job_id for job in response.jobs]
        token = response.next_page_token
        if not token:
            return found


async def test_pages_cover_live_and_ended_jobs_newest_first(scheduler):
    created = [(await builders.create(scheduler, project_id=f"p{index % 3}"))[0] for index in range(10)]
    for job_id in created[::2]:
        await cancel(scheduler, job_id)

    assert await list_all(scheduler) == created[::-1]
    assert await list_all(scheduler, project_ids=["p0"]) == created[::3][::-1]
    assert await list_all(scheduler, project_ids=["p0", "p1"]) == [
        job_id for index, job_id in reversed(list(enumerate(created))) if index % 3 != 2
    ]
    assert await list_all(scheduler, states=[job_pb2.JOB_STATE_CANCELLED]) == created[::2][::-1]
    assert await list_all(scheduler, states=[job_pb2.JOB_STATE_PENDING]) == created[1::2][::-1]
    assert await list_all(scheduler, job_ids=created[:4]) == created[:4][::-1]
    assert await list_all(scheduler, types=["nothing"]) == []


async def test_page_token_belongs_to_its_filter(scheduler):
    await builders.create(scheduler, 3)
    page = await scheduler.jobs.ListJobs(jobs_pb.ListJobsRequest(page_size=1))

    call = scheduler.jobs.ListJobs(
        jobs_pb.ListJobsRequest(filter=jobs_pb.JobFilter(types=["x"]), page_token=page.next_page_token)
    )
    assert await refused(call) is Reason.PAGE_TOKEN_INVALID
