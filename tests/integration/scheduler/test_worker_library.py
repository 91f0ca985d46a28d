"""The worker library against a real scheduler."""

import asyncio
from datetime import timedelta

import pytest
import structlog
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb

from services.shared.grpc.channel import connect
from services.shared.lifecycle import Drain
from services.shared.worker import ChildJob, Done, Fail, Job, LeaseIsLost, Retry, Snooze, Worker
from tests.integration.scheduler import builders, harness
from tests.support.waiting import eventually


class Running:
    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.drain = Drain()
        self.task = asyncio.create_task(worker.run(self.drain))

    async def stop(self) -> None:
        self.drain.start()
        async with asyncio.timeout(15):
            await self.task


@pytest.fixture
async def start(scheduler):
    running: list[Running] = []

    def start(handlers, **options) -> Running:
        worker = Worker(scheduler.channel, handlers=handlers, **{"concurrency": 10, **options})
        running.append(Running(worker))
        return running[-1]

    yield start
    for each in running:
        await each.stop()


async def finish(_job: Job) -> None:
    return


async def ended(scheduler, job_id: str) -> job_pb2.Job:
    async def check():
        job = await builders.get(scheduler, job_id)
        return job if job.state >= job_pb2.JOB_STATE_SUCCEEDED else None

    return await eventually(check)


async def test_handler_result_becomes_the_result_of_the_job(scheduler, start):
    async def double(job):
        return Done(result={"n": job.payload["n"] * 2})

    start({"double": double})
    [job_id] = await builders.create(scheduler, type="double", payload='{"n":21}')

    job = await ended(scheduler, job_id)

    assert (job.state, job.result, job.attempt) == (job_pb2.JOB_STATE_SUCCEEDED, '{"n":42}', 1)


async def test_last_progress_is_stored_before_the_end(scheduler, start):
    async def count(job):
        for number in range(1, 4):
            job.report(completed=number, total=3, message=f"page {number}")

    start({"extract": count})
    [job_id] = await builders.create(scheduler)

    job = await ended(scheduler, job_id)

    assert (job.state, job.progress.completed_count) == (job_pb2.JOB_STATE_SUCCEEDED, 3)
    assert job.progress.message == "page 3"


async def test_checkpoint_of_a_failed_attempt_is_there_for_the_next(scheduler, start):
    async def climb(job):
        if job.attempt == 1:
            job.save({"step": 7})
            raise Retry("again", delay=timedelta(milliseconds=10))
        return Done(result={"checkpoint": job.checkpoint})

    start({"extract": climb})
    [job_id] = await builders.create(scheduler)

    assert (await ended(scheduler, job_id)).result == '{"checkpoint":{"step":7}}'


