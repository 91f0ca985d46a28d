"""From the outbox to the scheduler."""

import asyncio
from typing import Any
from uuid import UUID

from services.extractor.application.intent_relay import IntentRelay
from services.extractor.domain.outbox import Topic
from tests.integration.extractor.conftest import Desk
from tests.integration.extractor.peers import ScriptedScheduler
from tests.support.waiting import eventually


async def _jobs(desk: Desk) -> list[Any]:
    return list(await desk.execute("SELECT * FROM extractor.outbox WHERE topic = 'job'"))


async def test_a_job_is_created_for_each_new_version(
    desk: Desk, scheduler: ScriptedScheduler, job_relay: IntentRelay
) -> None:
    project = await desk.project()
    source = await desk.ingest(project, "Ada wrote programs.")

    job_relay.wake()

    await eventually(lambda: str(source.job_id) in scheduler.created)
    spec = scheduler.created[str(source.job_id)]
    assert (spec.type, spec.project_id) == ("extract", str(project.project_id))
    assert spec.payload == f'{{"source_id":"{source.source_id}","version":1}}'
    await eventually(lambda: _empty(desk))


async def test_a_scheduler_that_is_away_gets_the_job_later(
    desk: Desk, scheduler: ScriptedScheduler, job_relay: IntentRelay
) -> None:
    scheduler.down = 10
    project = await desk.project()
    source = await desk.ingest(project, "Ada wrote programs.")

    await eventually(lambda: str(source.job_id) in scheduler.created, within=20)
    await eventually(lambda: _empty(desk))


async def test_a_refused_job_becomes_a_dead_letter_that_can_be_replayed(
    desk: Desk, scheduler: ScriptedScheduler, job_relay: IntentRelay
) -> None:
    scheduler.refuse_all = True
    source = await desk.ingest(await desk.project(), "Ada wrote programs.")

    async def dead() -> list[UUID]:
        return [row.key for row in await desk.execute("SELECT key FROM extractor.dead_letters WHERE topic = 'job'")]

    assert await eventually(dead) == [source.job_id]
    scheduler.refuse_all = False
    async with desk.unit_of_work() as repositories:
        assert await repositories.outbox.replay([source.job_id], traceparent="") == {source.job_id}
    await eventually(lambda: str(source.job_id) in scheduler.created)


async def test_a_deleted_source_cancels_a_job_that_is_open(
    desk: Desk, scheduler: ScriptedScheduler, job_relay: IntentRelay
) -> None:
    project = await desk.project()
    source = await desk.ingest(project, "Ada wrote programs.")
    await eventually(lambda: str(source.job_id) in scheduler.created)

    await desk.commands.delete(source.source_id)

    await eventually(lambda: scheduler.cancelled == [str(source.job_id)])
    await eventually(lambda: _empty(desk))


async def test_a_deleted_source_leaves_a_finished_job_alone(
    desk: Desk, scheduler: ScriptedScheduler, job_relay: IntentRelay
) -> None:
    project = await desk.project()
    source = await desk.distilled(project, "Ada wrote programs.")
    await eventually(lambda: _empty(desk))

    await desk.commands.delete(source.source_id)

    assert await _jobs(desk) == []


async def test_the_job_carries_the_trace_of_the_call_that_asked_for_it(
    desk: Desk, scheduler: ScriptedScheduler, job_relay: IntentRelay
) -> None:
    scheduler.down = 10_000  # a call that begins before the trace is in the row must not create the job
    project = await desk.project()
    source = await desk.ingest(project, "Ada wrote programs.")
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    await desk.execute("UPDATE extractor.outbox SET traceparent = :trace", trace=f"00-{trace_id}-b7ad6b7169203331-01")

    await eventually(lambda: trace_id in {trace.split("-")[1] for trace in scheduler.traces})
    scheduler.down = 0

    await eventually(lambda: str(source.job_id) in scheduler.created)
    assert scheduler.traces[-1].split("-")[1] == trace_id


async def test_storing_sources_wakes_the_relay(desk: Desk) -> None:
    project = await desk.project()

    await desk.ingest(project, "Ada wrote programs.")
    await desk.ingest(project, "Ada wrote programs.")

    assert desk.woken == [Topic.JOB]


async def _empty(desk: Desk) -> bool:
    await asyncio.sleep(0)
    return not await _jobs(desk)
