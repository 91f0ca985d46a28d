"""A new embedding model: dual write, backfill, gate, promotion, roll back, drop."""

import asyncio

import grpc
import grpc.aio
import pytest
from qdrant_client import AsyncQdrantClient, models
from scristill.indexer.v1 import fact_pb2, search_service_pb2
from scristill.indexer.v1 import indexer_service_pb2 as pb

from services.indexer.domain.identity import embedding_id
from tests.integration.indexer.builders import (
    APPLIED,
    PROJECT,
    REJECTED,
    IndexerClient,
    delete,
    fact_id,
    known,
    new_id,
    upsert,
)
from tests.integration.indexer.conftest import RunningIndexer, StartIndexer
from tests.integration.indexer.models import ScriptedModels
from tests.support.waiting import eventually

QUICK = {"epoch_view_seconds": 0.2, "backfill_interval_seconds": 0.1}


@pytest.fixture
async def client(start_indexer: StartIndexer):
    async with start_indexer(**QUICK) as running:
        yield running.client


async def create(client: IndexerClient, model: str = "hash-2", request_id: str = "") -> fact_pb2.Epoch:
    request = pb.CreateEpochRequest(request_id=request_id or new_id(), embedding_model=model)
    return (await client.indexer.CreateEpoch(request, timeout=10)).epoch


async def promote(client: IndexerClient, epoch: int) -> fact_pb2.Epoch:
    return (await client.indexer.PromoteEpoch(pb.PromoteEpochRequest(epoch=epoch), timeout=10)).epoch


async def promoted(client: IndexerClient, epoch: int) -> fact_pb2.Epoch:
    """Waits for the gates to close."""

    async def attempt() -> fact_pb2.Epoch | None:
        try:
            return await promote(client, epoch)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return None

    return await eventually(attempt, within=20)


async def searched(client: IndexerClient, query: str) -> tuple[int, set[str]]:
    request = search_service_pb2.SearchRequest(project_id=PROJECT, query=query)
    response = await client.searcher.Search(request, timeout=10)
    return response.epoch, {hit.fact_id for hit in response.hits}


async def live(client: IndexerClient, epoch: int) -> dict[str, int]:
    return {point.fact_id: point.version for point in await client.points(epoch=epoch) if not point.tombstone}


async def test_epoch_switch_loses_nothing(client: IndexerClient, qdrant: AsyncQdrantClient, prefix: str) -> None:
    await client.apply([upsert(fact_id(number), 1, f"Old fact {number}.") for number in range(200)])
    await client.apply([delete(fact_id(number), 2) for number in range(20)])
    epoch = await create(client)
    assert (epoch.epoch, epoch.state, epoch.embedding_model) == (2, fact_pb2.EPOCH_STATE_BUILDING, "hash-2")

    acks = await client.apply([upsert(fact_id(500), 1, "New fact."), upsert(fact_id(199), 2, "Edited fact.")])
    assert all(list(ack.epochs) == [1, 2] for ack in acks)
    assert (acks[0].embedding_epoch, acks[0].embedding_id) == (1, embedding_id(1, acks[0].fact_id))
    assert (await searched(client, "New fact"))[0] == 1

    assert (await promoted(client, 2)).state == fact_pb2.EPOCH_STATE_SERVING

    assert await live(client, 1) == await live(client, 2)
    number, found = await searched(client, "New fact")
    assert number == 2
    assert fact_id(500) in found
    aliases = (await qdrant.get_aliases()).aliases
    assert {each.alias_name: each.collection_name for each in aliases}[prefix] == await client.collection(2)


async def test_f2_deleted_fact_does_not_come_back_through_the_new_epoch(client: IndexerClient) -> None:
    await client.apply_one(upsert(fact_id(1), 1))
    await client.apply_one(delete(fact_id(1), 2))
    await client.apply_one(upsert(fact_id(2), 1))
    await create(client)

    await client.apply_one(upsert(fact_id(1), 1))
    await promoted(client, 2)

    async def copied() -> bool:
        points = {point.fact_id: point for point in await client.points(epoch=2)}
        return points[fact_id(1)].tombstone and points[fact_id(1)].version == 2

    await eventually(copied)
    assert set(await live(client, 2)) == {fact_id(2)}


async def test_f10_promotion_is_refused_while_facts_are_missing(
    start_indexer: StartIndexer, qdrant: AsyncQdrantClient
) -> None:
    async with start_indexer(epoch_view_seconds=0.1, backfill_interval_seconds=60.0) as running:
        client = running.client
        await client.apply([upsert(fact_id(number)) for number in range(10)])
        collection = (await create(client)).collection
        await asyncio.sleep(0.3)

        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await promote(client, 2)

        assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert (await searched(client, "water"))[0] == 1
    remaining = await qdrant.count(collection)
    assert remaining.count == 0


