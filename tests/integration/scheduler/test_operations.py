"""Schedules, statistics and metrics, as operators see them."""

import grpc
import pytest
from scristill.scheduler.v1 import scheduler_service_pb2 as jobs_pb

from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.scheduler import builders, harness
from tests.support.waiting import eventually


def schedule(**fields) -> jobs_pb.PutScheduleRequest:
    defaults = {"schedule_id": "nightly", "cron": "0 3 * * *", "job": builders.spec(payload='{"a":1}')}
    return jobs_pb.PutScheduleRequest(schedule=jobs_pb.Schedule(**{**defaults, **fields}))


async def test_schedules_are_put_listed_and_deleted(scheduler):
    for name in ("c", "a", "b"):
        stored = (await scheduler.jobs.PutSchedule(schedule(schedule_id=name))).schedule
        assert stored.next_fire_time.ToDatetime().hour == 3
        assert stored.missed_fire_policy == jobs_pb.MISSED_FIRE_POLICY_FIRE_ONCE

    first = await scheduler.jobs.ListSchedules(jobs_pb.ListSchedulesRequest(page_size=2))
    rest = await scheduler.jobs.ListSchedules(
        jobs_pb.ListSchedulesRequest(page_size=2, page_token=first.next_page_token)
    )
    await scheduler.jobs.DeleteSchedule(jobs_pb.DeleteScheduleRequest(schedule_id="a"))
    left = await scheduler.jobs.ListSchedules(jobs_pb.ListSchedulesRequest())

    assert [each.schedule_id for each in (*first.schedules, *rest.schedules)] == ["a", "b", "c"]
    assert not rest.next_page_token
    assert [each.schedule_id for each in left.schedules] == ["b", "c"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"cron": "61 * * * *"}, "schedule.cron"),
        ({"cron": "0 0 30 2 *"}, "schedule.cron"),
        ({"job": builders.spec(job_id="0190a6f2-5d5e-7a36-8f64-2f6b9c1a7e11")}, "schedule.job.job_id"),
        ({"job": builders.spec(payload="[]")}, "schedule.job.payload"),
    ],
)
async def test_bad_schedules_are_refused(scheduler, fields, field):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await scheduler.jobs.PutSchedule(schedule(**fields))

    error = from_rpc_error(caught.value, peer="scheduler")
    assert error.reason is Reason.INVALID_REQUEST
    assert [violation.field for violation in error.field_violations] == [field]


async def test_due_schedule_fires_into_the_queue(scheduler, store):
    await scheduler.jobs.PutSchedule(schedule())
    await store.execute(
        "UPDATE scheduler.schedules SET next_fire_time = now() - interval '90 seconds', cron = '* * * * *'"
    )
    async with builders.leasing(scheduler) as stream:
        [job] = await stream.take(1)

    assert job.payload == '{"a":1}'
    listed = (await scheduler.jobs.ListSchedules(jobs_pb.ListSchedulesRequest())).schedules[0]
    assert listed.HasField("last_fire_time")


async def test_statistics_by_type_and_project(scheduler):
    await builders.create(scheduler, 3, project_id="a")
    await builders.create(scheduler, 2, project_id="b")
    async with builders.leasing(scheduler, max_in_flight=2) as stream:
        first, second = await stream.take(2)
        await builders.complete(scheduler, first)
        await stream.take(1)
        stats = await scheduler.jobs.GetQueueStats(jobs_pb.GetQueueStatsRequest(by_project=True))
        await builders.complete(scheduler, second)

    total, a, b = stats.queues
    assert (total.type, total.project_id, a.project_id, b.project_id) == ("extract", "", "a", "b")
    assert (total.ready_count, total.running_count) == (2, 2)
    assert total.HasField("oldest_ready_age")
    [durations] = stats.durations
    assert (durations.type, durations.completed_count) == ("extract", 1)
    assert durations.minimum == durations.maximum == durations.p50


async def test_metrics_keep_the_names_of_the_review(scheduler_url):
    async with (
        harness.replica(scheduler_url, statistics_seconds=0.1) as replica,
        harness.client(replica.address) as scheduler,
    ):
        await builders.create(scheduler, 3)
        async with builders.leasing(scheduler, max_in_flight=2) as stream:
            await builders.complete(scheduler, *await stream.take(2))

        def shown():
            text = replica.runtime.metrics.render().decode()
            return all(
                line in text
                for line in (
                    'scristill_jobs_completed_total{type="extract"} 2.0',
                    'scristill_job_duration_seconds_avg{type="extract"}',
                    'scristill_job_duration_seconds_min{type="extract"}',
                    'scristill_job_duration_seconds_max{type="extract"}',
                    'scristill_jobs_in_flight{type="extract"}',
                    "scristill_job_claim_batch_size_count",
                    "scristill_scheduler_sql_wait_seconds_count",
                )
            )

        await eventually(shown)


async def test_nul_is_refused_wherever_text_reaches_the_database(scheduler):
    calls = [
        scheduler.jobs.PauseQueue(jobs_pb.PauseQueueRequest(type="a\x00")),
        scheduler.jobs.GetQueueStats(jobs_pb.GetQueueStatsRequest(types=["a\x00"])),
        scheduler.jobs.ListJobs(jobs_pb.ListJobsRequest(filter=jobs_pb.JobFilter(project_ids=["a\x00"]))),
        scheduler.jobs.SetKeyLimit(jobs_pb.SetKeyLimitRequest(limit_key="a\x00")),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
