"""A worker whose lease went to another can change nothing, by any write that it knows."""

import uuid
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from scristill.errors.v1 import error_reason_pb2
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb

from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.scheduler import builders, harness


@pytest.fixture
async def scheduler(scheduler_url):
    """Leases last a second here, so that they can be lost."""
    policies = {"extract": {"lease": 1, "max_stalls": 1000}}
    async with (
        harness.replica(scheduler_url, type_policies=policies, accept_timeout_seconds=0.3) as replica,
        harness.client(replica.address) as client,
    ):
        yield client


@pytest.fixture
async def stale(scheduler):
    """A lease that was lost: another worker holds the job by now."""
    await builders.create(scheduler, limit_key="key")
    async with builders.leasing(scheduler, worker_id="stale") as stream:
        [job] = await stream.take(1)
    async with builders.leasing(scheduler, worker_id="holder") as stream:
        [held] = await stream.take(1)
        assert held.lease.fencing_token == job.lease.fencing_token + 1
        await builders.renew(scheduler, held, worker_id="holder")
        yield job
        await builders.renew(scheduler, held, worker_id="holder")
        assert (await builders.complete(scheduler, held, worker_id="holder"))[0].state == job_pb2.JOB_STATE_SUCCEEDED


def assert_lease_lost(outcome, job) -> None:
    assert outcome.failure.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert outcome.failure.reason == error_reason_pb2.ERROR_REASON_LEASE_LOST
    assert outcome.failure.metadata["current_fencing_token"] == str(job.lease.fencing_token + 1)
    assert outcome.state == job_pb2.JOB_STATE_UNSPECIFIED


async def children_of(scheduler, job) -> list[job_pb2.Job]:
    job_filter = jobs_pb.JobFilter(parent_job_ids=[job.lease.job_id])
    return list((await scheduler.jobs.ListJobs(jobs_pb.ListJobsRequest(filter=job_filter))).jobs)


async def unchanged(scheduler, job) -> job_pb2.Job:
    now = await builders.get(scheduler, job.lease.job_id)
    assert now.state == job_pb2.JOB_STATE_RUNNING
    assert now.worker_id == "holder"
    return now


async def test_lost_lease_cannot_complete(scheduler, stale):
    [outcome] = await builders.complete(scheduler, stale, result='{"stale":true}')

    assert_lease_lost(outcome, stale)
    assert not (await unchanged(scheduler, stale)).result


async def test_lost_lease_cannot_complete_with_children(scheduler, stale):
    completion = work_pb.JobCompletion(lease=stale.lease, children=[builders.spec(type="child")])
    response = await scheduler.work.CompleteJobs(
        work_pb.CompleteJobsRequest(worker_id="stale", completions=[completion])
    )

    assert_lease_lost(response.outcomes[0], stale)
    assert await children_of(scheduler, stale) == []


async def test_lost_lease_cannot_fail_the_job(scheduler, stale):
    outcome = await builders.fail(scheduler, stale, permanent=True)

    assert_lease_lost(outcome, stale)
    assert not (await unchanged(scheduler, stale)).HasField("last_failure")


async def test_lost_lease_cannot_shut_a_gate(scheduler, stale):
    far = Timestamp()
    far.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    assert_lease_lost(await builders.fail(scheduler, stale, gate_until_time=far), stale)

    await builders.create(scheduler, type="other", limit_key="key")
    async with builders.leasing(scheduler, worker_id="third", types=["other"]) as stream:
        assert await stream.take(1)


async def test_lost_lease_cannot_release(scheduler, stale):
    assert_lease_lost(await builders.release(scheduler, stale, checkpoint='{"stale":1}'), stale)
    await unchanged(scheduler, stale)