async def test_text_that_only_the_new_model_refuses_keeps_no_gate_open(
    client: IndexerClient, models: ScriptedModels
) -> None:
    """One fact was there before the epoch, one comes after; both are searched by their words in it."""
    models.refuse = {"hash-2:Old words.", "hash-2:New words."}
    await client.apply([upsert(fact_id(1), 1, "Old words."), upsert(fact_id(2), 1, "Other words.")])
    await create(client)

    ack = await client.apply_one(upsert(fact_id(3), 1, "New words."))
    await promoted(client, 2)

    assert (ack.outcome, list(ack.epochs)) == (APPLIED, [1, 2])
    assert await live(client, 1) == await live(client, 2) == {fact_id(1): 1, fact_id(2): 1, fact_id(3): 1}
    assert await searched(client, "words") == (2, {fact_id(1), fact_id(2), fact_id(3)})


async def test_refused_version_takes_the_ones_before_it_out_of_every_epoch(
    client: IndexerClient, qdrant: AsyncQdrantClient, models: ScriptedModels
) -> None:
    """Also where an older one has reached one epoch only, which nothing would ever even out."""
    models.refuse = {"hash-1:No words."}
    await client.apply([upsert(fact_id(number), 1, f"Words {number}.") for number in range(3)])
    collection = (await create(client)).collection
    await eventually(lambda: _has(client, epoch=2, count=3))
    await client.apply([upsert(fact_id(1), 2, "More words.")])
    await qdrant.set_payload(
        await client.collection(1), {"version": 1}, points=[embedding_id(1, fact_id(1))], wait=True
    )

    ack = await client.apply_one(upsert(fact_id(1), 3, "No words."))

    assert ack.outcome == REJECTED
    assert await live(client, 1) == await live(client, 2) == {fact_id(0): 1, fact_id(2): 1}
    assert (await promoted(client, 2)).collection == collection


async def _has(client: IndexerClient, *, epoch: int, count: int) -> bool:
    return len(await live(client, epoch)) == count


async def test_f10_promotion_is_refused_when_one_version_differs(
    client: IndexerClient, qdrant: AsyncQdrantClient
) -> None:
    await client.apply([upsert(fact_id(number), 3) for number in range(10)])
    collection = (await create(client)).collection

    async def filled() -> bool:
        return len(await live(client, 2)) == 10

    await eventually(filled)
    await qdrant.set_payload(collection, payload={"version": 9}, points=[embedding_id(2, fact_id(4))], wait=True)

    await asyncio.sleep(0.5)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await promote(client, 2)
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_roll_back_needs_no_gate_and_keeps_later_writes(client: IndexerClient) -> None:
    await client.apply_one(upsert(fact_id(1)))
    await create(client)
    await promoted(client, 2)
    await client.apply_one(upsert(fact_id(2), 1, "Written after the switch."))

    assert (await promote(client, 1)).epoch == 1

    number, found = await searched(client, "Written after the switch")
    assert number == 1
    assert fact_id(2) in found


async def test_f18_writes_during_the_switch_are_in_both_epochs(start_indexer: StartIndexer) -> None:
    """Two replicas write, delete and edit while the epoch is made, filled, promoted and rolled back."""
    async with start_indexer(**QUICK) as one, start_indexer(**QUICK) as other:
        await one.client.apply([upsert(fact_id(number)) for number in range(50)])
        done = asyncio.Event()
        expected: dict[str, int] = {fact_id(number): 1 for number in range(50)}

        async def write(client: IndexerClient, offset: int) -> None:
            version = 2
            while not done.is_set():
                numbers = range(offset, offset + 60, 2)
                acks = await client.apply([upsert(fact_id(number), version) for number in numbers])
                acks += await client.apply([delete(fact_id(number), version + 1) for number in list(numbers)[::3]])
                assert {ack.outcome for ack in acks} == {APPLIED}
                version += 2
            for number in range(offset, offset + 60, 2):
                expected[fact_id(number)] = version - 2
            for number in list(range(offset, offset + 60, 2))[::3]:
                expected.pop(fact_id(number))

        async with asyncio.TaskGroup() as group:
            group.create_task(write(one.client, 0))
            group.create_task(write(other.client, 1))
            await create(one.client)
            await promoted(other.client, 2)
            await promote(one.client, 1)
            await promote(other.client, 2)
            done.set()

        assert await live(one.client, 1) == await live(other.client, 2) == expected


async def test_collection_of_a_forgotten_epoch_is_not_that_of_a_later_one(
    start_indexer: StartIndexer, qdrant: AsyncQdrantClient, prefix: str
) -> None:
    """Qdrant is wiped and set up again with another model: the number comes again, the name does not."""
    async with start_indexer(**QUICK) as running:
        await running.client.apply_one(upsert(fact_id(1)))
        before = await running.client.collection(1)
    for name in (before, f"{prefix}_epochs"):
        await qdrant.delete_collection(name)

    async with start_indexer(**QUICK, embedding_model="hash-2") as running:
        await running.client.apply_one(upsert(fact_id(1)))
        after = await running.client.collection(1)

    assert before != after
    assert not await qdrant.collection_exists(before)


