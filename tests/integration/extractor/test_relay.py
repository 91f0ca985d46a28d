"""From the outbox to the index, with every fault that a stream can have."""

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

from services.extractor.domain.outbox import Postponed, Topic
from services.indexer.domain.fact import FactId
from services.indexer.domain.identity import embedding_id
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


async def test_the_epoch_that_is_recorded_is_that_of_the_embedding_id(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    indexer.epochs = [1, 2]
    await desk.distilled(await desk.project(), TEXT)

    async with start_relay():
        await eventually(lambda: _settled(desk, indexer))

    rows = await desk.execute("SELECT extraction_id, embedding_id, embedding_epoch FROM extractor.extractions")
    assert {row.embedding_epoch for row in rows} == {2}
    assert all(str(row.embedding_id) == embedding_id(2, FactId(str(row.extraction_id))) for row in rows)


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


async def test_a_rejection_that_cannot_be_stored_loses_neither_itself_nor_its_batch(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    """The acknowledgements beside it are in the same transaction."""
    project = await desk.project()
    indexer.reject = {"Grace found bugs."}
    indexer.rejection = "a provider said: \x00"
    await desk.distilled(project, TEXT)

    async with start_relay():
        await eventually(lambda: _dead(desk))

    (letter,) = await desk.execute("SELECT * FROM extractor.dead_letters")
    assert letter.message == "the reason holds what cannot be stored"
    assert await desk.outbox() == {}
    assert sum(fact.embedding_id is not None for fact in await desk.facts(project)) == 2
    assert len(indexer.received) == 3


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
        refused, accepted = [intent.version for intent in indexer.received if intent.fact_id == str(letter.key)]
        assert refused < accepted
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


async def test_f5_a_version_issued_again_is_not_sent_while_the_lost_one_is_in_flight(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    indexer.gate.clear()
    async with start_relay() as relay:
        await eventually(lambda: len(indexer.received) == 3)
        await desk.execute("UPDATE extractor.extractions SET content_hash = sha256(content_hash)")
        await desk.execute("UPDATE extractor.outbox SET lease_owner = NULL, lease_token = NULL, due_time = now()")
        relay.wake()
        await eventually(lambda: _postponed(desk))
        assert len(indexer.received) == 3

        indexer.gate.set()

        await eventually(lambda: _settled(desk, indexer))


async def _postponed(desk: Desk) -> bool:
    return all(row.lease_token and row.lease_owner is None for row in (await desk.outbox()).values())


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


async def test_f14_an_intent_that_is_committed_after_later_ones_is_sent(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    """Versions are issued before they are committed, so that one may show up below others that are long sent."""
    project = await desk.project()
    await desk.distilled(project, "Ada wrote programs.")
    await desk.execute("DELETE FROM extractor.outbox WHERE topic = 'fact'")
    async with start_relay() as relay:
        async with desk.unit_of_work() as slow:
            assert await slow.outbox.requeue_orphans(older_than=timedelta(), limit=10, traceparent="") == 1
            await desk.distilled(project, "Alan broke codes.", uri="file:///b.txt")
            relay.wake()
            await eventually(lambda: len(indexer.live) == 1)
        relay.wake()

        await eventually(lambda: len(indexer.live) == 2)


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


async def test_a_relay_without_room_goes_on_with_the_acknowledgement_that_makes_some(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    indexer.max_in_flight = 8
    text = " ".join(f"Person{number} visited town{number}." for number in range(200))
    await desk.distilled(await desk.project(), text)

    async with start_relay(batch_size=4, poll=timedelta(seconds=60)):
        await eventually(lambda: _settled(desk, indexer), within=20)


async def _put_off(desk: Desk, *, away: bool) -> list[UUID]:
    """Leases everything, and gives it back for an hour."""
    async with desk.unit_of_work() as repositories:
        leased, _ = await repositories.outbox.lease_facts(owner="before", limit=100, lease=timedelta(minutes=5))
        postponed = [
            Postponed(
                key=each.intent.key,
                version=each.intent.version,
                lease_token=each.intent.lease_token,
                delay=timedelta(hours=1),
                away=away,
            )
            for each in leased
        ]
        await repositories.outbox.postpone(Topic.FACT, postponed)
    return [each.key for each in postponed]


async def test_what_an_outage_has_put_off_goes_with_the_first_success_after_it(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    await desk.distilled(project, "Ada wrote programs. Grace found bugs.")
    indexer.retry = 10_000
    async with start_relay() as relay:
        await eventually(lambda: _put_off_by_an_hour(desk, 2))
        indexer.retry = 0

        await desk.distilled(project, "Alan broke codes.", uri="file:///b.txt")
        relay.wake()

        await eventually(lambda: len(indexer.live) == 3)


async def _put_off_by_an_hour(desk: Desk, count: int) -> bool:
    """Makes the backoff of what failed an hour."""
    await desk.execute(
        "UPDATE extractor.outbox SET due_time = now() + interval '1 hour' WHERE away AND lease_owner IS NULL"
    )
    rows = await desk.execute(
        "SELECT key FROM extractor.outbox WHERE away AND due_time > now() + interval '30 minutes'"
    )
    return len(rows) == count


async def test_another_process_sends_what_an_outage_had_put_off(
    desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    project = await desk.project()
    await desk.distilled(project, "Ada wrote programs. Grace found bugs.")
    await _put_off(desk, away=True)
    async with start_relay() as relay:
        await desk.distilled(project, "Alan broke codes.", uri="file:///b.txt")
        relay.wake()

        await eventually(lambda: len(indexer.live) == 3)


async def test_what_was_put_off_for_its_own_sake_waits(desk: Desk) -> None:
    await desk.distilled(await desk.project(), "Ada wrote programs. Grace found bugs.")
    await _put_off(desk, away=False)

    async with desk.unit_of_work() as repositories:
        assert await repositories.outbox.pull_forward(limit=100) == 0


async def test_pulling_forward_is_bounded_and_takes_what_would_go_first(desk: Desk) -> None:
    await desk.distilled(await desk.project(), "Ada wrote programs. Grace found bugs. Alan broke codes.")
    keys = await _put_off(desk, away=True)
    await desk.execute(
        "UPDATE extractor.outbox SET due_time = due_time + interval '1 hour' WHERE key = :key", key=keys[0]
    )

    async with desk.unit_of_work() as repositories:
        assert await repositories.outbox.pull_forward(limit=2) == 2

    async with desk.unit_of_work() as repositories:
        leased, _ = await repositories.outbox.lease_facts(owner="tests", limit=100, lease=timedelta(minutes=5))
        assert {each.intent.key for each in leased} == set(keys[1:])
        assert await repositories.outbox.pull_forward(limit=2) == 1
