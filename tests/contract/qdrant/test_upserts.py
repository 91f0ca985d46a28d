import asyncio
import uuid

import grpc
import pytest
from qdrant_client import AsyncQdrantClient, models
from qdrant_client import grpc as qdrant

from tests.contract.qdrant.points import equals, older_than, point


async def version_of(client: AsyncQdrantClient, collection: str, point_id: int | str) -> int:
    return (await client.retrieve(collection, [point_id]))[0].payload["version"]


async def test_completed_upsert_is_visible(client: AsyncQdrantClient, collection: str) -> None:
    point_id = str(uuid.uuid4())

    result = await client.upsert(
        collection, [point(point_id, dense=[0.0, 3.0, 4.0, 0.0], sparse={7: 0.5, 3: 2.0}, version=1)], wait=True
    )

    record = (await client.retrieve(collection, [point_id], with_vectors=True))[0]
    assert result.status == models.UpdateStatus.COMPLETED
    assert record.id == point_id
    assert record.vector["dense"] == pytest.approx([0.0, 0.6, 0.8, 0.0])
    assert dict(zip(record.vector["bm25"].indices, record.vector["bm25"].values, strict=True)) == {7: 0.5, 3: 2.0}


async def test_upsert_without_wait_is_only_acknowledged(client: AsyncQdrantClient, collection: str) -> None:
    result = await client.upsert(collection, [point(1)], wait=False)

    assert result.status == models.UpdateStatus.ACKNOWLEDGED


async def test_update_filter_overwrites_a_lower_stored_version(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1, version=1)], wait=True)

    await client.upsert(collection, [point(1, version=2)], update_filter=older_than(2), wait=True)

    assert await version_of(client, collection, 1) == 2


@pytest.mark.parametrize("stale", [1, 2])
async def test_stale_upsert_leaves_newer_data(client: AsyncQdrantClient, collection: str, stale: int) -> None:
    await client.upsert(collection, [point(1, dense=[0.0, 1.0, 0.0, 0.0], version=2, project="new")], wait=True)

    result = await client.upsert(
        collection, [point(1, version=stale, project="old")], update_filter=older_than(stale), wait=True
    )

    record = (await client.retrieve(collection, [1], with_vectors=["dense"]))[0]
    assert result.status == models.UpdateStatus.COMPLETED
    assert record.payload == {"version": 2, "project": "new"}
    assert record.vector["dense"] == pytest.approx([0.0, 1.0, 0.0, 0.0])


async def test_new_points_are_inserted_regardless_of_the_update_filter(
    client: AsyncQdrantClient, collection: str
) -> None:
    await client.upsert(collection, [point(1, version=5)], wait=True)

    await client.upsert(collection, [point(1, version=3), point(2, version=3)], update_filter=older_than(3), wait=True)

    assert await version_of(client, collection, 1) == 5
    assert await version_of(client, collection, 2) == 3


async def test_stored_point_without_a_version_is_not_overwritten(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1, project="unversioned")], wait=True)

    await client.upsert(collection, [point(1, version=9)], update_filter=older_than(9), wait=True)

    assert (await client.retrieve(collection, [1]))[0].payload == {"project": "unversioned"}


async def test_insert_only_leaves_existing_points(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1, version=1)], wait=True)

    await client.upsert(
        collection, [point(1, version=2), point(2, version=2)], update_mode=models.UpdateMode.INSERT_ONLY, wait=True
    )

    assert await version_of(client, collection, 1) == 1
    assert await version_of(client, collection, 2) == 2


async def test_update_only_inserts_nothing(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1, version=1)], wait=True)

    await client.upsert(
        collection, [point(1, version=2), point(2, version=2)], update_mode=models.UpdateMode.UPDATE_ONLY, wait=True
    )

    assert await version_of(client, collection, 1) == 2
    assert await client.retrieve(collection, [2]) == []


async def test_upsert_replaces_the_whole_payload(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1, project="a", version=1)], wait=True)

    await client.upsert(collection, [point(1, version=2)], wait=True)

    assert (await client.retrieve(collection, [1]))[0].payload == {"version": 2}


