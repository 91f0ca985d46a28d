"""Where the stand-in is stricter than Qdrant, and what it does when its disk fails. Runs its parts in this process."""

import asyncio
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from qdrant_client import grpc as qdrant

from deploy.local.qdrant import wal
from deploy.local.qdrant.catalog import load_catalog
from deploy.local.qdrant.errors import InternalError, InvalidArgumentError, NotFoundError, StandInError
from deploy.local.qdrant.points_service import PointsService
from deploy.local.qdrant.registry import Registry
from deploy.local.qdrant.shards import Lanes
from deploy.local.qdrant.storage import Storage
from tests.contract.qdrant.stand_in import StandIn
from tests.support.waiting import eventually

FACTS = "facts"


class RoomyStorage(Storage):
    """A storage whose disk fills up when the test says so."""

    full = False

    def has_room(self) -> bool:
        return not self.full


@asynccontextmanager
async def running(storage: Storage) -> AsyncIterator[tuple[Registry, Lanes]]:
    storage.acquire()
    with ThreadPoolExecutor(1) as writes, ThreadPoolExecutor(1) as scans, ThreadPoolExecutor(2) as reads:
        lanes = Lanes(writes=writes, scans=scans, reads=reads)
        try:
            async with asyncio.TaskGroup() as tasks:
                registry = Registry(storage=storage, lanes=lanes, tasks=tasks)
                await registry.open()
                if not registry.catalog.collections:
                    await registry.create(collection(FACTS))
                yield registry, lanes
                await registry.close()
        finally:
            storage.release()


def collection(name: str) -> qdrant.CreateCollection:
    params = qdrant.VectorParams(size=2, distance=qdrant.Distance.Dot)
    return qdrant.CreateCollection(collection_name=name, vectors_config=qdrant.VectorsConfig(params=params))


def upsert(*ids: int, dimension: int = 2, timeout: int | None = None) -> qdrant.UpsertPoints:
    return qdrant.UpsertPoints(
        collection_name=FACTS, wait=True, timeout=timeout, points=[point(i, dimension=dimension) for i in ids]
    )


def point(point_id: int, *, dimension: int) -> qdrant.PointStruct:
    vector = qdrant.Vector(dense=qdrant.DenseVector(data=[1.0] * dimension))
    return qdrant.PointStruct(id=qdrant.PointId(num=point_id), vectors=qdrant.Vectors(vector=vector))


async def count(registry: Registry) -> int:
    response = await PointsService(registry).Count(qdrant.CountPoints(collection_name=FACTS), None)
    return response.result.count


async def test_request_with_one_bad_point_changes_nothing(tmp_path: Path) -> None:
    async with running(Storage(tmp_path)) as (registry, _):
        bad = upsert(1, 2)
        bad.points.append(point(3, dimension=7))

        with pytest.raises(InvalidArgumentError):
            await PointsService(registry).Upsert(bad, None)

        assert await count(registry) == 0


async def test_failing_alias_request_changes_nothing(tmp_path: Path) -> None:
    async with running(Storage(tmp_path)) as (registry, _):
        good = qdrant.AliasOperations(create_alias=qdrant.CreateAlias(collection_name=FACTS, alias_name="a"))
        bad = qdrant.AliasOperations(create_alias=qdrant.CreateAlias(collection_name="missing", alias_name="b"))

        with pytest.raises(NotFoundError):
            await registry.change_aliases([good, bad])

        assert registry.catalog.aliases == {}


async def test_write_is_on_disk_before_it_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    put_on_disk = wal.put_on_disk
    monkeypatch.setattr(wal, "put_on_disk", lambda file: (synced.append(file.name), put_on_disk(file)))
    async with running(Storage(tmp_path)) as (registry, _):
        for point_id in range(3):
            synced.clear()
            await PointsService(registry).Upsert(upsert(point_id), None)

            assert "open-1" in synced


async def test_concurrent_writes_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(wal, "put_on_disk", lambda file: synced.append(file.name))
    async with running(Storage(tmp_path)) as (registry, _):
        service = PointsService(registry)

        await asyncio.gather(*(service.Upsert(upsert(i), None) for i in range(64)))

        assert await count(registry) == 64
        assert synced.count("open-1") <= 16


async def test_failed_sync_ends_the_process_and_completes_nothing(tmp_path: Path) -> None:
    answers: list[object] = []

    async def write_without_a_log() -> None:
        async with running(Storage(tmp_path)) as (registry, _):
            shutil.rmtree(next((tmp_path / "collections").iterdir()) / "wal")
            answers.append(await PointsService(registry).Upsert(upsert(1), None))

    with pytest.raises(BaseExceptionGroup) as failure:
        await write_without_a_log()

    assert answers == []
    assert failure.group_contains(StandInError, match="cannot put the write-ahead log on disk")


