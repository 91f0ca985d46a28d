"""The ports of the indexer over the model of Qdrant: what `services/indexer/adapters` does, request by request.

`write` mirrors `adapters/qdrant/points.py`, `replace` the compare-and-swap of `epoch_store.py`, and so on;
what is decided above the ports is the production code itself.
"""

# ruff: noqa: ARG002 - the signatures are those of the ports

from array import array
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from zlib import crc32

from services.indexer.application.ports import Embedded, PointWrite, SparseVector
from services.indexer.domain.digest import Share, Shares, point_digest
from services.indexer.domain.epochs import Catalogue, Epoch
from services.indexer.domain.errors import TextRefused
from services.indexer.domain.fact import FactContent, FactId, Intent, Operation, PointState, Vector
from services.indexer.domain.fact import StoredPoint as ScannedPoint
from services.indexer.domain.identity import bucket_of
from services.indexer.domain.search import Hit, Query, Ranked
from services.shared.errors import OutcomeUnknown, ServiceError, Unavailable
from tests.sim.host import Host
from tests.sim.qdrant import Qdrant, StoredPoint
from tests.sim.world import World

POISON = "poison"
PAGE = 8
DIMENSION = 2


class SimFacts:
    """FactStore."""

    def __init__(self, qdrant: Qdrant, host: Host) -> None:
        self._qdrant = qdrant
        self._host = host
        self._world = qdrant.world

    async def write(self, epoch: Epoch, groups: Sequence[Sequence[PointWrite]]) -> None:
        """`QdrantFacts.write`: one conditional upsert per group, all in one request that is waited for."""
        now = self._world.loop.time()
        what = [(epoch.number, write.intent.fact_id[:8], write.intent.version) for group in groups for write in group]

        def land() -> bool:
            for group in groups:
                self._upsert(epoch, group, now)
            return True

        await self._qdrant.write(self._host, land, what=str(what))

    def _upsert(self, epoch: Epoch, group: Sequence[PointWrite], now: float) -> None:
        """`_fill_group`: update_filter `version < lowest of the group`."""
        world, points = self._world, self._qdrant.collection(epoch.collection)
        versions = [write.intent.version for write in group]
        bound = min(versions) if world.on("write.lowest_version_bounds_the_batch") else max(versions)
        guarded = world.on("write.update_filter")
        # The filter is evaluated for the whole request before any of its points is written.
        stays = {
            each.embedding_id for each in group if (held := points.get(each.embedding_id)) and held.version >= bound
        }
        for write in group:
            if guarded and write.embedding_id in stays:
                continue
            if write.intent.content is None and not world.on("delete.tombstone"):
                self._qdrant.remove(epoch.collection, write.embedding_id)
                continue
            content = write.intent.content
            if content is not None and write.dense is not None and write.dense[1] != meaning(content.statement):
                world.broken("a vector of another statement", (write.intent.fact_id, write.intent.version))
            self._qdrant.put(epoch.collection, write.embedding_id, _point(write, epoch, now))

    async def states(self, epoch: Epoch, embedding_ids: Iterable[str]) -> Mapping[str, PointState]:
        wanted = list(embedding_ids)

        def look() -> dict[str, PointState]:
            points = self._qdrant.collection(epoch.collection)
            return {each: _state(points[each]) for each in wanted if each in points}

        return await self._qdrant.read(self._host, look)

    async def intents(self, epoch: Epoch, embedding_ids: Iterable[str]) -> Sequence[Intent]:
        wanted = list(embedding_ids)

        def look() -> list[Intent]:
            points = self._qdrant.collection(epoch.collection)
            return [_intent(points[each]) for each in wanted if each in points]

        return await self._qdrant.read(self._host, look)

    async def count(self, epoch: Epoch, *, tombstones: bool, project_id: str = "") -> int:
        def look() -> int:
            points = self._qdrant.collection(epoch.collection).values()
            return sum(
                point.tombstone is tombstones and (not project_id or point.project_id == project_id) for point in points
            )

        return await self._qdrant.read(self._host, look)

    async def approximate_count(self, epoch: Epoch) -> int:
        return await self._qdrant.read(self._host, lambda: len(self._qdrant.collection(epoch.collection)))

    async def collect_tombstones(self, epoch: Epoch, *, older_than: datetime, limit: int) -> int:
        """`QdrantFacts.collect_tombstones`: found by a scroll, removed by a filter that repeats the condition."""
        age = (self._world.clock.now() - older_than).total_seconds()
        before = self._world.loop.time() - (age if self._world.on("collect.retention") else 0.0)

        def expired(point: StoredPoint) -> bool:
            return point.tombstone and point.deleted_at < before

        def look() -> list[str]:
            points = self._qdrant.collection(epoch.collection)
            return [each for each, point in points.items() if expired(point)][:limit]

        found = await self._qdrant.read(self._host, look)
        if found:
            await self._qdrant.write(self._host, lambda: self._collect(epoch, found, expired), what="collect")
        return len(found)

    def _collect(self, epoch: Epoch, found: Sequence[str], expired: Callable[[StoredPoint], bool]) -> bool:
        points = self._qdrant.collection(epoch.collection)
        for each in found:
            if each in points and (expired(points[each]) or not self._world.on("collect.condition")):
                self._qdrant.remove(epoch.collection, each)
        return True