async def test_lost_lease_cannot_renew_or_report_progress(scheduler, stale):
    before = await unchanged(scheduler, stale)
    [directive] = await builders.renew(
        scheduler, stale, progress=job_pb2.JobProgress(completed_count=9), checkpoint='{"stale":1}'
    )

    assert directive.directive == work_pb.DIRECTIVE_LOST
    assert not directive.HasField("lease_expire_time")
    after = await unchanged(scheduler, stale)
    assert not after.HasField("progress")
    assert after.lease_expire_time == before.lease_expire_time


async def test_lost_lease_cannot_create_children(scheduler, stale):
    request = jobs_pb.CreateJobsRequest(
        request_id=str(uuid.uuid4()), jobs=[builders.spec(type="child")], parent_lease=stale.lease
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await scheduler.jobs.CreateJobs(request)

    error = from_rpc_error(caught.value, peer="scheduler")
    assert error.reason is Reason.LEASE_LOST
    assert error.metadata["current_fencing_token"] == str(stale.lease.fencing_token + 1)
    assert await children_of(scheduler, stale) == []


@pytest.mark.parametrize("write", [builders.complete, builders.fail, builders.release])
async def test_repeated_write_is_answered_as_the_first_time(scheduler, write):
    await builders.create(scheduler)
    async with builders.leasing(scheduler) as stream:
        [job] = await stream.take(1)
    options = {"retry_delay": timedelta(hours=1)} if write is builders.fail else {}
    options = {"delay": timedelta(hours=1)} if write is builders.release else options
    first = await write(scheduler, job, **options)
    again = await write(scheduler, job, **options)

    assert first == again
    outcome = first[0] if isinstance(first, list) else first
    assert not outcome.HasField("failure")


async def test_a_different_second_write_with_the_same_lease_is_refused(scheduler):
    await builders.create(scheduler)
    async with builders.leasing(scheduler) as stream:
        [job] = await stream.take(1)
    await builders.fail(scheduler, job, retry_delay=timedelta(hours=1))

    [outcome] = await builders.complete(scheduler, job)

    assert outcome.failure.reason == error_reason_pb2.ERROR_REASON_LEASE_LOST
    assert outcome.failure.metadata["state"] == "PENDING"


async def test_items_of_a_batch_are_judged_alone(scheduler):
    await builders.create(scheduler, 3)
    async with builders.leasing(scheduler) as stream:
        jobs = await stream.take(3)
        wrong = work_pb.JobCompletion(
            lease=job_pb2.LeaseRef(job_id=jobs[1].lease.job_id, fencing_token=jobs[1].lease.fencing_token + 7)
        )
        unknown = work_pb.JobCompletion(lease=job_pb2.LeaseRef(job_id=str(uuid.uuid4()), fencing_token=1))
        right = [work_pb.JobCompletion(lease=job.lease) for job in (jobs[0], jobs[2])]
        response = await scheduler.work.CompleteJobs(
            work_pb.CompleteJobsRequest(worker_id="w", completions=[right[0], wrong, unknown, right[1]])
        )

    states = [outcome.state for outcome in response.outcomes]
    assert states == [job_pb2.JOB_STATE_SUCCEEDED, 0, 0, job_pb2.JOB_STATE_SUCCEEDED]
    assert response.outcomes[1].failure.metadata["current_fencing_token"] == str(jobs[1].lease.fencing_token)
    assert response.outcomes[2].failure.metadata["state"] == ""


async def test_retried_job_goes_on_with_a_larger_token(scheduler):
    [job_id] = await builders.create(scheduler)
    async with builders.leasing(scheduler) as stream:
        [job] = await stream.take(1)
        await builders.fail(scheduler, job, permanent=True)
        await scheduler.jobs.RetryJob(jobs_pb.RetryJobRequest(job_id=job_id))
        [again] = await stream.take(1)

        assert again.lease.fencing_token == job.lease.fencing_token + 1
        assert (await builders.complete(scheduler, job))[0].HasField("failure")
        assert not (await builders.complete(scheduler, again))[0].HasField("failure")