async def test_full_disk_refuses_writes_and_serves_reads(tmp_path: Path) -> None:
    storage = RoomyStorage(tmp_path)
    async with running(storage) as (registry, _):
        service = PointsService(registry)
        await service.Upsert(upsert(1), None)
        storage.full = True

        with pytest.raises(InternalError, match="No space left"):
            await service.Upsert(upsert(2), None)
        assert await count(registry) == 1

        storage.full = False
        await service.Upsert(upsert(2), None)
        assert await count(registry) == 2


async def test_write_that_outlasts_its_timeout_has_an_unknown_outcome(tmp_path: Path) -> None:
    release = threading.Event()
    async with running(Storage(tmp_path)) as (registry, lanes):
        lanes.writes.submit(release.wait)

        response = await PointsService(registry).Upsert(upsert(1, timeout=1), None)

        assert response.result.status == qdrant.UpdateStatus.WaitTimeout
        release.set()
        await PointsService(registry).Upsert(upsert(2), None)
        assert await count(registry) == 2


async def test_change_whose_caller_left_is_finished_in_memory_and_on_disk(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    async with running(storage) as (registry, _):
        creation = asyncio.create_task(registry.create(collection("other")))
        await asyncio.sleep(0)
        creation.cancel()

        await eventually(lambda: "other" in registry.catalog.collections)
        assert load_catalog(storage.catalog) == registry.catalog


async def test_write_whose_caller_left_is_applied(tmp_path: Path) -> None:
    async with running(Storage(tmp_path)) as (registry, _):
        write = asyncio.create_task(PointsService(registry).Upsert(upsert(1), None))
        await asyncio.sleep(0)
        write.cancel()

        assert await eventually(lambda: count(registry)) == 1


async def test_catalog_that_cannot_be_written_ends_the_process(tmp_path: Path) -> None:
    async def create_without_a_directory() -> None:
        async with running(Storage(tmp_path)) as (registry, _):
            (tmp_path / "catalog.tmp").mkdir()
            with pytest.raises(InternalError):
                await registry.change_aliases([])
            await asyncio.Event().wait()

    with pytest.raises(BaseExceptionGroup) as failure:
        await create_without_a_directory()

    assert failure.group_contains(StandInError, match="cannot write the catalog")


async def test_deleted_collection_takes_no_late_write(tmp_path: Path) -> None:
    release = threading.Event()
    async with running(Storage(tmp_path)) as (registry, lanes):
        lanes.writes.submit(release.wait)
        write = asyncio.create_task(PointsService(registry).Upsert(upsert(1), None))
        await asyncio.sleep(0)
        deletion = asyncio.create_task(registry.delete(FACTS))
        await eventually(lambda: FACTS not in registry.catalog.collections)
        release.set()

        with pytest.raises(NotFoundError):
            await write
        assert await deletion
        assert list((tmp_path / "collections").iterdir()) == []


async def test_space_of_deleted_points_is_reclaimed_when_the_collection_is_opened(tmp_path: Path) -> None:
    async with running(Storage(tmp_path)) as (registry, _):
        service = PointsService(registry)
        await service.Upsert(upsert(*range(2_000)), None)
        ids = [qdrant.PointId(num=i) for i in range(1_500)]
        selector = qdrant.PointsSelector(points=qdrant.PointsIdsList(ids=ids))
        await service.Delete(qdrant.DeletePoints(collection_name=FACTS, wait=True, points=selector), None)
        segments = {path.name for path in (tmp_path / "collections").glob("*/segments/*")}

    async with running(Storage(tmp_path)) as (registry, _):
        assert await count(registry) == 500
        assert segments.isdisjoint(path.name for path in (tmp_path / "collections").glob("*/segments/*"))


@pytest.mark.parametrize(
    ("method", "request_message"),
    [
        ("/qdrant.Points/Search", qdrant.SearchPoints(collection_name=FACTS)),
        ("/qdrant.Points/QueryGroups", qdrant.QueryPointGroups(collection_name=FACTS)),
        ("/qdrant.Collections/CreateShardKey", qdrant.CreateShardKeyRequest(collection_name=FACTS)),
        ("/qdrant.Snapshots/Create", qdrant.CreateSnapshotRequest(collection_name=FACTS)),
    ],
)
async def test_what_is_not_supported_says_so(stand_in_url: str, method: str, request_message) -> None:
    async with grpc.aio.insecure_channel(stand_in_url) as channel:
        call = channel.unary_unary(method, request_serializer=lambda message: message.SerializeToString())

        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call(request_message)

    assert failure.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert method in failure.value.details()


@pytest.fixture(scope="module")
def stand_in_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with StandIn(tmp_path_factory.mktemp("stand-in")) as server:
        yield f"127.0.0.1:{server.port}"
