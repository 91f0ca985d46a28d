"""Every method of the adapters on a real PostgreSQL: nothing to do, NULLs, one statement per batch."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from services.scheduler.adapters.postgres import claiming, leasing
from services.scheduler.application.ports import Assignment
from services.scheduler.domain.job import Completion, JobFilter, JobState, Release, Renewal
from services.scheduler.domain.schedule import MissedFirePolicy, Schedule
from tests.integration.scheduler.specification import NO_DELAY, attempt
from tests.integration.scheduler.stores import spec


async def test_empty_batches_change_nothing(store):
    assert (await store.creation.create([], parent=None)).results == []
    assert (await store.creation.create_leased([], accept_timeout=timedelta(seconds=1))).leased == []
    assert await store.leases.still_held([]) == []
    assert (await store.leases.claim([], accept_timeout=timedelta(seconds=1))).leased == []
    assert (await store.leases.complete([])).outcomes == []
    assert (await store.leases.fail([], jitters=[])).outcomes == []
    assert (await store.leases.release([])).outcomes == []
    assert await store.leases.renew([]) == []
    await store.leases.expect_back([], grace=timedelta(seconds=1))
    assert (await store.leases.expire(limit=10)).stalled == []
    assert await store.reading.get([]) == []
    assert await store.ready.still_ready([]) == []
    assert await store.ready.heads([], limit=10) == {}
    assert await store.ready.heads(["extract"], limit=10) == {}
    assert await store.ready.promote_due(limit=10) == ([], None)
    assert (await store.reading.list_page(JobFilter(), after=None, limit=10)).jobs == []
    assert await store.schedules.fire() == []
    assert await store.execute("SELECT * FROM scheduler.job_changes") == []


async def test_batches_are_one_statement_each(store):
    created = await store.creation.create([spec() for _ in range(200)], parent=None)
    assert store.session.statements == 1
    assignments = [Assignment(entry=entry, worker_id="w", total_deadline=None) for entry in created.ready]
    leased = (await store.leases.claim(assignments, accept_timeout=timedelta(seconds=30))).leased
    assert store.session.statements == 2
    refs = [job.lease for job in leased]
    await store.leases.renew([Renewal(lease=ref, progress=None, checkpoint="") for ref in refs])
    assert store.session.statements == 3
    await store.leases.complete([Completion(lease=ref, result="{}") for ref in refs[:50]])
    assert store.session.statements == 4
    await store.leases.fail([attempt(ref, permanent=False) for ref in refs[50:100]], jitters=[0.5] * 50)
    assert store.session.statements == 5
    await store.leases.release([Release(lease=ref, delay=NO_DELAY, checkpoint="") for ref in refs[100:]])
    assert store.session.statements == 6
    log = await store.execute("SELECT cardinality(job_ids) AS jobs FROM scheduler.job_changes ORDER BY number")
    assert [row["jobs"] for row in log] == [200, 200, 50, 50, 100]


@pytest.mark.parametrize("statement", ["COMPLETE", "CLAIM"])
async def test_hot_statements_probe_by_primary_key(store, statement):
    """A partial index on running jobs, once preferred by the planner, made a batch quadratic."""
    text = {"COMPLETE": leasing.COMPLETE, "CLAIM": claiming.CLAIM}[statement]
    arguments = {
        "COMPLETE": ([], [], [], uuid.uuid4()),
        "CLAIM": ([], [], [], timedelta(seconds=1), uuid.uuid4()),
    }[statement]
    plan = "\n".join(row[0] for row in await store.execute(f"EXPLAIN {text}", *arguments))

    assert "jobs_pkey" in plan
    assert "jobs_running" not in plan
    assert "jobs_ready" not in plan


async def test_statistics_without_rows(store):
    assert await store.statistics.queues((), by_project=True) == []
    assert await store.statistics.durations((), window=timedelta(hours=1)) == []


async def test_durations_leave_out_jobs_that_never_started(store):
    [waiting] = (await store.creation.create([spec()], parent=None)).ready
    await store.control.cancel(waiting.job_id, message="", descend=True)
    leased = [await store.leased() for _ in range(4)]
    await store.leases.complete([Completion(lease=job.lease, result="{}") for job in leased])
    for seconds, job in enumerate(leased, start=1):
        await store.execute(
            "UPDATE scheduler.ended_jobs SET start_time = end_time - make_interval(secs => $2) WHERE job_id = $1",
            job.lease.job_id,
            float(seconds),
        )

    [stats] = await store.statistics.durations((), window=timedelta(hours=1))

    assert (stats.type, stats.completed_count) == ("extract", 4)
    assert (stats.minimum, stats.maximum) == (timedelta(seconds=1), timedelta(seconds=4))
    assert stats.average == stats.p50 == timedelta(seconds=2.5)
    assert stats.p95 == timedelta(seconds=3.85)
    assert await store.statistics.durations(("other",), window=timedelta(hours=1)) == []


async def test_queue_statistics_count_by_type_and_project(store):
    soon = datetime.now(UTC) + timedelta(hours=1)
    await store.creation.create([spec(project_id="a"), spec(project_id="b", schedule_time=soon)], parent=None)
    dying = await store.leased(project_id="b", max_attempts=1)
    await store.leases.fail([attempt(dying.lease, permanent=False)], jitters=[0.0])
    await store.leased(project_id="a", type="other")
    await store.controls.pause("idle")

    rows = await store.statistics.queues((), by_project=True)

    counts = {
        (row.type, row.project_id): (row.ready_count, row.scheduled_count, row.running_count, row.dead_count)
        for row in rows
    }
    assert counts == {
        ("extract", ""): (1, 1, 0, 1),
        ("extract", "a"): (1, 0, 0, 0),
        ("extract", "b"): (0, 1, 0, 1),
        ("idle", ""): (0, 0, 0, 0),
        ("other", ""): (0, 0, 1, 0),
        ("other", "a"): (0, 0, 1, 0),
    }
    assert [row.type for row in rows if row.paused] == ["idle"]
    assert rows[0].oldest_ready_age is not None
    assert rows[2].oldest_ready_age is None


async def test_ended_jobs_lie_in_partitions_that_are_dropped_whole(store):
    await store.upkeep.prepare_partitions()
    done = await store.leased()
    await store.leases.complete([Completion(lease=done.lease, result="{}")])
    [row] = await store.execute("SELECT tableoid::regclass::text AS part FROM scheduler.ended_jobs")
    assert row["part"].startswith("scheduler.ended_jobs_2")
    assert await store.upkeep.drop_old_partitions() == []

    old = row["part"].removeprefix("scheduler.")
    await store.execute(f"ALTER TABLE scheduler.ended_jobs DETACH PARTITION scheduler.{old}")
    await store.execute(f"ALTER TABLE scheduler.{old} RENAME TO ended_jobs_20200101_0000")
    await store.execute("UPDATE scheduler.ended_jobs_20200101_0000 SET end_time = '2020-01-01 10:00Z'")
    await store.execute(
        "ALTER TABLE scheduler.ended_jobs ATTACH PARTITION scheduler.ended_jobs_20200101_0000 "
        "FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')"
    )

    assert await store.upkeep.drop_old_partitions() == ["ended_jobs_20200101_0000"]
    assert await store.reading.get([done.lease.job_id]) == []


async def test_rows_that_found_no_partition_move_into_it_later(store):
    done = await store.leased()
    await store.leases.complete([Completion(lease=done.lease, result="{}")])
    assert (await store.execute("SELECT count(*) FROM scheduler.ended_jobs_default"))[0][0] == 1

    await store.upkeep.prepare_partitions()
    await store.upkeep.prepare_partitions()

    assert (await store.execute("SELECT count(*) FROM scheduler.ended_jobs_default"))[0][0] == 0
    assert (await store.job(done.lease.job_id)).state is JobState.SUCCEEDED


async def test_change_log_is_trimmed_and_says_from_where_it_is_whole(store):
    start = await store.log.position()
    await store.creation.create([spec()], parent=None)
    await store.execute("UPDATE scheduler.job_changes SET change_time = now() - interval '2 hours'")

    assert await store.upkeep.trim_changes() == 1
    assert await store.upkeep.trim_changes() == 0
    assert await store.log.oldest_position() > start


async def test_change_log_is_read_in_pages_that_split_no_transaction(store):
    start = await store.log.position()
    for _ in range(5):
        await store.creation.create([spec(), spec()], parent=None)

    first = await store.log.read(start, limit=2)
    rest = await store.log.read(first.next_position, limit=100)

    assert first.full
    assert not rest.full
    assert [len(change.job_ids) for change in (*first.changes, *rest.changes)] == [2] * 5
    assert (await store.log.read(start, limit=100, foreign_only=True)).changes == []


async def test_firing_makes_one_job_however_many_replicas_fire(store):
    schedule = Schedule(
        schedule_id="nightly",
        cron="*/5 * * * *",
        type="extract",
        project_id="p",
        priority=5,
        payload="{}",
        limit_key="",
        max_attempts=0,
        missed_fire_policy=MissedFirePolicy.FIRE_ONCE,
        paused=False,
    )
    stored = await store.schedules.put(schedule)
    assert stored.next_fire_time is not None
    assert await store.schedules.fire() == []
    await store.execute("UPDATE scheduler.schedules SET next_fire_time = now() - interval '1 hour'")

    assert len(await store.schedules.fire()) == 1
    await store.execute("UPDATE scheduler.schedules SET next_fire_time = now() - interval '1 hour'")
    assert len(await store.schedules.fire()) == 0
    [listed] = await store.schedules.list_page(after="", limit=10)
    assert listed.last_fire_time is not None
    assert listed.next_fire_time > datetime.now(UTC)
    await store.schedules.delete("nightly")
    await store.schedules.delete("nightly")
    assert await store.schedules.list_page(after="", limit=10) == []


async def test_put_with_the_same_times_keeps_a_firing_that_is_due(store):
    schedule = Schedule(
        schedule_id="s",
        cron="0 3 * * *",
        type="extract",
        project_id="p",
        priority=5,
        payload="{}",
        limit_key="",
        max_attempts=0,
        missed_fire_policy=MissedFirePolicy.FIRE_ONCE,
        paused=False,
    )
    await store.schedules.put(schedule)
    due = datetime(2026, 1, 1, 3, tzinfo=UTC)
    await store.execute("UPDATE scheduler.schedules SET next_fire_time = $1", due)

    assert (await store.schedules.put(schedule)).next_fire_time == due
