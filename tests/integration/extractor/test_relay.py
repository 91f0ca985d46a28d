"""From the outbox to the index, with every fault that a stream can have."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from services.extractor.domain.outbox import IndexedFact, Intent
from tests.integration.extractor.conftest import Desk, StartRelay
from tests.integration.extractor.peers import Point, ScriptedIndexer
from tests.support.waiting import eventually

TEXT = "Ada wrote programs. Grace found bugs. Alan broke codes."


async def _settled(desk: Desk, indexer: ScriptedIndexer) -> bool:
    """Nothing waits, and live facts are live points, version for version."""
    if await desk.outbox():
        return False
    rows = await desk.execute("SELECT extraction_id, version, content_hash, embedding_id FROM extractor.extractions")
    points = {fact_id: (point.version, point.content_hash) for fact_id, point in indexer.live.items()}
    assert {str(row.extraction_id): (row.version, row.content_hash) for row in rows} == points
    assert all(row.embedding_id for row in rows)
    return True


async def test_every_intent_is_applied_and_its_embedding_id_recorded(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)

    async with start_relay():
        await eventually(lambda: _settled(desk, indexer))

    content = next(p.content for p in indexer.live.values() if p.content.statement == "Ada wrote programs.")
    assert (content.evidence.quote, content.evidence.start, content.evidence.end) == ("Ada wrote programs.", 0, 19)
    assert content.evidence.context_after.startswith(" Grace found")
    assert dict(content.fields) == {"subject": "Ada", "predicate": "wrote", "object": "programs"}
    assert list(content.entities) == ["Ada"]
    assert (content.source_uri, content.source_title) == ("file:///a.txt", "a.txt")


async def test_a_wake_up_sends_at_once(desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay) -> None:
    project = await desk.project()
    async with start_relay(poll=timedelta(seconds=60)) as relay:
        await eventually(lambda: indexer.streams == 1)
        await desk.distilled(project, TEXT)

        relay.wake()

        await eventually(lambda: _settled(desk, indexer), within=5)


async def test_a_lost_wake_up_costs_no_intent(desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay) -> None:
    project = await desk.project()
    async with start_relay():
        await desk.distilled(project, TEXT)

        await eventually(lambda: _settled(desk, indexer))


async def test_f3_a_lost_acknowledgement_is_made_good_by_sending_again(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    indexer.break_after_apply = 2

    async with start_relay():
        await eventually(lambda: _settled(desk, indexer))

    assert indexer.streams >= 3
    assert len(indexer.received) >= 9


async def test_a_repeated_acknowledgement_changes_nothing(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    indexer.twice = True
    await desk.distilled(project, TEXT)

    async with start_relay():
        await eventually(lambda: _settled(desk, indexer))


async def test_f8_an_unknown_outcome_is_sent_again(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    indexer.retry = 2
    await desk.distilled(project, TEXT)

    async with start_relay():
        await eventually(lambda: _settled(desk, indexer))

    assert len(indexer.received) >= 5


async def test_a_poison_fact_becomes_a_dead_letter_and_harms_no_other(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    indexer.reject = {"Grace found bugs."}
    await desk.distilled(project, TEXT)

    async with start_relay():
        await eventually(lambda: _dead(desk))

        assert len(indexer.live) == 2
        (letter,) = await desk.execute("SELECT * FROM extractor.dead_letters")
        assert letter.message == "nothing to embed"
        assert letter.context["content"]["quote"] == "Grace found bugs."
        assert await desk.outbox() == {}


async def test_f16_a_replayed_dead_letter_says_what_the_fact_says_now(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    indexer.reject = {"Grace found bugs."}
    await desk.distilled(project, TEXT)
    async with start_relay():
        await eventually(lambda: _dead(desk))
        (letter,) = await desk.execute("SELECT key FROM extractor.dead_letters")
        indexer.reject = set()

        async with desk.unit_of_work() as repositories:
            waiting = await repositories.outbox.replay([letter.key, uuid4()], traceparent="")

        assert waiting == {letter.key}
        await eventually(lambda: _settled(desk, indexer))
    assert await desk.execute("SELECT 1 FROM extractor.dead_letters") == []


async def test_a_newer_intent_takes_a_dead_letter_away(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    indexer.reject = {"Grace found bugs."}
    await desk.distilled(project, TEXT)
    async with start_relay():
        await eventually(lambda: _dead(desk))

        await desk.distilled(project, "Ada wrote programs.")

        await eventually(lambda: _settled(desk, indexer))
    assert await desk.execute("SELECT 1 FROM extractor.dead_letters") == []


async def _dead(desk: Desk) -> bool:
    return bool(await desk.execute("SELECT 1 FROM extractor.dead_letters"))


async def test_f1_a_stale_acknowledgement_cannot_set_the_embedding_id(desk: Desk) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    old = {fact.extraction_id: fact.version for fact in await desk.facts(project)}
    await desk.distilled(project, f"Intro here now. {TEXT}")

    async with desk.unit_of_work() as repositories:
        recorded = await repositories.facts.update_embedding_ids_batch(
            [_indexed(fact_id, version) for fact_id, version in old.items()]
        )

    assert recorded == set()
    assert all(fact.embedding_id is None for fact in await desk.facts(project))
    assert old.keys() <= (await desk.outbox()).keys()


async def test_a_fact_that_changes_in_flight_has_one_intent_at_a_time(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    indexer.gate.clear()
    async with start_relay():
        await eventually(lambda: len(indexer.received) == 3)

        await desk.distilled(project, f"Intro here now. {TEXT}")
        await asyncio.sleep(0.2)
        in_flight = [intent.fact_id for intent in indexer.received]
        indexer.gate.set()

        assert len(in_flight) == len(set(in_flight))
        await eventually(lambda: _settled(desk, indexer))


async def test_a_newer_intent_waits_until_the_one_under_way_is_answered(desk: Desk) -> None:
    project = await desk.project()
    await desk.distilled(project, "Ada wrote programs.")
    (old,) = await _lease(desk)

    await desk.distilled(project, "Well then now. Ada wrote programs.")
    others = await _lease(desk)
    async with desk.unit_of_work() as repositories:
        await repositories.facts.update_embedding_ids_batch(
            [IndexedFact(fact_id=old.key, version=old.version, embedding_id=uuid4(), epoch=1, lease_token=1)]
        )
    (new,) = await _lease(desk)

    assert old.key not in {intent.key for intent in others}
    assert (new.key, new.version > old.version) == (old.key, True)


async def _lease(desk: Desk) -> list[Intent]:
    async with desk.unit_of_work() as repositories:
        leased, _ = await repositories.outbox.lease_facts(owner="relay", limit=10, lease=timedelta(minutes=5))
    return [each.intent for each in leased]


async def test_f2_a_deleted_fact_stays_deleted_when_an_older_upsert_arrives_late(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    source = await desk.distilled(project, TEXT)
    async with start_relay():
        await eventually(lambda: _settled(desk, indexer))
        late = list(indexer.received)
        await desk.commands.delete(source.source_id)
        await eventually(lambda: _settled(desk, indexer))

        for intent in late:
            indexer._apply(intent)

        assert indexer.live == {}


async def test_f5_an_index_that_is_ahead_of_a_restored_database_is_overtaken(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    for fact in await desk.facts(project):
        indexer.points[str(fact.extraction_id)] = Point(
            version=fact.version + 1000, content_hash=bytes(32), tombstone=False
        )

    async with start_relay():
        await eventually(lambda: _settled(desk, indexer))


async def test_f12_intents_of_a_relay_that_died_are_sent_by_another_one(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    async with desk.unit_of_work() as repositories:
        leased, _ = await repositories.outbox.lease_facts(owner="dead", limit=10, lease=timedelta(seconds=0.3))
    assert len(leased) == 3

    async with start_relay():
        await eventually(lambda: _settled(desk, indexer))


async def test_two_relays_share_the_outbox(desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay) -> None:
    project = await desk.project()
    for n in range(20):
        await desk.distilled(project, f"{TEXT} Person{n} came by.", uri=f"file:///{n}.txt")

    async with start_relay(batch_size=7), start_relay(batch_size=7):
        await eventually(lambda: _settled(desk, indexer))

    assert len(indexer.received) == 80


async def test_a_server_that_drains_gets_a_new_stream(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    indexer.drain_next = True
    await desk.distilled(project, TEXT)
    async with start_relay():
        await eventually(lambda: _settled(desk, indexer))

        await desk.distilled(project, "Linus made git.", uri="file:///b.txt")

        await eventually(lambda: _settled(desk, indexer))
    assert indexer.streams == 2


async def test_no_more_is_in_flight_than_the_indexer_accepts(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    indexer.max_in_flight = 5
    indexer.gate.clear()
    for n in range(5):
        await desk.distilled(project, TEXT, uri=f"file:///{n}.txt")
    async with start_relay():
        await eventually(lambda: len(indexer.received) == 5)
        await asyncio.sleep(0.2)
        assert len(indexer.received) == 5

        indexer.gate.set()

        await eventually(lambda: _settled(desk, indexer))


def _indexed(fact_id: UUID, version: int) -> IndexedFact:
    return IndexedFact(fact_id=fact_id, version=version, embedding_id=uuid4(), epoch=1)


class TestUpdateEmbeddingIds:
    async def test_a_batch_is_one_statement(self, desk: Desk, statements: list[str]) -> None:
        project = await desk.project()
        await desk.distilled(project, TEXT)
        facts = await desk.facts(project)
        statements.clear()

        async with desk.unit_of_work() as repositories:
            await repositories.facts.update_embedding_ids_batch(
                [_indexed(fact.extraction_id, fact.version) for fact in facts]
            )

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
        fact = (await desk.facts(project))[0]

        async with desk.unit_of_work() as repositories:
            recorded = await repositories.facts.update_embedding_ids_batch(
                [_indexed(uuid4(), 1), _indexed(fact.extraction_id, fact.version)]
            )

        assert recorded == {fact.extraction_id}

    async def test_a_single_one_says_whether_it_counted(self, desk: Desk) -> None:
        project = await desk.project()
        await desk.distilled(project, TEXT)
        fact = (await desk.facts(project))[0]

        async with desk.unit_of_work() as repositories:
            assert not await repositories.facts.update_embedding_id(_indexed(fact.extraction_id, fact.version - 1))
            assert await repositories.facts.update_embedding_id(_indexed(fact.extraction_id, fact.version))

    @pytest.mark.parametrize("version_step", [-1, 1])
    async def test_another_version_leaves_fact_and_intent_alone(self, desk: Desk, version_step: int) -> None:
        project = await desk.project()
        await desk.distilled(project, TEXT)
        fact = (await desk.facts(project))[0]

        async with desk.unit_of_work() as repositories:
            await repositories.facts.update_embedding_ids_batch(
                [_indexed(fact.extraction_id, fact.version + version_step)]
            )

        assert (await desk.facts(project))[0].embedding_id is None
        assert fact.extraction_id in await desk.outbox()


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
        acknowledging = asyncio.create_task(_acknowledge(desk, intent.key, intent.version, intent.lease_token))
        await eventually(lambda: _somebody_waits(desk))
    await acknowledging

    row = (await desk.outbox())[intent.key]
    assert (row.operation, row.lease_owner) == (2, None)


async def _acknowledge(desk: Desk, fact_id: UUID, version: int, token: int) -> None:
    async with desk.unit_of_work() as repositories:
        await repositories.facts.update_embedding_ids_batch(
            [IndexedFact(fact_id=fact_id, version=version, embedding_id=uuid4(), epoch=1, lease_token=token)]
        )


async def _somebody_waits(desk: Desk) -> bool:
    return bool(await desk.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
