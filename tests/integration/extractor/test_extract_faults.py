"""The job `extract` when holders, models, databases and processes fail in the midst of it."""

import asyncio
import random
from collections.abc import Sequence

import orjson
import pytest
from scristill.scheduler.v1 import job_pb2

from services.extractor.adapters.clients.scheduler import SchedulerClient
from services.extractor.application.report import Report
from services.extractor.domain.errors import StaleHolder
from services.extractor.domain.source import Source, SourceState
from services.extractor.entrypoints.extract_jobs import ExtractJobs
from services.shared.errors import Reason, Unavailable
from services.shared.grpc.channel import Channel
from services.shared.worker import Job, Snooze
from tests.integration.extractor.conftest import Desk
from tests.integration.extractor.peers import ScriptedGateway, ScriptedScheduler, facts_of, paragraphs
from tests.support.databases import cut_connections
from tests.support.waiting import eventually

TEXT = "Ada wrote programs. Grace found bugs. Alan broke codes."


async def test_a_stale_holder_cannot_publish(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    source = await desk.ingest(project, TEXT)
    gateway.gate.clear()
    gateway.arrived.clear()
    stale = asyncio.create_task(desk.run_job(source, fence=1))
    await gateway.arrived.wait()

    current = asyncio.create_task(desk.run_job(source, fence=2))
    await eventually(lambda: _fence(desk, at_least=2))
    gateway.gate.set()
    outcomes = await asyncio.gather(stale, current, return_exceptions=True)

    assert isinstance(outcomes[0], StaleHolder)
    assert len(await desk.facts(project)) == 3


async def _fence(desk: Desk, *, at_least: int) -> bool:
    return (await desk.execute("SELECT fence FROM extractor.source_versions"))[0].fence >= at_least


async def test_a_holder_whose_fence_is_too_old_does_not_even_begin(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    source = await desk.ingest(project, TEXT)
    await desk.run_job(source, fence=5)
    calls = gateway.calls

    with pytest.raises(StaleHolder):
        await desk.run_job(source, fence=4)

    assert gateway.calls == calls


async def test_a_publish_is_fenced_in_its_own_transaction(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """All chunks are done; the lease goes to another holder right before the last step."""
    project = await desk.project()
    source = await desk.ingest(project, TEXT)
    publish = desk.extract._publish

    async def overtaken(version, text):
        await desk.execute("UPDATE extractor.source_versions SET fence = 9")
        return await type(publish).__call__(publish, version, text)

    monkeypatch.setattr(desk.extract, "_publish", overtaken)
    with pytest.raises(StaleHolder):
        await desk.run_job(source)

    assert await desk.facts(project) == []
    assert await desk.outbox() == {}


@pytest.mark.parametrize("step", ["lay_out", "answer", "save", "publish"])
async def test_a_crash_after_any_step_resumes_without_paying_twice(
    desk: Desk, gateway: ScriptedGateway, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    project = await desk.project()
    source = await desk.ingest(project, paragraphs(30))
    with monkeypatch.context() as patch:
        _crash_after(patch, step)
        with pytest.raises(RuntimeError):
            await desk.run_job(source, fence=1)

    report = await desk.run_job(source, fence=2)

    assert report.ending is not None
    assert report.ending.state is SourceState.EXTRACTED
    assert len(gateway.texts) == len(set(gateway.texts))
    assert len(await desk.facts(project)) == 30


def _crash_after(patch: pytest.MonkeyPatch, step: str) -> None:
    """The process dies right after the commit of a step, or with answers that it has not written down."""
    from services.extractor.application import extract, publish  # noqa: PLC0415

    if step == "publish":
        original = publish.PublishVersion.__call__

        async def published(self, version, text):
            await original(self, version, text)
            raise RuntimeError("crashed")

        patch.setattr(publish.PublishVersion, "__call__", published)
        return
    name = {"lay_out": "_lay_out", "answer": "_save", "save": "_save"}[step]
    original = getattr(extract.ExtractSource, name)

    async def crashing(self, *arguments):
        if step != "answer":
            await original(self, *arguments)
        raise RuntimeError("crashed")

    patch.setattr(extract.ExtractSource, name, crashing)


async def test_a_model_that_is_away_leaves_the_chunk_open_until_its_attempts_are_spent(
    desk: Desk, gateway: ScriptedGateway
) -> None:
    project = await desk.project()
    source = await desk.ingest(project, TEXT)

    for fence in (1, 2):
        gateway.failures = [Unavailable.of("provider") for _ in range(50)]
        assert (await desk.run_job(source, fence=fence)).unfinished_count == 1
    gateway.failures = [Unavailable.of("provider") for _ in range(50)]
    report = await desk.run_job(source, fence=3)

    assert report.ending is not None
    assert report.ending.state is SourceState.FAILED


async def test_a_short_outage_of_the_model_costs_nothing(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    gateway.failures = [Unavailable.of("provider")]

    source = await desk.distilled(project, TEXT)

    assert source.state is SourceState.EXTRACTED


async def test_a_job_whose_source_is_deleted_changes_nothing(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    source = await desk.ingest(project, TEXT)
    gateway.gate.clear()
    gateway.arrived.clear()
    job = asyncio.create_task(desk.run_job(source))
    await gateway.arrived.wait()

    await desk.commands.delete(source.source_id)
    gateway.gate.set()
    (outcome,) = await asyncio.gather(job, return_exceptions=True)

    assert isinstance(outcome, Report)
    assert outcome.gone
    assert (await desk.run_job(source, fence=2)).gone
    assert await desk.facts(project) == []
    assert await desk.execute("SELECT 1 FROM extractor.chunks") == []


async def test_a_job_that_was_created_after_its_source_was_deleted_is_withdrawn(
    desk: Desk, channel: Channel, scheduler: ScriptedScheduler
) -> None:
    """The call that creates it was late, so that the deletion found no job to cancel."""
    source = await desk.ingest(await desk.project(), TEXT)
    await desk.commands.delete(source.source_id)
    handle = ExtractJobs(desk.extract, jobs=SchedulerClient(channel), rng=random.Random(7))

    with pytest.raises(Snooze):
        await handle(_leased(source))
    assert scheduler.cancelled == [str(source.job_id)]

    scheduler.down = 1
    with pytest.raises(Snooze):
        await handle(_leased(source))


def _leased(source: Source) -> Job:
    leased = job_pb2.LeasedJob(
        lease=job_pb2.LeaseRef(job_id=str(source.job_id), fencing_token=1),
        type="extract",
        payload=orjson.dumps({"source_id": str(source.source_id), "version": source.version}).decode(),
    )

    async def no_children(_job: Job, _specs: Sequence[job_pb2.JobSpec]) -> None:
        raise AssertionError("it has none")

    return Job(leased, create=no_children)


async def test_a_job_of_a_deleted_source_cannot_work_on_the_source_that_took_its_place(desk: Desk) -> None:
    project = await desk.project()
    old = await desk.ingest(project, TEXT)
    await desk.commands.delete(old.source_id)
    new = await desk.ingest(project, "Linus made git.")
    assert (new.source_id, new.version) == (old.source_id, old.version)

    assert (await desk.run_job(old, fence=7)).gone
    await desk.run_job(new, fence=1)

    assert [fact.quote for fact in await desk.facts(project)] == ["Linus made git."]


async def test_an_outage_of_the_database_in_mid_job_is_told_as_one(
    desk: Desk, gateway: ScriptedGateway, extractor_url: str
) -> None:
    project = await desk.project()
    source = await desk.ingest(project, paragraphs(30))
    gateway.gate.clear()
    gateway.arrived.clear()
    job = asyncio.create_task(desk.run_job(source))
    await gateway.arrived.wait()
    await cut_connections(extractor_url)
    gateway.gate.set()
    (outcome,) = await asyncio.gather(job, return_exceptions=True)

    if isinstance(outcome, BaseException):
        assert isinstance(outcome, Unavailable)
    report = await desk.run_job(source, fence=2)
    assert report.ending is not None
    assert len(gateway.texts) == len(set(gateway.texts))
    assert len(await desk.facts(project)) == 30


async def test_a_model_that_answers_nul_harms_nothing(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()

    def with_nul(text: str) -> dict:
        answer = facts_of(text)
        answer["facts"][0]["category"] = "oth\x00er"
        return answer

    gateway.answer = with_nul
    source = await desk.distilled(project, TEXT)

    assert source.state is SourceState.EXTRACTED
    assert {fact.category for fact in await desk.facts(project)} == {"other"}


async def test_an_answer_that_is_no_object_fails_its_chunk_for_good(desk: Desk, gateway: ScriptedGateway) -> None:
    gateway.answer = lambda _text: ["not", "an", "object"]

    source = await desk.distilled(await desk.project(), TEXT)

    assert (source.state, source.reason) == (SourceState.FAILED, Reason.OUTPUT_INVALID)
