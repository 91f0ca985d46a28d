import uuid

from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb
from scristill.scheduler.v1 import worker_service_pb2 as work_pb


async def test_created_job_is_leased_and_completed(scheduler):
    created = await scheduler.jobs.CreateJob(
        jobs_pb.CreateJobRequest(
            request_id=str(uuid.uuid4()),
            job=job_pb2.JobSpec(type="extract", project_id="p", priority=5, payload='{"a":1}'),
        )
    )
    assert created.created
    stream = scheduler.work.LeaseJobs(work_pb.LeaseJobsRequest(worker_id="w", types=["extract"], max_in_flight=5))
    opened = await stream.read()
    assert opened.opened.stream_id
    frame = await stream.read()
    leased = frame.leases.jobs[0]
    assert leased.lease.job_id == created.job.job_id
    done = await scheduler.work.CompleteJobs(
        work_pb.CompleteJobsRequest(
            worker_id="w", completions=[work_pb.JobCompletion(lease=leased.lease, result='{"b":2}')]
        )
    )
    assert done.outcomes[0].state == job_pb2.JOB_STATE_SUCCEEDED
    job = (await scheduler.jobs.GetJob(jobs_pb.GetJobRequest(job_id=created.job.job_id))).job
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert job.result == '{"b":2}'
    stream.cancel()
