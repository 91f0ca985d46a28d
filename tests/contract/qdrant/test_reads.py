import uuid

import grpc
import pytest
from qdrant_client import AsyncQdrantClient, models

from tests.contract.qdrant.points import equals, point


async def test_scroll_visits_every_point_once_in_pages(client: AsyncQdrantClient, collection: str) -> None:
    ids = sorted(str(uuid.uuid4()) for _ in range(25))
    await client.upsert(collection, [point(i, project="a") for i in ids], wait=True)

    seen, offset = [], None
    while True:
        records, offset = await client.scroll(collection, limit=10, offset=offset)
        seen += [record.id for record in records]
        if offset is None:
            break

    assert seen == ids


async def test_scroll_returns_only_what_is_asked_for(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1, project="a", version=1, text="hello")], wait=True)

    included = (await client.scroll(collection, with_payload=["project", "version"]))[0][0]
    excluded = (await client.scroll(collection, with_payload=models.PayloadSelectorExclude(exclude=["text"])))[0][0]
    bare = (await client.scroll(collection, with_payload=False, with_vectors=["bm25"]))[0][0]

    assert included.payload == {"project": "a", "version": 1}
    assert included.vector is None
    assert excluded.payload == {"project": "a", "version": 1}
    assert not bare.payload
    assert list(bare.vector) == ["bm25"]


async def test_scroll_orders_by_an_indexed_field(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(i, version=version) for i, version in enumerate([5, 1, 9, 3])], wait=True)

    descending, _ = await client.scroll(
        collection, order_by=models.OrderBy(key="version", direction=models.Direction.DESC), limit=3
    )
    ascending, _ = await client.scroll(collection, order_by=models.OrderBy(key="version", start_from=3))

    assert [record.payload["version"] for record in descending] == [9, 5, 3]
    assert [record.payload["version"] for record in ascending] == [3, 5, 9]


async def test_order_by_needs_an_index(client: AsyncQdrantClient, collection: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.scroll(collection, order_by="unindexed")

    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_retrieve_leaves_out_missing_points(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1), point(3)], wait=True)

    records = await client.retrieve(collection, [1, 2, 3])

    assert sorted(record.id for record in records) == [1, 3]


async def test_largest_numeric_id_is_kept(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(2**64 - 1)], wait=True)

    assert (await client.scroll(collection))[0][0].id == 2**64 - 1


async def test_count_with_a_filter(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(i, project="ab"[i % 2]) for i in range(7)], wait=True)

    assert (await client.count(collection)).count == 7
    assert (await client.count(collection, models.Filter(must=[equals("project", "a")]))).count == 4


async def test_facet_counts_values(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(i, project="aab"[i % 3], deleted=i == 0) for i in range(6)], wait=True)

    projects = await client.facet(collection, "project", exact=True)
    deleted = await client.facet(collection, "deleted", facet_filter=models.Filter(must=[equals("project", "a")]))

    assert [(hit.value, hit.count) for hit in projects.hits] == [("a", 4), ("b", 2)]
    assert {(hit.value, hit.count) for hit in deleted.hits} == {(False, 3), (True, 1)}


@pytest.mark.parametrize("limit", [0])
async def test_zero_limit_is_refused(client: AsyncQdrantClient, collection: str, limit: int) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.query_points(collection, query=[1.0, 0.0, 0.0, 0.0], using="dense", limit=limit)

    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
