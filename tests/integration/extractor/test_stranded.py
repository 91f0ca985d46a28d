"""No source stays open in silence when its job is gone."""

import random
from collections.abc import Callable
from datetime import timedelta

import pytest
from scristill.errors.v1 import error_reason_pb2
from scristill.scheduler.v1 import job_pb2

from services.extractor.adapters.clients.scheduler import SchedulerClient
from services.extractor.application.stranded import StrandedVersions
from services.extractor.domain.source import Source, SourceState
from services.shared.errors import Reason
from services.shared.grpc.channel import Channel
from services.shared.ids import Uuid7
from tests.integration.extractor.conftest import Desk, running
from tests.integration.extractor.peers import ScriptedScheduler
from tests.support.waiting import eventually

MakeStranded = Callable[[timedelta], StrandedVersions]


@pytest.fixture
def make_stranded(channel: Channel, desk: Desk) -> MakeStranded:

    def make(older_than: timedelta) -> StrandedVersions:
        return StrandedVersions(
            unit_of_work=desk.unit_of_work,
            jobs=SchedulerClient(channel),
            wake=desk.woken.append,
            new_id=Uuid7(),
            rng=random.Random(7),
            older_than=older_than,
        )

    return make


@pytest.fixture
def stranded(make_stranded: MakeStranded) -> StrandedVersions:
    return make_stranded(timedelta())


async def _waiting(desk: Desk) -> Source:
    """A source whose job the scheduler has got."""
    source = await desk.ingest(await desk.project(), "Ada wrote programs.")
    await desk.execute("DELETE FROM extractor.outbox")
    return source


@pytest.mark.parametrize(
    ("state", "reason"),
    [(job_pb2.JOB_STATE_CANCELLED, Reason.CANCELLED_BY_CALLER), (job_pb2.JOB_STATE_DEAD, Reason.STALLED_TOO_OFTEN)],
)
async def test_a_job_that_ended_badly_ends_its_source(
    desk: Desk, scheduler: ScriptedScheduler, stranded: StrandedVersions, state: int, reason: Reason
) -> None:
    source = await _waiting(desk)
    failure = job_pb2.JobFailure(reason=error_reason_pb2.ERROR_REASON_STALLED_TOO_OFTEN, message="crashed")
    scheduler.jobs[str(source.job_id)] = job_pb2.Job(job_id=str(source.job_id), state=state, last_failure=failure)

    await stranded.sweep()

    stored = await desk.queries.get(source.source_id)
    assert (stored.state, stored.reason) == (SourceState.FAILED, reason)


async def test_a_job_that_is_open_is_left_alone(
    desk: Desk, scheduler: ScriptedScheduler, stranded: StrandedVersions
) -> None:
    source = await _waiting(desk)
    scheduler.jobs[str(source.job_id)] = job_pb2.Job(job_id=str(source.job_id), state=job_pb2.JOB_STATE_RUNNING)

    await stranded.sweep()

    assert (await desk.queries.get(source.source_id)).job_id == source.job_id


async def test_a_job_that_is_lost_is_replaced(desk: Desk, stranded: StrandedVersions) -> None:
    source = await _waiting(desk)

    await stranded.sweep()

    stored = await desk.queries.get(source.source_id)
    (intent,) = await desk.execute("SELECT key, version FROM extractor.outbox WHERE topic = 'job'")
    assert stored.state is SourceState.PENDING
    assert stored.job_id == intent.key != source.job_id
    await desk.run_job(stored)
    assert len(await desk.facts(await desk.project())) == 0
    assert (await desk.queries.get(source.source_id)).state is SourceState.EXTRACTED


async def test_an_intent_that_waits_is_no_stranded_source(desk: Desk, stranded: StrandedVersions) -> None:
    source = await desk.ingest(await desk.project(), "Ada wrote programs.")

    await stranded.sweep()

    assert (await desk.queries.get(source.source_id)).job_id == source.job_id


async def test_a_job_that_is_cancelled_before_it_ran_ends_its_source_as_soon_as_the_scheduler_tells(
    desk: Desk, scheduler: ScriptedScheduler, make_stranded: MakeStranded
) -> None:
    """Long before the sweep would look at it, and over a watch that breaks."""
    first, second = await _waiting(desk), await desk.ingest(await desk.project(), "Bob wrote books.", uri="file:///b")
    await desk.execute("DELETE FROM extractor.outbox")

    async with running(make_stranded(timedelta(hours=1)).run):
        for source in (first, second):
            cancelled = job_pb2.Job(job_id=str(source.job_id), type="extract", state=job_pb2.JOB_STATE_CANCELLED)
            scheduler.changes.put_nowait(cancelled)
            scheduler.changes.put_nowait(None)
            await eventually(lambda source=source: _failed(desk, source))

    stored = await desk.queries.get(first.source_id)
    assert (stored.reason, stored.message) == (Reason.CANCELLED_BY_CALLER, "the job was cancelled")


async def _failed(desk: Desk, source: Source) -> bool:
    return (await desk.queries.get(source.source_id)).state is SourceState.FAILED
