"""The open collections: the catalog's names, each with its running shard."""

import asyncio
import logging
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from qdrant_client import grpc as qdrant

from deploy.local.qdrant import translate_schema
from deploy.local.qdrant.catalog import Catalog, Collection, load_catalog, save_catalog
from deploy.local.qdrant.errors import AlreadyExistsError, InternalError, RequestError, StandInError, guarded
from deploy.local.qdrant.shards import Lanes, Shard
from deploy.local.qdrant.storage import Storage, sync

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
        name = config.collection_name
        async with self._changes:
            if name in self._catalog.collections:
                raise AlreadyExistsError(f"Collection `{name}` already exists!")
            engine_config = translate_schema.engine_config(config)
            entry = Collection(directory=str(uuid.uuid4()), config=config)
            changed = self._catalog.with_collection(name, entry)
            shard = await asyncio.get_running_loop().run_in_executor(
                self._lanes.writes,
                lambda: guarded(
                    lambda: Shard.create(
                        path=self._path(entry),
                        config=engine_config,
                        lanes=self._lanes,
                        has_room=self._storage.has_room,
                    )
                ),
            )
            try:
                await self._save(changed)
            except InternalError:
                await asyncio.to_thread(shard.discard)
                raise
            self._start(config, shard)

    async def delete(self, name: str) -> bool:
        async with self._changes:
            entry = self._catalog.collections.get(name)
            if entry is None:
                return False
            await self._save(self._catalog.without_collection(name))
            await self._open.pop(name).shard.close()
            await asyncio.to_thread(shutil.rmtree, self._path(entry))
            return True

    async def change_aliases(self, actions: list[qdrant.AliasOperations]) -> None:
        async with self._changes:
            await self._save(self._catalog.with_alias_actions(actions))

    async def reconfigure(self, name: str, config: qdrant.CreateCollection) -> None:
        async with self._changes:
            target = self._catalog.resolve(name)
            directory = self._catalog.collections[target].directory
            await self._save(self._catalog.with_collection(target, Collection(directory=directory, config=config)))

    async def close(self) -> None:
        async with self._changes:
            await asyncio.gather(*(collection.shard.close() for collection in self._open.values()))

    def _start(self, config: qdrant.CreateCollection, shard: Shard) -> None:
        name = config.collection_name
        self._open[name] = OpenCollection(shard=shard, schema=translate_schema.vector_schema(config))
        self._tasks.create_task(shard.run(), name=f"shard {name}")

    async def _save(self, changed: Catalog) -> None:
        try:
            await asyncio.to_thread(save_catalog, self._storage.catalog, changed)
        except OSError as error:
            raise InternalError(f"cannot write the catalog: {error}") from error
        self._catalog = changed

    def _load(self) -> Catalog:
        loaded = load_catalog(self._storage.catalog)
        known = {entry.directory for entry in loaded.collections.values()}
        for leftover in [path for path in self._storage.shards.iterdir() if path.name not in known]:
            log.info("leftover_removed path=%s", leftover)
            shutil.rmtree(leftover)
        sync(self._storage.shards)
        return loaded

    def _open_shard(self, name: str, entry: Collection) -> Shard:
        try:
            return guarded(
                lambda: Shard.open(path=self._path(entry), lanes=self._lanes, has_room=self._storage.has_room)
            )
        except RequestError as error:
            raise StandInError(f"cannot open the collection {name}: {error}") from error

    def _path(self, entry: Collection) -> Path:
        return self._storage.shards / entry.directory