async def test_replicas_that_create_at_once_leave_one_collection(
    start_indexer: StartIndexer, qdrant: AsyncQdrantClient, prefix: str
) -> None:
    async with start_indexer(**QUICK) as one, start_indexer(**QUICK) as other:
        await one.client.apply_one(upsert(fact_id(1)))

        await asyncio.gather(create(one.client), create(other.client), return_exceptions=True)

        known = {f"{prefix}_epochs", await one.client.collection(1), await one.client.collection(2)}
    names = {each.name for each in (await qdrant.get_collections()).collections}
    assert {name for name in names if name.startswith(f"{prefix}_")} == known


async def test_create_is_idempotent_and_one_at_a_time(client: IndexerClient) -> None:
    request_id = new_id()

    first, again = await create(client, request_id=request_id), await create(client, request_id=request_id)

    assert first == again
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await create(client)
    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_unknown_model_makes_no_epoch(client: IndexerClient) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await create(client, model="no-such-model")

    assert failure.value.code() is not grpc.StatusCode.INTERNAL
    assert len((await client.stats()).epochs) == 1


async def test_dropped_epoch_is_gone_and_drop_can_be_repeated(client: IndexerClient, qdrant: AsyncQdrantClient) -> None:
    await client.apply_one(upsert(fact_id(1)))
    collection = await client.collection(1)
    await create(client)
    await promoted(client, 2)

    for _ in range(2):
        await client.indexer.DropEpoch(pb.DropEpochRequest(epoch=1), timeout=10)

    assert not await qdrant.collection_exists(collection)
    assert [epoch.epoch for epoch in (await client.stats()).epochs] == [2]
    ack = await client.apply_one(upsert(fact_id(3)))
    assert (ack.outcome, list(ack.epochs)) == (APPLIED, [2])
    assert (ack.embedding_epoch, ack.embedding_id) == (2, embedding_id(2, fact_id(3)))


async def test_epoch_that_is_searched_cannot_be_dropped(client: IndexerClient) -> None:
    await client.apply_one(upsert(fact_id(1)))

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.indexer.DropEpoch(pb.DropEpochRequest(epoch=1), timeout=10)

    assert failure.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_two_replicas_start_one_first_epoch(start_indexer: StartIndexer) -> None:
    async with start_indexer() as one, start_indexer() as other:
        acks = await asyncio.gather(
            one.client.apply_one(upsert(fact_id(1))), other.client.apply_one(upsert(fact_id(2)))
        )

        assert {ack.outcome for ack in acks} == {APPLIED}
        assert (await one.client.stats()).epochs == (await other.client.stats()).epochs
        assert (await one.client.stats()).live_point_count == 2


async def test_other_replica_writes_to_a_new_epoch_within_its_view(start_indexer: StartIndexer) -> None:
    async with start_indexer(**QUICK) as one, start_indexer(**QUICK) as other:
        await other.client.apply_one(upsert(fact_id(1)))
        await create(one.client)

        async def dual() -> bool:
            ack = await other.client.apply_one(upsert(new_id()))
            return list(ack.epochs) == [1, 2]

        await eventually(dual)
        await promoted(one.client, 2)

        assert await live(one.client, 1) == await live(one.client, 2)


async def test_f9_known_vectors_never_enter_an_epoch_of_another_model(
    indexer: RunningIndexer, qdrant: AsyncQdrantClient
) -> None:
    client = indexer.client
    await client.apply_one(upsert(fact_id(1)))
    await create(client)
    vector = [1.0] + [0.0] * 31

    ack = await client.apply_one(upsert(fact_id(2), 1, "Known vector.", vectors=known("hash-1", vector)))

    assert list(ack.epochs) == [1, 2]
    stored = {}
    for epoch in (1, 2):
        (point,) = await qdrant.retrieve(
            await client.collection(epoch), [embedding_id(epoch, fact_id(2))], with_vectors=["dense"]
        )
        stored[epoch] = point.vector["dense"]
    assert stored[1] == pytest.approx(vector)
    assert stored[2] != pytest.approx(vector)
    assert (
        (await qdrant.get_collection(await client.collection(2))).config.params.vectors["dense"].distance
    ) == models.Distance.COSINE


async def test_each_epoch_returns_the_vector_of_its_model(indexer: RunningIndexer) -> None:
    client = indexer.client
    await client.apply_one(upsert(fact_id(1)))
    await create(client)

    (ack,) = await client.apply(
        [upsert(fact_id(2), 1, "Known to one.", vectors=known("hash-1", [1.0] + [0.0] * 31))], return_vectors=True
    )

    assert list(ack.epochs) == [1, 2]
    assert [each.embedding_model for each in ack.vectors] == ["hash-2"]
