"""What an acknowledgement may change: exactly the version and the lease that it is about."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from services.extractor.domain.outbox import IndexedFact, Intent, Postponed, Topic
from tests.integration.extractor.conftest import Desk
from tests.support.waiting import eventually

TEXT = "Ada wrote programs. Grace found bugs. Alan broke codes."


async def test_f1_a_stale_acknowledgement_cannot_set_the_embedding_id(desk: Desk) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    old = await _lease(desk)
    await desk.distilled(project, f"Intro here now. {TEXT}")

    async with desk.unit_of_work() as repositories:
        recorded = await repositories.facts.update_embedding_ids_batch([_indexed(intent) for intent in old])

    assert recorded == set()
    assert all(fact.embedding_id is None for fact in await desk.facts(project))
    assert {intent.key for intent in old} <= (await desk.outbox()).keys()


async def test_f5_an_acknowledgement_of_a_lost_history_settles_nothing(desk: Desk) -> None:
    """After a restore the number of a version comes again, for something else."""
    project = await desk.project()
    await desk.distilled(project, TEXT)
    lost = await _lease(desk)
    await desk.execute("UPDATE extractor.outbox SET lease_owner = NULL, lease_token = NULL, due_time = now()")
    await desk.execute("UPDATE extractor.extractions SET content_hash = sha256(content_hash)")
    again = await _lease(desk)

    async with desk.unit_of_work() as repositories:
        recorded = await repositories.facts.update_embedding_ids_batch([_indexed(intent) for intent in lost])

    assert {(intent.key, intent.version) for intent in lost} == {(intent.key, intent.version) for intent in again}
    assert recorded == set()
    assert all(fact.embedding_id is None for fact in await desk.facts(project))
    assert len(await desk.outbox()) == 3


async def test_a_holder_whose_intent_is_gone_frees_nobody_elses(desk: Desk) -> None:
    project = await desk.project()
    source = await desk.distilled(project, "Ada wrote programs.")
    (old,) = await _lease(desk)
    await desk.execute("DELETE FROM extractor.outbox")
    await desk.commands.delete(source.source_id)
    (new,) = await _lease(desk)

    async with desk.unit_of_work() as repositories:
        await repositories.outbox.postpone(
            Topic.FACT,
            [Postponed(key=old.key, version=old.version, lease_token=old.lease_token, delay=timedelta())],
        )

    assert (await desk.outbox())[new.key].lease_token == new.lease_token
    assert await _lease(desk) == []


async def test_a_publication_that_waits_for_a_reissue_issues_the_higher_version(desk: Desk) -> None:
    project = await desk.project()
    source = await desk.distilled(project, "Ada wrote programs.")
    (fact,) = await desk.facts(project)
    async with desk.database.connect() as connection, connection.begin():
        await connection.execute(text("SELECT FROM extractor.extractions FOR UPDATE"))
        publishing = asyncio.create_task(desk.distilled(project, "Well then now. Ada wrote programs.", fence=2))
        await eventually(lambda: _somebody_waits(desk))
        reissued = (
            await connection.execute(
                text("UPDATE extractor.extractions SET version = nextval('extractor.fact_versions') RETURNING version")
            )
        ).scalar_one()
    await publishing

    versions = {each.extraction_id: each.version for each in await desk.facts(project)}
    assert versions[fact.extraction_id] > reissued
    assert (await desk.outbox())[fact.extraction_id].version == versions[fact.extraction_id]
    assert (await desk.queries.get(source.source_id)).visible_version == 2


async def test_a_newer_intent_waits_until_the_one_under_way_is_answered(desk: Desk) -> None:
    project = await desk.project()
    await desk.distilled(project, "Ada wrote programs.")
    (old,) = await _lease(desk)

    await desk.distilled(project, "Well then now. Ada wrote programs.")
    others = await _lease(desk)
    async with desk.unit_of_work() as repositories:
        await repositories.facts.update_embedding_ids_batch([_indexed(old)])
    (new,) = await _lease(desk)

    assert old.key not in {intent.key for intent in others}
    assert (new.key, new.version > old.version) == (old.key, True)


async def test_a_lease_takes_what_it_may_also_when_the_planner_takes_the_outbox_for_empty(desk: Desk) -> None:
    """As it does after a vacuum between two bursts."""
    project = await desk.project()
    await desk.execute(
        "INSERT INTO extractor.outbox (topic, key, operation, version, since, project_id, source_id)"
        " SELECT 'fact', gen_random_uuid(), 2, n, n, :project, :project FROM generate_series(1, 3000) n",
        project=project.project_id,
    )
    await desk.execute(
        "SELECT pg_restore_relation_stats('schemaname', 'extractor', 'relname', 'outbox',"
        " 'relpages', CAST(100 AS integer), 'reltuples', CAST(0 AS real))"
    )

    leased = await _lease(desk)

    assert len({intent.key for intent in leased}) == 10
    held = await desk.execute("SELECT 1 FROM extractor.outbox WHERE lease_owner IS NOT NULL")
    assert len(held) == 10


async def _lease(desk: Desk) -> list[Intent]:
    async with desk.unit_of_work() as repositories:
        leased, _ = await repositories.outbox.lease_facts(owner="relay", limit=10, lease=timedelta(minutes=5))
    return [each.intent for each in leased]


def _indexed(intent: Intent, *, step: int = 0, fact_id: UUID | None = None) -> IndexedFact:
    return IndexedFact(
        fact_id=fact_id or intent.key,
        version=intent.version + step,
        embedding_id=uuid4(),
        epoch=1,
        lease_token=intent.lease_token,
    )


class TestUpdateEmbeddingIds:
    async def test_a_batch_is_one_statement(self, desk: Desk, statements: list[str]) -> None:
        project = await desk.project()
        await desk.distilled(project, TEXT)
        leased = await _lease(desk)
        statements.clear()

        async with desk.unit_of_work() as repositories:
            await repositories.facts.update_embedding_ids_batch([_indexed(intent) for intent in leased])

        assert len(statements) == 1
        assert all(fact.embedding_id for fact in await desk.facts(project))
        assert await desk.outbox() == {}

    async def test_an_empty_batch_asks_nothing(self, desk: Desk, statements: list[str]) -> None:
        async with desk.unit_of_work() as repositories:
            assert await repositories.facts.update_embedding_ids_batch([]) == set()

        assert statements == []

    async def test_an_unknown_fact_is_left_out(self, desk: Desk) -> None:
        project = await desk.project()
        await desk.distilled(project, TEXT)
        known, *_ = await _lease(desk)

        async with desk.unit_of_work() as repositories:
            recorded = await repositories.facts.update_embedding_ids_batch(
                [_indexed(known, fact_id=uuid4()), _indexed(known)]
            )

        assert recorded == {known.key}

    async def test_a_single_one_says_whether_it_counted(self, desk: Desk) -> None:
        project = await desk.project()
        await desk.distilled(project, TEXT)
        leased, *_ = await _lease(desk)

        async with desk.unit_of_work() as repositories:
            assert not await repositories.facts.update_embedding_id(_indexed(leased, step=-1))
            assert await repositories.facts.update_embedding_id(_indexed(leased))

    @pytest.mark.parametrize("version_step", [-1, 1])
    async def test_another_version_leaves_fact_and_intent_alone(self, desk: Desk, version_step: int) -> None:
        project = await desk.project()
        await desk.distilled(project, TEXT)
        leased, *_ = await _lease(desk)

        async with desk.unit_of_work() as repositories:
            await repositories.facts.update_embedding_ids_batch([_indexed(leased, step=version_step)])

        assert all(fact.embedding_id is None for fact in await desk.facts(project))
        assert leased.key in await desk.outbox()


async def test_an_acknowledgement_that_meets_a_newer_intent_frees_it(desk: Desk) -> None:
    """The newer intent comes while the acknowledgement waits for the row."""
    project = await desk.project()
    source = await desk.distilled(project, "Ada wrote programs.")
    async with desk.unit_of_work() as repositories:
        ((leased,), _) = await repositories.outbox.lease_facts(owner="relay", limit=1, lease=timedelta(minutes=5))
    intent = leased.intent

    async with desk.unit_of_work() as deleting:
        await deleting.sources.lock([source.source_id])
        await deleting.facts.delete([source.source_id], traceparent="")
        acknowledging = asyncio.create_task(_acknowledge(desk, intent))
        await eventually(lambda: _somebody_waits(desk))
    await acknowledging

    row = (await desk.outbox())[intent.key]
    assert (row.operation, row.lease_owner) == (2, None)


async def test_an_acknowledgement_under_a_lease_that_is_not_committed_changes_nothing(desk: Desk) -> None:
    """What was sent under the lease before is answered while the relay leases it again."""
    project = await desk.project()
    await desk.distilled(project, "Ada wrote programs.")
    async with desk.unit_of_work() as leasing:
        ((leased,), _) = await leasing.outbox.lease_facts(owner="relay", limit=1, lease=timedelta(minutes=5))
        await _acknowledge(desk, leased.intent)

    assert [fact.embedding_id for fact in await desk.facts(project)] == [None]
    assert (await desk.outbox())[leased.intent.key].lease_owner == "relay"


async def _acknowledge(desk: Desk, intent: Intent) -> None:
    async with desk.unit_of_work() as repositories:
        await repositories.facts.update_embedding_ids_batch([_indexed(intent)])


async def _somebody_waits(desk: Desk) -> bool:
    return bool(await desk.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