@pytest.mark.parametrize(
    "vector",
    [
        {"dense": [1.0, 0.0]},
        {"unknown": [1.0, 0.0, 0.0, 0.0]},
        {"dense": models.SparseVector(indices=[1], values=[1.0])},
        {"bm25": [1.0, 0.0, 0.0, 0.0]},
        [1.0, 0.0, 0.0, 0.0],
        {"bm25": models.SparseVector(indices=[1, 1], values=[1.0, 2.0])},
    ],
    ids=["dimension", "name", "sparse-for-dense", "dense-for-sparse", "unnamed", "repeated-index"],
)
async def test_bad_vector_is_an_invalid_argument(client: AsyncQdrantClient, collection: str, vector) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.upsert(collection, [models.PointStruct(id=1, vector=vector)], wait=True)

    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_request_with_one_bad_point_fails(client: AsyncQdrantClient, collection: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.upsert(collection, [point(1), point(2, dense=[1.0])], wait=True)

    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert await client.retrieve(collection, [2]) == []


async def test_id_that_is_no_uuid_is_refused(client: AsyncQdrantClient, collection: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.upsert(collection, [point("not-a-uuid")], wait=True)

    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_points_are_deleted_by_id_and_by_filter(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(i, project="a" if i < 3 else "b") for i in range(5)], wait=True)

    await client.delete(collection, [0, 99], wait=True)
    await client.delete(collection, models.Filter(must=[equals("project", "b")]), wait=True)

    assert [record.id for record in (await client.scroll(collection))[0]] == [1, 2]


async def test_vectors_form_before_the_oneof_is_read(client: AsyncQdrantClient, collection: str) -> None:
    vectors = {
        "dense": qdrant.Vector(data=[0.0, 0.0, 1.0, 0.0]),
        "bm25": qdrant.Vector(data=[2.0], indices=qdrant.SparseIndices(data=[5])),
    }
    point_struct = qdrant.PointStruct(
        id=qdrant.PointId(num=1), vectors=qdrant.Vectors(vectors=qdrant.NamedVectors(vectors=vectors))
    )

    await client.grpc_points.Upsert(qdrant.UpsertPoints(collection_name=collection, wait=True, points=[point_struct]))

    record = (await client.retrieve(collection, [1], with_vectors=True))[0]
    assert record.vector["dense"] == [0.0, 0.0, 1.0, 0.0]
    assert record.vector["bm25"] == models.SparseVector(indices=[5], values=[2.0])


async def test_vectors_are_updated_and_deleted_apart_from_the_payload(
    client: AsyncQdrantClient, collection: str
) -> None:
    await client.upsert(collection, [point(1, project="a")], wait=True)

    await client.update_vectors(
        collection, [models.PointVectors(id=1, vector={"dense": [0.0, 0.0, 0.0, 1.0]})], wait=True
    )
    await client.delete_vectors(collection, ["bm25"], [1], wait=True)

    record = (await client.retrieve(collection, [1], with_vectors=True))[0]
    assert record.vector == {"dense": [0.0, 0.0, 0.0, 1.0]}
    assert record.payload == {"project": "a"}


async def test_batch_applies_its_operations_in_order(client: AsyncQdrantClient, collection: str) -> None:
    results = await client.batch_update_points(
        collection,
        [
            models.UpsertOperation(upsert=models.PointsList(points=[point(1, version=1), point(2, version=1)])),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload={"version": 2}, points=[1])),
            models.UpsertOperation(
                upsert=models.PointsList(points=[point(1, version=1, project="x")], update_filter=older_than(1))
            ),
            models.DeleteOperation(delete=models.PointIdsList(points=[2])),
        ],
        wait=True,
    )

    assert [result.status for result in results] == [models.UpdateStatus.COMPLETED] * 4
    assert [(r.id, r.payload) for r in (await client.scroll(collection))[0]] == [(1, {"version": 2})]


async def test_concurrent_conditional_writers_leave_the_highest_version(
    client: AsyncQdrantClient, collection: str
) -> None:
    ids = list(range(20))

    async def write(version: int) -> None:
        await client.upsert(
            collection,
            [point(i, version=version, project=f"v{version}") for i in ids],
            update_filter=older_than(version),
            wait=True,
        )

    await asyncio.gather(*(write(version) for version in [7, 3, 12, 1, 9, 11, 2, 5, 10, 4, 8, 6]))

    records = await client.retrieve(collection, ids)
    assert {(r.payload["version"], r.payload["project"]) for r in records} == {(12, "v12")}


async def test_concurrent_writers_lose_nothing(client: AsyncQdrantClient, collection: str) -> None:
    async def write(writer: int) -> None:
        for batch in range(5):
            first = writer * 1000 + batch * 50
            await client.upsert(collection, [point(first + i, version=writer) for i in range(50)], wait=True)

    await asyncio.gather(*(write(writer) for writer in range(8)))

    assert (await client.count(collection, exact=True)).count == 8 * 5 * 50
