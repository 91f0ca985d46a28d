import uuid

import grpc
import pytest
from qdrant_client import AsyncQdrantClient, models

from tests.contract.qdrant.points import point


async def test_created_collection_is_listed_and_described(client: AsyncQdrantClient, collection: str) -> None:
    names = [each.name for each in (await client.get_collections()).collections]
    info = await client.get_collection(collection)

    assert collection in names
    assert info.status == models.CollectionStatus.GREEN
    assert info.points_count == 0
    assert info.config.params.vectors["dense"].size == 4
    assert info.config.params.sparse_vectors["bm25"].modifier == models.Modifier.IDF
    assert info.config.hnsw_config.m == 8
    assert info.payload_schema["project"].data_type == models.PayloadSchemaType.KEYWORD
    assert info.payload_schema["text"].data_type == models.PayloadSchemaType.TEXT


async def test_collection_cannot_be_created_twice(client: AsyncQdrantClient, collection: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.create_collection(
            collection, vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT)
        )

    assert failure.value.code() == grpc.StatusCode.ALREADY_EXISTS


async def test_deleted_collection_is_gone_and_its_name_is_free(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1)], wait=True)

    assert await client.delete_collection(collection)
    assert not await client.collection_exists(collection)
    assert not await client.delete_collection(collection)
    await client.create_collection(
        collection, vectors_config=models.VectorParams(size=2, distance=models.Distance.EUCLID)
    )
    assert (await client.count(collection)).count == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda client, name: client.get_collection(name),
        lambda client, name: client.count(name),
        lambda client, name: client.upsert(name, [point(1)], wait=True),
        lambda client, name: client.query_points(name, query=[1.0, 0.0, 0.0, 0.0], using="dense"),
        lambda client, name: client.scroll(name),
    ],
    ids=["get", "count", "upsert", "query", "scroll"],
)
async def test_missing_collection_is_not_found(client: AsyncQdrantClient, call) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(client, f"missing-{uuid.uuid4()}")

    assert failure.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", ["", "a/b", "x" * 256])
async def test_bad_collection_name_is_refused(client: AsyncQdrantClient, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.create_collection(name, vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))

    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_optimizer_settings_can_be_changed(client: AsyncQdrantClient, collection: str) -> None:
    await client.update_collection(collection, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=30_000))

    info = await client.get_collection(collection)
    assert info.config.optimizer_config.indexing_threshold == 30_000
    assert info.config.hnsw_config.m == 8


async def test_payload_index_can_be_deleted(client: AsyncQdrantClient, collection: str) -> None:
    await client.delete_payload_index(collection, "project", wait=True)

    assert "project" not in (await client.get_collection(collection)).payload_schema


async def test_default_vector_has_no_name(client: AsyncQdrantClient) -> None:
    name = f"contract-{uuid.uuid4()}"
    await client.create_collection(name, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))

    await client.upsert(name, [models.PointStruct(id=1, vector=[3.0, 4.0])], wait=True)

    record = (await client.retrieve(name, [1], with_vectors=True))[0]
    assert record.vector == [3.0, 4.0]
    assert (await client.query_points(name, query=[1.0, 1.0])).points[0].score == pytest.approx(7.0)
    await client.delete_collection(name)
