"""Real processes that die in the middle of the work, and a Qdrant that comes back with older data."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from scristill.indexer.v1 import fact_pb2, indexer_service_pb2

from tests.integration.indexer import processes
from tests.integration.indexer.builders import APPLIED, RETRY, IndexerClient, connected, delete, fact_id, upsert
from tests.integration.indexer.processes import Process
from tests.support.waiting import eventually

Intents = dict[str, fact_pb2.FactIntent]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Process]:
    async with processes.running(processes.qdrant_engine(tmp_path / "qdrant")) as process:
        yield process


@pytest.fixture
async def service(engine: Process, gateway_port: int) -> AsyncIterator[Process]:
    async with processes.running(processes.indexer(qdrant=engine, gateway_port=gateway_port)) as process:
        yield process


@pytest.fixture
async def client(service: Process) -> AsyncIterator[IndexerClient]:
    async with connected(service.port) as client:
        await until_usable(client)
        yield client


async def until_usable(client: IndexerClient) -> None:
    async def usable() -> bool:
        try:
            return bool((await client.stats()).epochs)
        except grpc.aio.AioRpcError:
            return False

    await eventually(usable, within=30)


async def relay(client: IndexerClient, intents: Intents) -> None:
    """Sends what has no acknowledgement again and again, as the outbox does."""
    left = dict(intents)
    async with asyncio.timeout(90):
        while left:
            try:
                acks = await client.apply(*batches(list(left.values()), 50))
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)
                continue
            for ack in acks:
                assert ack.outcome in (APPLIED, RETRY)
                if ack.outcome == APPLIED:
                    left.pop(ack.fact_id)


def batches(intents: list[fact_pb2.FactIntent], size: int) -> list[list[fact_pb2.FactIntent]]:
    return [intents[start : start + size] for start in range(0, len(intents), size)]


def many(count: int, version: int) -> Intents:
    return {
        fact_id(number): upsert(fact_id(number), version, f"Fact {number} at {version}.") for number in range(count)
    }


async def stored(client: IndexerClient) -> dict[str, tuple[int, bool]]:
    return {point.fact_id: (point.version, point.tombstone) for point in await client.points()}


async def test_f4_engine_killed_in_mid_batch_loses_nothing_acknowledged(client: IndexerClient, engine: Process) -> None:
    await relay(client, many(300, 1))

    async def kill_and_restart() -> None:
        await asyncio.sleep(0.15)
        engine.kill()
        await engine.start()

    async with asyncio.TaskGroup() as group:
        group.create_task(kill_and_restart())
        group.create_task(relay(client, many(1500, 2)))

    assert await stored(client) == {fact_id(number): (2, False) for number in range(1500)}


async def test_f3_indexer_killed_in_mid_stream_loses_nothing(client: IndexerClient, service: Process) -> None:
    async def kill_and_restart() -> None:
        await asyncio.sleep(0.15)
        service.kill()
        await service.start()

    async with asyncio.TaskGroup() as group:
        group.create_task(kill_and_restart())
        group.create_task(relay(client, many(1500, 3)))

    assert await stored(client) == {fact_id(number): (3, False) for number in range(1500)}


async def test_f6_older_copy_of_qdrant_shows_in_the_digests_and_is_healed_by_sending_again(
    client: IndexerClient, engine: Process, tmp_path: Path
) -> None:
    await relay(client, many(100, 1))
    engine.stop()
    shutil.copytree(tmp_path / "qdrant", tmp_path / "copy")
    await engine.start()
    newer = many(150, 2) | {fact_id(number): delete(fact_id(number), 3) for number in range(10)}
    await relay(client, newer)
    before = await digests(client)

    engine.stop()
    shutil.rmtree(tmp_path / "qdrant")
    shutil.copytree(tmp_path / "copy", tmp_path / "qdrant")
    await engine.start()
    await until_usable(client)
    assert await digests(client) != before

    await relay(client, newer)
    assert await digests(client) == before
    assert all(tombstone for fact, (_, tombstone) in (await stored(client)).items() if newer[fact].version == 3)


async def digests(client: IndexerClient) -> dict[int, bytes]:
    stream = client.indexer.ScanDigests(indexer_service_pb2.ScanDigestsRequest(), timeout=30)
    frames = [frame async for frame in stream]
    assert frames[-1].WhichOneof("frame") == "done"
    return {row.bucket: row.digest for frame in frames for row in frame.digests.digests}
