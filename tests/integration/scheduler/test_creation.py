import asyncio
import uuid
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from scristill.errors.v1 import error_reason_pb2
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb

from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.scheduler import builders


async def test_request_id_makes_creation_idempotent(scheduler):
    request = jobs_pb.CreateJobRequest(request_id=str(uuid.uuid4()), job=builders.spec(payload='{"a":1}'))

    first = await scheduler.jobs.CreateJob(request)
    second = await scheduler.jobs.CreateJob(request)

    assert (first.created, second.created) == (True, False)
    assert first.job == second.job


async def test_identity_with_another_spec_is_refused(scheduler):
    request_id = str(uuid.uuid4())
    await scheduler.jobs.CreateJob(
        jobs_pb.CreateJobRequest(request_id=request_id, job=builders.spec(payload='{"a":1}'))
    )

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await scheduler.jobs.CreateJob(
            jobs_pb.CreateJobRequest(request_id=request_id, job=builders.spec(payload='{"a":2}'))
        )

    error = from_rpc_error(caught.value, peer="scheduler")
    assert (error.code.name, error.reason) == ("INVALID_ARGUMENT", Reason.REQUEST_ID_REUSED)


async def test_a_job_that_ended_is_still_known_by_its_identity(scheduler):
    job_id = str(uuid.uuid4())
    request = jobs_pb.CreateJobRequest(job=builders.spec(job_id=job_id))
    await scheduler.jobs.CreateJob(request)
    async with builders.leasing(scheduler) as stream:
        await builders.complete(scheduler, *await stream.take(1))
        again = await scheduler.jobs.CreateJob(request)

        assert not again.created
        assert again.job.state == job_pb2.JOB_STATE_SUCCEEDED
        await stream.nothing()


async def test_bulk_creation_answers_per_item(scheduler):
    known = str(uuid.uuid4())
    await scheduler.jobs.CreateJob(jobs_pb.CreateJobRequest(job=builders.spec(job_id=known)))

    response = await scheduler.jobs.CreateJobs(
        jobs_pb.CreateJobsRequest(
            jobs=[
                builders.spec(job_id=known),
                builders.spec(job_id=known, payload='{"other":1}'),
                builders.spec(),
                builders.spec(job_id=str(uuid.uuid4())),
            ]
        )
    )

    assert [result.created for result in response.results] == [False, False, True, True]
    assert [result.failure.reason for result in response.results] == [
        0,
        error_reason_pb2.ERROR_REASON_REQUEST_ID_REUSED,
        0,
        0,
    ]


async def test_the_same_identity_twice_in_one_call_is_one_job(scheduler):
    job_id = str(uuid.uuid4())
    response = await scheduler.jobs.CreateJobs(
        jobs_pb.CreateJobsRequest(jobs=[builders.spec(job_id=job_id), builders.spec(job_id=job_id.upper())])
    )

    assert [(result.job_id, result.created) for result in response.results] == [(job_id, True), (job_id, False)]


async def test_ten_thousand_jobs_in_one_call(scheduler):
    request = jobs_pb.CreateJobsRequest(request_id=str(uuid.uuid4()), jobs=[builders.spec()] * 10_000)

    first = await scheduler.jobs.CreateJobs(request)
    second = await scheduler.jobs.CreateJobs(request)

    assert all(result.created for result in first.results)
    assert not any(result.created for result in second.results)
    assert [result.job_id for result in first.results] == [result.job_id for result in second.results]


async def test_concurrent_single_calls_share_transactions_and_all_succeed(scheduler):
    request_ids = [str(uuid.uuid4()) for _ in range(50)]
    requests = [jobs_pb.CreateJobRequest(request_id=each, job=builders.spec()) for each in request_ids * 2]

    responses = await asyncio.gather(*(scheduler.jobs.CreateJob(request) for request in requests))

    assert sum(response.created for response in responses) == 50
    assert len({response.job.job_id for response in responses}) == 50


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"payload": "[1]"}, "jobs[0].payload"),
        ({"payload": "{"}, "jobs[0].payload"),
        ({"type": "Bad Type"}, "jobs[0].type"),
        ({"project_id": "a\x00b"}, "jobs[0].project_id"),
        ({"priority": 10}, "jobs[0].priority"),
        ({"job_id": "no-uuid"}, "jobs[0].job_id"),
    ],
)
async def test_bad_specs_are_refused_and_name_the_field(scheduler, fields, field):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await scheduler.jobs.CreateJobs(jobs_pb.CreateJobsRequest(jobs=[builders.spec(**fields)]))

    error = from_rpc_error(caught.value, peer="scheduler")
    assert error.code.name == "INVALID_ARGUMENT"
    assert field in {violation.field for violation in error.field_violations}


async def test_jobs_of_one_call_that_differ_in_everything_stay_apart(scheduler):
    due = datetime.now(UTC) + timedelta(hours=1)
    specs = [
        builders.spec(type="a", project_id="p", priority=1, payload='{"n":1}', limit_key="x", max_attempts=2),
        builders.spec(type="b", project_id="q", priority=9, payload='{"n":2}', schedule_time=due),
        builders.spec(type="a", project_id="q", priority=1, payload='{"n":1}', limit_key="", max_attempts=2),
    ]
    response = await scheduler.jobs.CreateJobs(jobs_pb.CreateJobsRequest(jobs=specs))
    jobs = [await builders.get(scheduler, result.job_id) for result in response.results]

    for spec, job in zip(specs, jobs, strict=True):
        assert (job.type, job.project_id, job.priority) == (spec.type, spec.project_id, spec.priority)
        assert (job.payload, job.limit_key) == (spec.payload, spec.limit_key)
    assert [job.max_attempts for job in jobs] == [2, 5, 2]
    assert [job.schedule_time.ToDatetime(UTC) > datetime.now(UTC) for job in jobs] == [False, True, False]


async def test_delayed_job_waits_for_its_time(scheduler):
    due = datetime.now(UTC) + timedelta(seconds=0.7)
    moment = Timestamp()
    moment.FromDatetime(due)
    await builders.create(scheduler, schedule_time=moment)
    async with builders.leasing(scheduler) as stream:
        [job] = await stream.take(1)

    assert datetime.now(UTC) >= due
    assert (await builders.get(scheduler, job.lease.job_id)).schedule_time.ToDatetime(UTC) >= due


async def test_children_are_created_under_the_fence_and_once(scheduler):
    [parent] = await builders.create(scheduler)
    async with builders.leasing(scheduler) as stream:
        [job] = await stream.take(1)
        request = jobs_pb.CreateJobsRequest(
            request_id=str(uuid.uuid4()), jobs=[builders.spec(type="child")] * 3, parent_lease=job.lease
        )
        first = await scheduler.jobs.CreateJobs(request)
        second = await scheduler.jobs.CreateJobs(request)

    assert [result.created for result in first.results] == [True] * 3
    assert [result.created for result in second.results] == [False] * 3
    child = await builders.get(scheduler, first.results[0].job_id)
    assert child.parent_job_id == parent
