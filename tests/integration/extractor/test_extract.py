"""The job `extract`, step by step, with a model that counts what it is paid for."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy.exc import DBAPIError

from services.extractor.domain.errors import StaleHolder
from services.extractor.domain.source import SourceState
from services.shared.errors import Reason, Unavailable
from tests.integration.extractor.conftest import Desk, Progress
from tests.integration.extractor.peers import ScriptedGateway, facts_of
from tests.support.waiting import eventually

TEXT = "Ada wrote programs. Grace found bugs. Alan broke codes."


def paragraphs(count: int, *, marker: str = "") -> str:
    """A document of about `count` chunks, each paragraph with a sentence of its own."""
    filler = "and this part of the sentence only fills the paragraph up " * 16
    return "\n\n".join(f"Person{n} visited town{n}{marker if n == count // 2 else ''} {filler}." for n in range(count))


async def test_a_document_becomes_facts_with_verified_spans(desk: Desk) -> None:
    project = await desk.project()
    source = await desk.ingest(project, TEXT)
    progress = Progress()

    report = await desk.run_job(source, progress=progress)

    assert report.ending is not None
    assert report.ending.state is SourceState.EXTRACTED
    facts = await desk.facts(project)
    assert [fact.quote for fact in facts] == ["Ada wrote programs.", "Grace found bugs.", "Alan broke codes."]
    assert all(TEXT[fact.start : fact.end] == fact.quote for fact in facts)
    assert [fact.entities for fact in facts] == [("Ada",), ("Grace",), ("Alan",)]
    assert progress.reports[-1] == (1, 1, "publishing")
    stored = await desk.queries.get(source.source_id)
    assert (stored.state, stored.visible_version, stored.extraction_count) == (SourceState.EXTRACTED, 1, 3)


async def test_every_fact_leaves_an_intent_in_the_same_commit(desk: Desk) -> None:
    project = await desk.project()

    await desk.distilled(project, TEXT)

    facts = {fact.extraction_id: fact.version for fact in await desk.facts(project)}
    assert {key: row.version for key, row in (await desk.outbox()).items()} == facts


@pytest.mark.parametrize(
    "text",
    [
        "张三 写了 一本 关于 湖泊 的 书。 Li Wei measured 湖水 in 1998.",
        "Zoe\u0308 loves 👩\u200d🚀 rockets. 🙂 Max saw a nai\u0308ve e\u0301toile. Crème brûlée tastes 👍🏽 great.",
        "Windows wrote\r\nlines here.\r\nGrace read\rthem all.",
    ],
)
async def test_spans_count_code_points(desk: Desk, text: str) -> None:
    project = await desk.project()

    source = await desk.distilled(project, text)

    _, stored = await desk.queries.get_with_text(source.source_id)
    facts = await desk.facts(project)
    assert facts
    assert all(stored[fact.start : fact.end] == fact.quote for fact in facts)


async def test_the_database_refuses_a_quote_that_is_not_at_its_span(desk: Desk) -> None:
    project = await desk.project()
    source = await desk.distilled(project, TEXT)
    await desk.execute("UPDATE extractor.extractions SET quote = 'Eda wrote programs.' WHERE quote LIKE 'Ada%'")

    with pytest.raises(DBAPIError, match="not what the source says"):
        await desk.execute(
            "UPDATE extractor.sources SET visible_version = visible_version WHERE source_id = :id", id=source.source_id
        )


async def test_the_database_checks_quotes_on_every_page_of_a_long_text(desk: Desk) -> None:
    project = await desk.project()
    source = await desk.distilled(project, paragraphs(60))
    await desk.execute(
        "UPDATE extractor.extractions SET quote = overlay(quote placing 'x' from 5)"
        " WHERE start_offset = (SELECT max(start_offset) FROM extractor.extractions)"
    )

    with pytest.raises(DBAPIError, match="not what the source says"):
        await desk.execute(
            "UPDATE extractor.sources SET visible_version = visible_version WHERE source_id = :id", id=source.source_id
        )


async def test_a_second_run_replaces_and_never_appends(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    before = {fact.extraction_id: fact.version for fact in await desk.facts(project)}

    source = await desk.ingest(project, f"{TEXT} Linus made git.")
    await desk.run_job(source)

    facts = {fact.extraction_id: fact.version for fact in await desk.facts(project)}
    assert len(facts) == 4
    assert before.keys() < facts.keys()


async def test_facts_that_did_not_change_keep_their_version_and_index_entry(desk: Desk) -> None:
    project = await desk.project()
    await desk.distilled(project, paragraphs(20))
    before = {fact.extraction_id: fact.version for fact in await desk.facts(project)}
    await desk.execute("DELETE FROM extractor.outbox WHERE topic = 'fact'")

    source = await desk.ingest(project, paragraphs(20).replace("town19", "city19"))
    await desk.run_job(source)

    after = {fact.extraction_id: fact.version for fact in await desk.facts(project)}
    unchanged = before.items() & after.items()
    assert len(after) == 20
    assert len(unchanged) >= 17
    assert (await desk.outbox()).keys().isdisjoint(fact_id for fact_id, _ in unchanged)


async def test_an_unchanged_document_makes_no_version_and_no_call(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    calls = gateway.calls

    again = await desk.ingest(project, TEXT)

    assert again.version == 1
    assert await desk.execute("SELECT key FROM extractor.outbox WHERE topic = 'job' AND version > 1") == []
    assert gateway.calls == calls


async def test_one_edited_sentence_asks_about_three_chunks_at_most(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    source = await desk.distilled(project, paragraphs(400))
    assert source.chunk_count > 100
    calls = gateway.calls

    await desk.distilled(project, paragraphs(400, marker=" by train"))

    assert 1 <= gateway.calls - calls <= 3


async def test_a_changed_schema_does_not_use_old_results(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)

    await desk.projects.update(
        project.project_id,
        lambda present: replace(present, schema=replace(present.schema, instructions="be brief")),
        etag="",
    )
    gateway.texts.clear()

    await desk.distilled(project, f"{TEXT}\n")

    assert len(gateway.texts) == 1


async def test_the_old_version_stays_visible_until_the_new_one_is_whole(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    source = await desk.ingest(project, "Linus made git.")
    gateway.gate.clear()
    gateway.arrived.clear()
    job = asyncio.create_task(desk.run_job(source))
    await gateway.arrived.wait()

    assert len(await desk.facts(project)) == 3
    assert (await desk.queries.get(source.source_id)).state is SourceState.EXTRACTING
    gateway.gate.set()
    await job

    assert [fact.quote for fact in await desk.facts(project)] == ["Linus made git."]


async def test_facts_that_are_gone_leave_tombstones_above_their_version(desk: Desk) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    before = {fact.extraction_id: fact.version for fact in await desk.facts(project)}

    source = await desk.ingest(project, "Ada wrote programs.")
    await desk.run_job(source)

    kept = {fact.extraction_id for fact in await desk.facts(project)}
    tombstones = {key: row for key, row in (await desk.outbox()).items() if row.operation == 2}
    assert tombstones.keys() == before.keys() - kept
    assert all(row.version > before[key] for key, row in tombstones.items())


async def test_a_fact_that_comes_back_goes_on_above_its_tombstone(desk: Desk) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    await desk.distilled(project, "Ada wrote programs.")
    tombstones = {key: row.version for key, row in (await desk.outbox()).items() if row.operation == 2}
    await desk.execute("DELETE FROM extractor.outbox WHERE topic = 'fact'")

    await desk.distilled(project, f"{TEXT} ")

    returned = {fact.extraction_id: fact.version for fact in await desk.facts(project)}
    assert tombstones
    assert all(returned[key] > version for key, version in tombstones.items())


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

    assert isinstance(outcomes[0], ExceptionGroup)
    assert outcomes[0].subgroup(StaleHolder) is not None
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
        with pytest.raises((RuntimeError, ExceptionGroup)):
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


async def test_a_chunk_that_the_model_refuses_makes_the_source_partial(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    gateway.refuse = lambda text: "Person7 " in text
    source = await desk.ingest(project, paragraphs(20))

    report = await desk.run_job(source)

    stored = await desk.queries.get(source.source_id)
    assert report.ending is not None
    assert (stored.state, stored.reason) == (SourceState.PARTIAL, Reason.OUTPUT_INVALID)
    assert stored.failed_chunk_count == 1
    assert "1 of" in stored.message
    assert 0 < len(await desk.facts(project)) < 20


async def test_a_retry_of_a_partial_source_asks_only_about_what_failed(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    gateway.refuse = lambda text: "Person7 " in text
    source = await desk.ingest(project, paragraphs(20))
    await desk.run_job(source, fence=1)
    gateway.refuse = lambda _text: False
    gateway.texts.clear()

    report = await desk.run_job(source, fence=2)

    assert report.ending is not None
    assert report.ending.state is SourceState.EXTRACTED
    assert len(gateway.texts) == 1
    assert len(await desk.facts(project)) == 20


async def test_a_version_without_any_answer_fails_and_leaves_the_old_one_visible(
    desk: Desk, gateway: ScriptedGateway
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    gateway.refuse = lambda _text: True

    source = await desk.distilled(project, "Linus made git.")

    assert (source.state, source.visible_version, source.version) == (SourceState.FAILED, 1, 2)
    assert len(await desk.facts(project)) == 3


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


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", Reason.SOURCE_EMPTY), (b" \n ", Reason.SOURCE_EMPTY), (bytes(range(256)) * 9, Reason.SOURCE_UNREADABLE)],
)
async def test_what_cannot_be_read_is_skipped_with_its_reason(desk: Desk, content: bytes, reason: Reason) -> None:
    project = await desk.project()
    source = await desk.ingest(project, content)

    await desk.run_job(source)

    stored = await desk.queries.get(source.source_id)
    assert (stored.state, stored.reason) == (SourceState.SKIPPED, reason)
    assert stored.message


async def test_a_document_that_became_empty_loses_its_facts(desk: Desk) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)

    source = await desk.distilled(project, "")

    assert (source.state, source.visible_version) == (SourceState.SKIPPED, 2)
    assert await desk.facts(project) == []
    assert {row.operation for row in (await desk.outbox()).values()} == {2}


async def test_an_older_version_is_not_worked_on_once_a_newer_one_has_come(
    desk: Desk, gateway: ScriptedGateway
) -> None:
    project = await desk.project()
    old = await desk.ingest(project, TEXT)
    await desk.ingest(project, "Linus made git.")

    report = await desk.run_job(old)

    assert report.ending is not None
    assert report.ending.state is SourceState.SKIPPED
    assert gateway.calls == 0


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

    assert isinstance(outcome, ExceptionGroup)
    assert (await desk.run_job(source, fence=2)).gone
    assert await desk.facts(project) == []
    assert await desk.execute("SELECT 1 FROM extractor.chunks") == []


async def test_a_job_of_a_deleted_source_cannot_work_on_the_source_that_took_its_place(desk: Desk) -> None:
    project = await desk.project()
    old = await desk.ingest(project, TEXT)
    await desk.commands.delete(old.source_id)
    new = await desk.ingest(project, "Linus made git.")
    assert (new.source_id, new.version) == (old.source_id, old.version)

    assert (await desk.run_job(old, fence=7)).gone
    await desk.run_job(new, fence=1)

    assert [fact.quote for fact in await desk.facts(project)] == ["Linus made git."]


async def test_duplicates_over_chunks_are_one_fact(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    filler = "and this part of the sentence only fills the paragraph up " * 40

    source = await desk.distilled(project, "\n\n".join(f"Ada wrote programs. Person{n} {filler}." for n in range(6)))

    statements = [fact.statement for fact in await desk.facts(project)]
    assert source.chunk_count > 3
    assert statements.count("Ada wrote programs.") == 1


async def test_ungrounded_items_are_dropped_and_counted(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()

    def hallucinate(text: str) -> dict:
        answer = facts_of(text)
        answer["facts"][0]["quote"] = "Ada invented the moon."
        return answer

    gateway.answer = hallucinate
    source = await desk.distilled(project, TEXT)

    assert source.ungrounded_count >= 1
    assert [fact.quote for fact in await desk.facts(project)] == ["Grace found bugs.", "Alan broke codes."]
