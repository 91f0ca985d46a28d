"""Intents in, acknowledgements out: what is told must be what is stored."""

import math

import pytest
from qdrant_client import AsyncQdrantClient
from qdrant_client.models import Record
from scristill.errors.v1 import error_reason_pb2

from services.indexer.domain.identity import embedding_id
from tests.integration.indexer.builders import (
    APPLIED,
    REJECTED,
    SUPERSEDED,
    IndexerClient,
    delete,
    fact_id,
    known,
    new_id,
    upsert,
)
from tests.integration.indexer.models import DIMENSION, ScriptedModels, hash_vector


async def test_upsert_is_acknowledged_with_its_point_and_epoch(client: IndexerClient) -> None:
    ack = await client.apply_one(upsert(fact_id(1)))

    assert ack.outcome == APPLIED
    assert ack.embedding_id == embedding_id(1, fact_id(1))
    assert list(ack.epochs) == [1]
    (point,) = await client.points()
    assert (point.fact_id, point.version, point.tombstone) == (fact_id(1), 1, False)


async def test_f3_same_intent_again_is_applied_and_changes_nothing(client: IndexerClient) -> None:
    first = await client.apply_one(upsert(fact_id(1)))

    again = await client.apply_one(upsert(fact_id(1)))

    assert again == first
    assert (await client.stats()).live_point_count == 1


async def test_f16_older_version_is_superseded_and_overwrites_nothing(client: IndexerClient) -> None:
    await client.apply_one(upsert(fact_id(1), 5, "New text."))

    ack = await client.apply_one(upsert(fact_id(1), 4, "Old text."))

    assert ack.outcome == SUPERSEDED
    (point,) = await client.points()
    assert point.version == 5


async def test_newest_of_one_batch_wins_and_alone_is_embedded(client: IndexerClient, models: ScriptedModels) -> None:
    versions = [2, 7, 1, 7, 3]

    acks = await client.apply([upsert(fact_id(1), version, f"Version {version}.") for version in versions])

    outcomes = {(ack.version, ack.outcome) for ack in acks}
    assert outcomes == {(1, SUPERSEDED), (2, SUPERSEDED), (3, SUPERSEDED), (7, APPLIED)}
    assert [text for text in models.texts if text.startswith("Version")] == ["Version 7."]


async def test_f2_late_upsert_cannot_bring_a_deleted_fact_back(client: IndexerClient) -> None:
    await client.apply_one(upsert(fact_id(1), 1))
    deleted = await client.apply_one(delete(fact_id(1), 2))

    late = await client.apply_one(upsert(fact_id(1), 1))

    assert (deleted.outcome, deleted.embedding_id) == (APPLIED, "")
    assert late.outcome == SUPERSEDED
    stats = await client.stats()
    assert (stats.live_point_count, stats.tombstone_count) == (0, 1)


async def test_delete_of_an_unknown_fact_leaves_a_tombstone(client: IndexerClient) -> None:
    ack = await client.apply_one(delete(fact_id(1), 3))

    assert ack.outcome == APPLIED
    assert (await client.apply_one(upsert(fact_id(1), 2))).outcome == SUPERSEDED


async def test_fact_can_return_with_a_higher_version(client: IndexerClient) -> None:
    await client.apply_one(delete(fact_id(1), 3))

    ack = await client.apply_one(upsert(fact_id(1), 4))

    assert ack.outcome == APPLIED
    assert (await client.stats()).live_point_count == 1


async def test_f5_two_contents_for_one_version_are_no_success(client: IndexerClient) -> None:
    await client.apply_one(upsert(fact_id(1), 3, "One content."))

    ack = await client.apply_one(upsert(fact_id(1), 3, "Another content."))

    assert ack.outcome == REJECTED
    assert ack.failure.reason == error_reason_pb2.ERROR_REASON_RESOURCE_EXISTS


async def test_f13_edit_replaces_text_vectors_and_payload_together(
    client: IndexerClient, qdrant: AsyncQdrantClient, collection: str
) -> None:
    await client.apply_one(upsert(fact_id(1), 1, "Apples grow.", category="fruit", entities=["Apple"]))
    old = await point(qdrant, collection)

    await client.apply_one(upsert(fact_id(1), 2, "Trains run."))

    new = await point(qdrant, collection)
    assert new.payload["statement"] == "Trains run."
    assert not {"category", "entities"} & new.payload.keys()
    assert new.vector["dense"] != old.vector["dense"]
    assert set(new.vector["bm25"].indices).isdisjoint(old.vector["bm25"].indices)


async def point(qdrant: AsyncQdrantClient, collection: str) -> Record:
    (found,) = await qdrant.retrieve(collection, [embedding_id(1, fact_id(1))], with_vectors=True)
    return found