class SimScanner:
    """PointScanner: a scroll by id, page by page, each page as the store is when it is read."""

    def __init__(self, qdrant: Qdrant, host: Host) -> None:
        self._qdrant = qdrant
        self._host = host

    async def scan(
        self, epoch: Epoch, *, buckets: Collection[int] | None = None
    ) -> AsyncIterator[Sequence[ScannedPoint]]:
        async for page in self._pages(epoch, buckets):
            yield [_scanned(each, point) for each, point in page]

    async def shares(
        self, epoch: Epoch, *, buckets: Collection[int] | None = None, as_epoch: int | None = None
    ) -> AsyncIterator[Shares]:
        async for page in self._pages(epoch, buckets):
            live = [share_of(point, as_epoch) for _, point in page if not point.tombstone]
            yield Shares(live=live, tombstone_count=len(page) - len(live))

    async def _pages(
        self, epoch: Epoch, buckets: Collection[int] | None
    ) -> AsyncIterator[Sequence[tuple[str, StoredPoint]]]:
        after = ""
        while True:
            await self._host.wait(self._qdrant.world.delay(self._qdrant.world.shape.scan_seconds))
            page = await self._qdrant.read(self._host, lambda: self._page(epoch, buckets, after))  # noqa: B023
            if page:
                self._qdrant.world.step(self._host.name, "scan", (epoch.number, len(page)))
                yield page
                after = page[-1][0]
            if len(page) < PAGE:
                return

    def _page(self, epoch: Epoch, buckets: Collection[int] | None, after: str) -> list[tuple[str, StoredPoint]]:
        points = self._qdrant.collection(epoch.collection)
        found = [
            (each, point)
            for each, point in points.items()
            if each > after and (buckets is None or point.bucket in buckets)
        ]
        return sorted(found)[:PAGE]


class SimEpochStore:
    """EpochStore: the catalogue under compare-and-swap, collections, the alias."""

    def __init__(self, qdrant: Qdrant, host: Host) -> None:
        self._qdrant = qdrant
        self._host = host
        self._writes = 0

    async def load(self) -> Catalogue:
        return await self._qdrant.read(self._host, lambda: self._qdrant.catalogue)

    async def replace(self, catalogue: Catalogue) -> bool:
        """`QdrantEpochStore.replace`: update_filter `revision < new`, then read who won."""
        qdrant = self._qdrant
        self._writes += 1
        writer = f"{self._host.name}:{self._writes}"

        def land() -> bool:
            if qdrant.catalogue.revision < catalogue.revision or not qdrant.world.on("epochs.compare_and_swap"):
                watch_catalogue(qdrant, catalogue)
                qdrant.catalogue, qdrant.writer = catalogue, writer
            return True

        await qdrant.write(self._host, land, what=f"catalogue {catalogue.revision}")
        stored, won = await qdrant.read(self._host, lambda: (qdrant.catalogue, qdrant.writer))
        if stored.empty:
            raise OutcomeUnknown.of("qdrant")
        return won == writer

    async def ensure_collection(self, epoch: Epoch) -> None:
        def land() -> bool:
            self._qdrant.collections.setdefault(epoch.collection, {})
            return True

        if not await self._qdrant.read(self._host, lambda: epoch.collection in self._qdrant.collections):
            await self._qdrant.write(self._host, land, what=f"create {epoch.collection}")

    async def serve(self, epoch: Epoch) -> None:
        def land() -> bool:
            self._qdrant.alias = epoch.collection
            return True

        if await self._qdrant.read(self._host, lambda: self._qdrant.alias) != epoch.collection:
            await self._qdrant.write(self._host, land, what=f"alias {epoch.collection}")

    async def drop_collection(self, epoch: Epoch) -> None:
        life = self._qdrant.lives

        def land() -> bool:
            # Points may still arrive after a restore, which is worse than it is; a drop does not.
            if life == self._qdrant.lives:
                self._qdrant.collections.pop(epoch.collection, None)
            return True

        await self._qdrant.write(self._host, land, what=f"drop {epoch.collection}")


