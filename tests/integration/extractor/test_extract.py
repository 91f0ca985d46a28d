"""The job `extract`, step by step, with a model that counts what it is paid for."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy.exc import DBAPIError

from services.extractor.domain.project import Project
from services.extractor.domain.source import SourceState
from services.shared.errors import Reason
from tests.integration.extractor.conftest import Desk, Progress
from tests.integration.extractor.peers import ScriptedGateway, facts_of, paragraphs

TEXT = "Ada wrote programs. Grace found bugs. Alan broke codes."


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


async def test_another_way_to_read_answers_does_not_pay_for_them_again(desk: Desk, gateway: ScriptedGateway) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)

    def by_subject(present: Project) -> Project:
        facts, entities = present.schema.groups
        return replace(
            present, schema=replace(present.schema, groups=(replace(facts, key_fields=("subject",)), entities))
        )

    await desk.projects.update(project.project_id, by_subject, etag="")
    await desk.distilled(project, f"{TEXT}\n")

    assert (len(gateway.texts), gateway.calls) == (1, 2)
    assert [fact.item_key for fact in await desk.facts(project)] != []


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


async def test_f11_facts_that_are_gone_leave_tombstones_above_their_version(desk: Desk) -> None:
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
