"""Digests, points and counts against what was written."""

import hashlib
from uuid import UUID

import grpc
import grpc.aio
import pytest
from qdrant_client import AsyncQdrantClient
from scristill.indexer.v1 import indexer_service_pb2

from tests.integration.indexer.builders import PROJECT, IndexerClient, delete, fact_id, new_id, upsert


def expected_digests(intents, epoch: int = 1) -> dict[int, tuple[bytes, int]]:
    """Computed the slow way from the words of the contract."""
    buckets: dict[int, tuple[int, int]] = {}
    for intent in intents:
        identity = UUID(intent.fact_id)
        content = identity.bytes + intent.version.to_bytes(8) + intent.content_hash + epoch.to_bytes(8)
        content += UUID(intent.project_id).bytes
        share = int.from_bytes(hashlib.sha256(content).digest()[:16])
        digest, count = buckets.get(identity.int >> 116, (0, 0))
        buckets[identity.int >> 116] = digest ^ share, count + 1
    return {bucket: (digest.to_bytes(16), count) for bucket, (digest, count) in buckets.items()}


async def scan(client: IndexerClient, **request):
    frames = [
        frame
        async for frame in client.indexer.ScanDigests(indexer_service_pb2.ScanDigestsRequest(**request), timeout=30)
    ]
    assert frames[-1].WhichOneof("frame") == "done"
    rows = [row for frame in frames for row in frame.digests.digests]
    return rows, frames[-1].done


async def test_digests_are_those_of_the_contract(client: IndexerClient) -> None:
    intents = [upsert(fact_id(number), 1 + number % 3, f"Fact {number}.") for number in range(300)]
    await client.apply(intents)
    await client.apply([delete(fact_id(number), 9) for number in range(10)])

    rows, done = await scan(client)

    assert [row.bucket for row in rows] == list(range(4096))
    assert {row.bucket: (row.digest, row.point_count) for row in rows if row.point_count} == expected_digests(
        intents[10:]
    )
    assert all(row.digest == bytes(16) for row in rows if not row.point_count)
    assert (done.epoch, done.point_count, done.tombstone_count) == (1, 290, 10)


async def test_scan_of_some_buckets_gives_just_them(client: IndexerClient) -> None:
    intents = [upsert(fact_id(number)) for number in range(200)]
    await client.apply(intents)

    rows, _ = await scan(client, first_bucket=1024, last_bucket=2047)

    assert [row.bucket for row in rows] == list(range(1024, 2048))
    expected = {bucket: value for bucket, value in expected_digests(intents).items() if 1024 <= bucket < 2048}
    assert {row.bucket: (row.digest, row.point_count) for row in rows if row.point_count} == expected


async def test_throttled_scan_sees_the_same(client: IndexerClient) -> None:
    await client.apply([upsert(fact_id(number)) for number in range(50)])

    assert await scan(client, max_points_per_second=1000) == await scan(client)


async def test_points_of_buckets_are_listed_with_tombstones(client: IndexerClient) -> None:
    await client.apply([upsert(fact_id(number), 2) for number in range(100)] + [delete(fact_id(200), 7)])
    buckets = [int(fact_id(number)[:3], 16) for number in (3, 200)]

    points = {point.fact_id: point for point in await client.points(buckets=buckets)}

    assert points[fact_id(200)].tombstone
    assert points[fact_id(200)].version == 7
    live = points[fact_id(3)]
    assert (live.version, live.epoch, live.project_id) == (2, 1, PROJECT)
    assert all(int(each[:3], 16) in buckets for each in points)


async def test_wiped_collection_is_seen_as_empty(
    client: IndexerClient, qdrant: AsyncQdrantClient, collection: str
) -> None:
    """Each way of looking must notice by itself: with nothing to write, nobody else does."""
    await client.apply_one(upsert(fact_id(1)))

    await qdrant.delete_collection(collection)
    assert (await client.stats()).live_point_count == 0
    await qdrant.delete_collection(collection)
    assert (await scan(client))[1].point_count == 0
    await qdrant.delete_collection(collection)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.points()
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await client.points() == []


async def test_stats_count_exactly_and_by_project(client: IndexerClient) -> None:
    other = new_id()
    await client.apply([upsert(fact_id(number)) for number in range(7)])
    await client.apply([upsert(new_id(), project_id=other), delete(fact_id(0), 2)])

    everything = await client.stats()
    mine = await client.stats(PROJECT)

    assert (everything.live_point_count, everything.tombstone_count) == (7, 1)
    assert (mine.live_point_count, mine.tombstone_count) == (6, 1)
    (epoch,) = everything.epochs
    assert (epoch.epoch, epoch.embedding_model, epoch.point_count) == (1, "hash-1", 8)