class SimSearcher:
    """FactSearcher: all live points of the project. Vectors carry the number of their model."""

    def __init__(self, qdrant: Qdrant, host: Host) -> None:
        self._qdrant = qdrant
        self._host = host

    async def rank(
        self, epoch: Epoch, query: Query, *, dense: Vector | None, sparse: SparseVector | None, seconds: float
    ) -> Sequence[Ranked]:
        qdrant = self._qdrant

        def look() -> list[Ranked]:
            name = epoch.collection if qdrant.world.on("search.by_collection") else qdrant.alias
            points = qdrant.collection(name)
            live = [(each, p) for each, p in points.items() if p.project_id == query.project_id and not p.tombstone]
            for each, point in live:
                if dense and point.model and point.model != dense[0]:
                    qdrant.world.broken("a search compared vectors of two models", (each, epoch.number))
            return [Ranked(embedding_id=each, source_id=point.source_id, score=1.0) for each, point in live]

        return await qdrant.read(self._host, look)

    async def load(self, epoch: Epoch, places: Sequence[Ranked]) -> Sequence[Hit]:
        def look() -> list[Hit]:
            points = self._qdrant.collection(epoch.collection)
            found = [points[place.embedding_id] for place in places if place.embedding_id in points]
            return [
                Hit(
                    fact_id=FactId(point.fact_id),
                    source_id=point.source_id,
                    version=point.version,
                    score=1.0,
                    content=FactContent(statement=point.statement),
                )
                for point in found
                if not point.tombstone
            ]

        return await self._qdrant.read(self._host, look)


class SimEmbedder:
    """The gateway: `model-<n>` gives vectors that start with n and end with what the text means."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host

    async def embed(self, texts: Sequence[str], *, project_id: str, model: str, priority: int) -> Embedded:
        await self._host.proceed()
        await self._host.wait(self._world.delay(self._world.shape.embed_seconds))
        if self._world.happens(self._world.faults.embed_fails):
            raise Unavailable.of("llm_gateway")
        name = model or "model-1"
        number = float(name.rpartition("-")[2])
        vectors: list[Vector | ServiceError] = [
            TextRefused.of_reason("poison") if text.startswith(POISON) else array("f", (number, meaning(text)))
            for text in texts
        ]
        return Embedded(model=name, dimension=DIMENSION, vectors=vectors)


class NoWords:
    """SparseEncoder: this system has no words, only facts."""

    def document(self, text: str) -> SparseVector:
        return SparseVector(indices=(), values=())

    query = document


def meaning(text: str) -> float:
    """A number that single precision holds exactly."""
    return float(crc32(text.encode()) % 1_000_000)


def watch_catalogue(qdrant: Qdrant, new: Catalogue) -> None:
    if new.revision <= qdrant.catalogue.revision:
        qdrant.world.broken("a change of the epochs overwrote another one", (qdrant.catalogue.revision, new.revision))


def _point(write: PointWrite, epoch: Epoch, now: float) -> StoredPoint:
    intent = write.intent
    gone = intent.content is None
    return StoredPoint(
        fact_id=intent.fact_id,
        version=intent.version,
        content_hash=intent.content_hash,
        epoch=epoch.number,
        project_id=intent.project_id,
        source_id=intent.source_id,
        tombstone=gone,
        bucket=bucket_of(intent.fact_id),
        model=write.dense[0] if write.dense else 0.0,
        statement=intent.content.statement if intent.content else "",
        deleted_at=now if gone else 0.0,
    )


def share_of(point: StoredPoint, as_epoch: int | None = None) -> Share:
    """`payload.share_of`."""
    fact_id = FactId(point.fact_id)
    digest = point_digest(
        fact_id=fact_id,
        version=point.version,
        content_hash=point.content_hash,
        epoch=point.epoch if as_epoch is None else as_epoch,
        project_id=point.project_id,
    )
    return Share(bucket_of(fact_id), digest)


def _state(point: StoredPoint) -> PointState:
    return PointState(version=point.version, content_hash=point.content_hash, tombstone=point.tombstone)


def _scanned(embedding_id: str, point: StoredPoint) -> ScannedPoint:
    return ScannedPoint(
        embedding_id=embedding_id,
        fact_id=FactId(point.fact_id),
        version=point.version,
        content_hash=point.content_hash,
        epoch=point.epoch,
        project_id=point.project_id,
        source_id=point.source_id,
        tombstone=point.tombstone,
    )


def _intent(point: StoredPoint) -> Intent:
    return Intent(
        fact_id=FactId(point.fact_id),
        version=point.version,
        operation=Operation.DELETE if point.tombstone else Operation.UPSERT,
        project_id=point.project_id,
        source_id=point.source_id,
        content_hash=point.content_hash,
        content=None if point.tombstone else FactContent(statement=point.statement),
    )