async def test_many_jobs_are_all_completed_with_batched_calls(scheduler, start):
    seen = set()

    async def note(job):
        seen.add(job.job_id)

    start({"extract": note}, concurrency=100)
    created = await builders.create(scheduler, 2000)

    await eventually(lambda: len(seen) == 2000)

    for job_id in created[::100]:
        assert (await ended(scheduler, job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_exceptions_decide_how_a_job_goes_on(scheduler, start):
    attempts: dict[str, int] = {}

    async def fickle(job):
        how = job.payload["how"]
        attempts[how] = attempts.get(how, 0) + 1
        if how == "fail":
            raise Fail("never")
        if how == "retry" and job.attempt == 1:
            raise Retry("later", delay=timedelta(milliseconds=10))
        if how == "bug" and job.attempt == 1:
            raise KeyError("secret")
        if how == "snooze" and attempts[how] == 1:
            raise Snooze(timedelta(milliseconds=10), checkpoint={"page": 7})
        return Done(result={"checkpoint": job.checkpoint})

    start({"extract": fickle})
    ids = {
        how: (await builders.create(scheduler, payload=f'{{"how":"{how}"}}'))[0]
        for how in ("fail", "retry", "bug", "snooze")
    }
    jobs = {how: await ended(scheduler, job_id) for how, job_id in ids.items()}

    assert jobs["fail"].state == job_pb2.JOB_STATE_FAILED
    assert jobs["fail"].last_failure.message == "never"
    assert (jobs["retry"].state, jobs["retry"].attempt) == (job_pb2.JOB_STATE_SUCCEEDED, 2)
    assert (jobs["bug"].attempt, jobs["bug"].last_failure.message) == (2, "the handler raised KeyError")
    assert (jobs["snooze"].attempt, jobs["snooze"].result) == (1, '{"checkpoint":{"page":7}}')


async def test_a_job_whose_handler_takes_its_lease_for_lost_is_not_held_until_the_lease_runs_out(scheduler, start):
    """What it works on may be gone or have another holder, while the job is still this worker's."""
    fences = []

    async def mistaken_once(job):
        fences.append(job.lease.fencing_token)
        if len(fences) == 1:
            raise LeaseIsLost

    start({"extract": mistaken_once})
    [job_id] = await builders.create(scheduler)

    job = await ended(scheduler, job_id)

    assert (job.state, job.attempt, fences) == (job_pb2.JOB_STATE_SUCCEEDED, 1, [1, 2])


async def test_children_come_with_the_completion_or_under_the_fence(scheduler, start):
    async def crawl(job):
        await job.create([ChildJob(key="a", type="leaf", payload={})])
        return Done(children=[ChildJob(key="a", type="leaf", payload={}), ChildJob(key="b", type="leaf", payload={})])

    start({"crawl": crawl, "leaf": lambda _job: asyncio.sleep(0)})
    [parent] = await builders.create(scheduler, type="crawl")
    await ended(scheduler, parent)

    children = await scheduler.jobs.ListJobs(jobs_pb.ListJobsRequest(filter=jobs_pb.JobFilter(parent_job_ids=[parent])))

    assert {job.type for job in children.jobs} == {"leaf"}
    assert len(children.jobs) == 2


async def test_cancel_reaches_a_running_handler_as_an_exception(migrated_database):
    url = await migrated_database("scheduler", harness.migrate)
    interrupted = asyncio.Event()
    started = asyncio.Event()

    async def wait(_job):
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            interrupted.set()
            raise

    async with (
        harness.replica(url, type_policies={"extract": {"lease": 1.5}}) as replica,
        harness.client(replica.address) as scheduler,
    ):
        running = Running(Worker(scheduler.channel, handlers={"extract": wait}, concurrency=1))
        [job_id] = await builders.create(scheduler)
        await started.wait()
        await scheduler.jobs.CancelJob(jobs_pb.CancelJobRequest(job_id=job_id))

        job = await ended(scheduler, job_id)
        await running.stop()

    assert interrupted.is_set()
    assert job.state == job_pb2.JOB_STATE_CANCELLED


async def test_progress_and_heartbeats_keep_a_long_job_alive(migrated_database):
    url = await migrated_database("scheduler", harness.migrate)

    async def work(job):
        job.report(completed=3, total=9, message="three")
        await asyncio.sleep(2.5)

    async with (
        harness.replica(url, type_policies={"extract": {"lease": 1}}, accept_timeout_seconds=1) as replica,
        harness.client(replica.address) as scheduler,
    ):
        running = Running(Worker(scheduler.channel, handlers={"extract": work}, concurrency=1))
        [job_id] = await builders.create(scheduler)
        job = await ended(scheduler, job_id)
        await running.stop()

    assert (job.state, job.attempt, job.stall_count) == (job_pb2.JOB_STATE_SUCCEEDED, 1, 0)
    assert (job.progress.completed_count, job.progress.total_count, job.progress.message) == (3, 9, "three")


async def test_drained_worker_gives_jobs_back_without_an_attempt(scheduler, start):
    started = asyncio.Event()

    async def hang(job):
        job.save({"page": 3})
        started.set()
        await asyncio.sleep(60)

    running = start({"extract": hang}, concurrency=5, finish_within=timedelta(milliseconds=50))
    created = await builders.create(scheduler, 20)
    await started.wait()
    await running.stop()

    jobs = [await builders.get(scheduler, job_id) for job_id in created]
    assert {(job.state, job.attempt, job.stall_count) for job in jobs} == {(job_pb2.JOB_STATE_PENDING, 0, 0)}
    async with builders.leasing(scheduler, worker_id="other", max_in_flight=20) as stream:
        leased = await stream.take(20)
    assert sorted(job.lease.job_id for job in leased) == sorted(created)
    assert '{"page":3}' in {job.checkpoint for job in leased}


async def test_handler_that_ends_during_the_drain_has_done_its_job(scheduler, start):
    started, finish = asyncio.Event(), asyncio.Event()

    async def work(_job):
        started.set()
        await finish.wait()

    running = start({"extract": work})
    [job_id] = await builders.create(scheduler)
    await started.wait()
    running.drain.start()
    finish.set()

    assert (await ended(scheduler, job_id)).state == job_pb2.JOB_STATE_SUCCEEDED


async def test_drained_worker_ends_its_stream_whichever_replica_that_is_at(migrated_database):
    """A stream that is cut instead loses the jobs that are on their way, until their leases run out."""
    url = await migrated_database("scheduler", harness.migrate)
    async with harness.replica(url) as first, harness.replica(url) as second, harness.client(second.address) as client:
        with structlog.testing.capture_logs() as lines:
            async with connect(f"ipv4:{first.address},{second.address}") as channel:
                for jobs in (1, 2, 3, 4):
                    # As many calls lie between the opening of the stream and the drain.
                    running = Running(Worker(channel, handlers={"extract": finish}, concurrency=1))
                    for job_id in await builders.create(client, jobs):
                        await ended(client, job_id)
                    await running.stop()

    assert "lease_stream_cut" not in {line["event"] for line in lines}


async def test_worker_survives_the_drain_of_its_replica(migrated_database):
    url = await migrated_database("scheduler", harness.migrate)
    done = []

    async def note(job):
        done.append(job.job_id)
        await asyncio.sleep(0.05)

    async with harness.replica(url) as first:
        port = int(first.address.rpartition(":")[2])
        async with harness.client(first.address) as scheduler:
            running = Running(Worker(scheduler.channel, handlers={"extract": note}, concurrency=4))
            await builders.create(scheduler, 20)
            await eventually(lambda: len(done) >= 4)
            await first.drain()
            async with harness.replica(url, port=port), asyncio.timeout(20):
                await eventually(lambda: len(done) >= 20, within=20)
                await running.stop()

    assert len(done) == len(set(done)) == 20
