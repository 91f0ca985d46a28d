"""What the stand-in keeps over its own end; each test runs a server of its own, whatever QDRANT_URL says."""

import asyncio
import signal
import subprocess
from pathlib import Path

import grpc
import pytest
from qdrant_client import AsyncQdrantClient, models

from tests.contract.qdrant.conftest import connect, create_fact_collection
from tests.contract.qdrant.points import equals, point
from tests.contract.qdrant.stand_in import ROOT, StandIn, command
from tests.support.waiting import eventually

FACTS = "facts"


async def everything(client: AsyncQdrantClient) -> list[models.Record]:
    return (await client.scroll(FACTS, limit=100_000, with_vectors=True))[0]


async def alias(client: AsyncQdrantClient, name: str) -> None:
    create = models.CreateAlias(collection_name=FACTS, alias_name=name)
    await client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with StandIn(tmp_path) as server:
        client = connect(server.url)
        await create_fact_collection(client, FACTS)
        await alias(client, "live")
        await client.upsert(FACTS, [point(i, sparse={i: 1.0}, project="ab"[i % 2]) for i in range(50)], wait=True)
        await client.delete(FACTS, [0], wait=True)
        records = await everything(client)
        schema = (await client.get_collection(FACTS)).payload_schema
        await client.close()
        assert server.stop() == 0

    with StandIn(tmp_path) as server:
        client = connect(server.url)
        assert await everything(client) == records
        assert (await client.get_collection(FACTS)).payload_schema == schema
        assert (await client.count("live", models.Filter(must=[equals("project", "a")]))).count == 24
        await client.close()


async def test_killed_server_has_every_completed_point(tmp_path: Path) -> None:
    completed: set[int] = set()

    async def write(client: AsyncQdrantClient, writer: int) -> None:
        for first in range(writer * 1_000_000, (writer + 1) * 1_000_000, 100):
            ids = range(first, first + 100)
            try:
                await client.upsert(FACTS, [point(i, version=i) for i in ids], wait=True)
            except grpc.aio.AioRpcError:
                return
            completed.update(ids)

    with StandIn(tmp_path) as server:
        client = connect(server.url)
        await create_fact_collection(client, FACTS)
        writers = [asyncio.create_task(write(client, writer)) for writer in range(4)]
        await eventually(lambda: len(completed) >= 5_000, within=30)
        server.kill()
        await asyncio.gather(*writers)
        await client.close()

    with StandIn(tmp_path) as server:
        client = connect(server.url)
        stored = {record.id: record.payload for record in await everything(client)}
        assert completed <= stored.keys()
        assert all(payload == {"version": point_id} for point_id, payload in stored.items())
        await client.close()


async def test_log_of_several_files_survives_a_kill(tmp_path: Path) -> None:
    """The engine's log files hold 32 MiB; one write here is larger than that."""
    sizes = dict.fromkeys(range(24), 3000000) | {24: 40_000_000}
    with StandIn(tmp_path) as server:
        client = connect(server.url)
        await create_fact_collection(client, FACTS)
        for point_id, size in sizes.items():
            await client.upsert(FACTS, [point(point_id, blob="x" * size)], wait=True)
        await client.close()
        server.kill()

    with StandIn(tmp_path) as server:
        client = connect(server.url)
        for point_id, size in sizes.items():
            record = (await client.retrieve(FACTS, [point_id]))[0]
            assert len(record.payload["blob"]) == size
        await client.close()


async def test_collection_of_a_killed_server_is_whole_or_absent(tmp_path: Path) -> None:
    with StandIn(tmp_path) as server:
        client = connect(server.url)
        await create_fact_collection(client, FACTS)
        await client.close()
        server.kill()
    leftover = tmp_path / "collections" / "unknown"
    leftover.mkdir()

    with StandIn(tmp_path) as server:
        client = connect(server.url)
        await client.upsert(FACTS, [point(1)], wait=True)
        assert (await client.count(FACTS)).count == 1
        assert not leftover.exists()
        await client.close()


async def test_requests_in_flight_are_answered_before_a_stop(tmp_path: Path) -> None:
    with StandIn(tmp_path) as server:
        client = connect(server.url)
        await create_fact_collection(client, FACTS)
        writes = [
            asyncio.create_task(client.upsert(FACTS, [point(w * 500 + i) for i in range(500)], wait=True))
            for w in range(4)
        ]
        await asyncio.wait(writes, return_when=asyncio.FIRST_COMPLETED)
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        answers = await asyncio.gather(*writes)
        assert await stopping == 0
        await client.close()

    assert [answer.status for answer in answers] == [models.UpdateStatus.COMPLETED] * 4
    with StandIn(tmp_path) as server:
        client = connect(server.url)
        assert (await client.count(FACTS)).count == 2_000
        await client.close()


def refused(storage: Path, port: int = 0) -> str:
    finished = subprocess.run(command(storage, port), cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert finished.returncode == 1
    assert finished.stdout == ""
    return finished.stderr


def test_second_process_cannot_open_the_storage(tmp_path: Path) -> None:
    with StandIn(tmp_path):
        error = refused(tmp_path)

    assert error == f"qdrant stand-in: the storage directory {tmp_path} is in use by another process\n"


def test_taken_port_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    with StandIn(tmp_path / "first") as server:
        error = refused(tmp_path / "second", server.port)

    assert error == f"qdrant stand-in: cannot listen on 127.0.0.1:{server.port}: Address already in use\n"


@pytest.mark.parametrize("made", ["file", "catalog"])
def test_unusable_storage_is_one_line_and_exit_code_1(tmp_path: Path, made: str) -> None:
    storage = tmp_path / "storage"
    if made == "file":
        storage.write_text("")
    else:
        storage.mkdir()
        (storage / "catalog.json").write_text("{")

    error = refused(storage)

    assert error.startswith("qdrant stand-in: cannot ")
    assert error.count("\n") == 1


def test_interrupt_stops_like_a_termination(tmp_path: Path) -> None:
    with StandIn(tmp_path) as server:
        assert server.stop(signal.SIGINT) == 0