async def test_batch_with_many_versions_applies_each(client: IndexerClient) -> None:
    acks = await client.apply([upsert(fact_id(number), number + 1) for number in range(50)])

    assert {ack.outcome for ack in acks} == {APPLIED}
    assert {point.fact_id: point.version for point in await client.points()} == {
        fact_id(number): number + 1 for number in range(50)
    }


async def test_edits_of_one_batch_each_obey_their_own_guard(client: IndexerClient) -> None:
    """Stored and new versions interleave, so that no common guard fits: odd facts are edited, even ones are late."""
    await client.apply([upsert(fact_id(number), 10 * number + 5, "Old.") for number in range(1, 41)])
    versions = {number: 10 * number + (8 if number % 2 else 2) for number in range(1, 41)}

    acks = await client.apply([upsert(fact_id(number), version, "New.") for number, version in versions.items()])

    outcomes = {ack.fact_id: ack.outcome for ack in acks}
    assert outcomes == {fact_id(number): APPLIED if number % 2 else SUPERSEDED for number in versions}
    stored = {point.fact_id: point.version for point in await client.points()}
    assert stored == {
        fact_id(number): version if number % 2 else 10 * number + 5 for number, version in versions.items()
    }


async def test_f17_bad_items_are_rejected_alone(client: IndexerClient, models: ScriptedModels) -> None:
    models.refuse.add("A text that no model takes.")
    bad = {
        new_id(): ({"statement": "  "}, error_reason_pb2.ERROR_REASON_TEXT_EMPTY),
        new_id(): ({"vectors": known("hash-1", [1.0] * (DIMENSION + 1))}, error_reason_pb2.ERROR_REASON_VECTOR_INVALID),
        new_id(): ({"vectors": known("hash-1", [math.nan] * DIMENSION)}, error_reason_pb2.ERROR_REASON_VECTOR_INVALID),
        new_id(): ({"vectors": known("hash-1", [math.inf] * DIMENSION)}, error_reason_pb2.ERROR_REASON_VECTOR_INVALID),
        new_id(): ({"content_hash": b"short"}, error_reason_pb2.ERROR_REASON_INVALID_REQUEST),
        new_id(): ({"fields": {"x": "y" * 200_000}}, error_reason_pb2.ERROR_REASON_TOO_LARGE),
        new_id(): ({"statement": "A text that no model takes."}, error_reason_pb2.ERROR_REASON_PROVIDER_REFUSED),
    }
    good = new_id()

    acks = await client.apply([*(upsert(fact, **change) for fact, (change, _) in bad.items()), upsert(good)])

    found = {ack.fact_id: ack for ack in acks}
    assert found[good].outcome == APPLIED
    assert {fact: found[fact].failure.reason for fact in bad} == {fact: reason for fact, (_, reason) in bad.items()}
    assert all(found[fact].outcome == REJECTED for fact in bad)
    assert [point.fact_id for point in await client.points() if not point.tombstone] == [good]


async def test_known_vector_is_not_embedded_again(client: IndexerClient, models: ScriptedModels) -> None:
    vector = [1.0] + [0.0] * (DIMENSION - 1)

    ack = await client.apply_one(upsert(fact_id(1), 1, "Never sent to a model.", vectors=known("hash-1", vector)))

    assert ack.outcome == APPLIED
    assert "Never sent to a model." not in models.texts


async def test_a_stream_that_asks_gets_the_vectors_that_were_made_for_it(client: IndexerClient) -> None:
    intents = [
        upsert(fact_id(1), 1, "New to the model."),
        upsert(fact_id(2), 1, "Known.", vectors=known("hash-1", [1.0] + [0.0] * (DIMENSION - 1))),
        upsert(fact_id(3), 1, "Known to another model.", vectors=known("hash-9", [1.0] * 3)),
        delete(fact_id(4), 1),
    ]

    acks = {ack.fact_id: ack for ack in await client.apply(intents, return_vectors=True)}

    made = {fact: [each.embedding_model for each in ack.vectors] for fact, ack in acks.items()}
    assert made == {fact_id(1): ["hash-1"], fact_id(2): [], fact_id(3): ["hash-1"], fact_id(4): []}
    assert list(acks[fact_id(1)].vectors[0].values) == pytest.approx(
        hash_vector("hash-1", "New to the model.", DIMENSION)
    )
    assert {ack.outcome for ack in acks.values()} == {APPLIED}


async def test_a_stream_that_does_not_ask_gets_no_vectors(client: IndexerClient) -> None:
    assert not (await client.apply_one(upsert(fact_id(1)))).vectors
