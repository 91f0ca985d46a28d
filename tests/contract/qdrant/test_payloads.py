import grpc
import pytest
from qdrant_client import AsyncQdrantClient, models

from tests.contract.qdrant.points import equals, point


async def payload_of(client: AsyncQdrantClient, collection: str, point_id: int) -> dict:
    return (await client.retrieve(collection, [point_id]))[0].payload


async def test_values_come_back_as_they_were(client: AsyncQdrantClient, collection: str) -> None:
    payload = {
        "text": "Grüße, 世界 \U0001f30d",
        "empty": "",
        "int": 2**53 + 1,
        "negative": -(2**62),
        "zero": 0,
        "float": 0.1,
        "whole": 3.0,
        "yes": True,
        "no": False,
        "null": None,
        "list": [1, "two", None, False, {"nested": [[]]}],
        "object": {},
        "deep": {"a": {"b": [{"c": 1.5}]}},
    }

    await client.upsert(collection, [point(1, **payload)], wait=True)

    stored = await payload_of(client, collection, 1)
    assert stored == payload
    assert {key: type(value) for key, value in stored.items()} == {key: type(value) for key, value in payload.items()}


async def test_set_payload_merges_and_overwrite_payload_replaces(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1, a=1, b=2), point(2, a=1)], wait=True)

    await client.set_payload(collection, {"b": 3, "c": 4}, points=[1], wait=True)
    await client.overwrite_payload(collection, {"z": 0}, points=[2], wait=True)

    assert await payload_of(client, collection, 1) == {"a": 1, "b": 3, "c": 4}
    assert await payload_of(client, collection, 2) == {"z": 0}


async def test_set_payload_under_a_key(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1, inner={"x": 1})], wait=True)

    await client.set_payload(collection, {"y": 2}, points=[1], key="inner", wait=True)

    assert await payload_of(client, collection, 1) == {"inner": {"x": 1, "y": 2}}


async def test_payload_is_changed_by_filter(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(i, project="ab"[i % 2]) for i in range(4)], wait=True)
    b_only = models.Filter(must=[equals("project", "b")])

    await client.set_payload(collection, {"version": 7}, points=b_only, wait=True)
    await client.delete_payload(collection, ["project"], points=models.Filter(must=[equals("project", "a")]), wait=True)

    records, _ = await client.scroll(collection)
    assert [r.payload for r in records] == [{}, {"project": "b", "version": 7}] * 2


async def test_payload_is_cleared(client: AsyncQdrantClient, collection: str) -> None:
    await client.upsert(collection, [point(1, a=1), point(2, a=1)], wait=True)

    await client.clear_payload(collection, [1], wait=True)

    assert await payload_of(client, collection, 1) == {}
    assert await payload_of(client, collection, 2) == {"a": 1}


async def test_set_payload_of_a_missing_point_is_not_found(client: AsyncQdrantClient, collection: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.set_payload(collection, {"a": 1}, points=[404], wait=True)

    assert failure.value.code() == grpc.StatusCode.NOT_FOUND
