"""The open collections: the catalog's names, each with its running shard."""

import asyncio
import logging
import shutil
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from qdrant_client import grpc as qdrant

from deploy.local.qdrant import translate_schema
from deploy.local.qdrant.catalog import Catalog, Collection, load_catalog, save_catalog
from deploy.local.qdrant.errors import (
    AlreadyExistsError,
    InternalError,
    NoSpaceError,
    RequestError,
    StandInError,
    guarded,
)
from deploy.local.qdrant.shards import Lanes, Shard
from deploy.local.qdrant.storage import Storage, sync
from deploy.local.qdrant.uninterrupted import Uninterrupted

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenCollection:
    shard: Shard
    schema: translate_schema.VectorSchema


class Registry:
    """Changes are serialised; a change is on disk before it can be seen. Shards run as tasks of the given group."""

    def __init__(self, *, storage: Storage, lanes: Lanes, tasks: asyncio.TaskGroup) -> None:
        self._storage = storage
        self._lanes = lanes
        self._tasks = tasks
        self._changes = asyncio.Lock()
        self._begun = Uninterrupted()
        self._catalog = Catalog()
        self._open: dict[str, OpenCollection] = {}

    @property
    def catalog(self) -> Catalog:
        return self._catalog

    def opened(self, name: str) -> OpenCollection:
        """The collection behind a name or an alias. Raises NotFoundError."""
        return self._open[self._catalog.resolve(name)]

    def config(self, name: str) -> qdrant.CreateCollection:
        return self._catalog.collections[self._catalog.resolve(name)].config

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._catalog = await loop.run_in_executor(self._lanes.writes, self._load)
        for name, entry in self._catalog.collections.items():
            self._start(entry.config, await loop.run_in_executor(self._lanes.writes, self._open_shard, name, entry))

    async def create(self, config: qdrant.CreateCollection) -> None:
        await self._change(lambda: self._create(config))

    async def delete(self, name: str) -> bool:
        return await self._change(lambda: self._delete(name))

    async def change_aliases(self, actions: list[qdrant.AliasOperations]) -> None:
        async def change() -> None:
            await self._save(self._catalog.with_alias_actions(actions))

        await self._change(change)

    async def reconfigure(self, name: str, settings: qdrant.CreateCollection) -> None:
        """Merges the settings into those of the collection."""

        async def change() -> None:
            target = self._catalog.resolve(name)
            entry = self._catalog.collections[target]
            config = qdrant.CreateCollection()
            config.CopyFrom(entry.config)
            config.MergeFrom(settings)
            await self._save(self._catalog.with_collection(target, replace(entry, config=config)))

        await self._change(change)

    async def close(self) -> None:
        async with self._changes:
            await asyncio.gather(*(collection.shard.close() for collection in self._open.values()))

    async def _change(self, change: Callable[[], Awaitable[T]]) -> T:
        """One at a time, and to the end even if the caller leaves: disk and memory must not part."""

        async def exclusively() -> T:
            async with self._changes:
                return await change()

        return await self._begun.run(exclusively())

    async def _create(self, config: qdrant.CreateCollection) -> None:
        name = config.collection_name
        if name in self._catalog.collections:
            raise AlreadyExistsError(f"Collection `{name}` already exists!")
        if not self._storage.has_room():
            raise NoSpaceError
        entry = Collection(directory=str(uuid.uuid4()), config=config)
        changed = self._catalog.with_collection(name, entry)
        loop = asyncio.get_running_loop()
        shard = await loop.run_in_executor(self._lanes.writes, guarded, lambda: self._create_shard(entry))
        await self._save(changed)
        self._start(config, shard)

    async def _delete(self, name: str) -> bool:
        entry = self._catalog.collections.get(name)
        if entry is None:
            return False
        await self._save(self._catalog.without_collection(name))
        await self._open.pop(name).shard.close()
        # What cannot be removed now is removed at the next start.
        await asyncio.to_thread(shutil.rmtree, self._path(entry), ignore_errors=True)
        return True

    def _start(self, config: qdrant.CreateCollection, shard: Shard) -> None:
        name = config.collection_name
        self._open[name] = OpenCollection(shard=shard, schema=translate_schema.vector_schema(config))
        self._tasks.create_task(shard.run(), name=f"shard {name}")

    async def _save(self, changed: Catalog) -> None:
        try:
            await asyncio.to_thread(save_catalog, self._storage.catalog, changed)
        except OSError as error:
            # Which of the two catalogs is on disk is unknown, so the process ends.
            self._tasks.create_task(_fail(StandInError(f"cannot write the catalog: {error}")), name="fail")
            raise InternalError("the catalog cannot be written") from error
        self._catalog = changed

    def _load(self) -> Catalog:
        loaded = load_catalog(self._storage.catalog)
        known = {entry.directory for entry in loaded.collections.values()}
        for leftover in [path for path in self._storage.shards.iterdir() if path.name not in known]:
            log.info("leftover_removed path=%s", leftover)
            shutil.rmtree(leftover)
        sync(self._storage.shards)
        return loaded

    def _create_shard(self, entry: Collection) -> Shard:
        return Shard.create(
            path=self._path(entry),
            config=translate_schema.engine_config(entry.config),
            lanes=self._lanes,
            has_room=self._storage.has_room,
        )

    def _open_shard(self, name: str, entry: Collection) -> Shard:
        try:
            return guarded(
                lambda: Shard.open(path=self._path(entry), lanes=self._lanes, has_room=self._storage.has_room)
            )
        except RequestError as error:
            raise StandInError(f"cannot open the collection {name}: {error}") from error

    def _path(self, entry: Collection) -> Path:
        return self._storage.shards / entry.directory


async def _fail(error: StandInError) -> None:
    raise error
