"""One replica of the indexer: the production use cases, wired as in `services/indexer/bootstrap.py`."""

# ruff: noqa: ARG002 - the signatures are those of the ports

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

from services.extractor.domain.reconciliation import EMPTY, Bucket, PointState
from services.indexer.application.apply_intents import ApplyIntents
from services.indexer.application.await_watermark import AwaitWatermark
from services.indexer.application.backfill import Backfill
from services.indexer.application.collect_tombstones import TombstoneCollector
from services.indexer.application.epochs import Epochs
from services.indexer.application.inspect_index import InspectIndex
from services.indexer.application.intake import Intake
from services.indexer.application.search_facts import SearchFacts
from services.indexer.application.switch_epochs import SwitchEpochs
from services.indexer.application.vectors import Vectorizer
from services.indexer.domain.epochs import Catalogue
from services.indexer.domain.fact import Intent
from services.indexer.domain.outcome import Ack
from services.shared.errors import Code, RemoteError, ServiceError
from tests.sim.host import Host
from tests.sim.index_ports import NoWords, SimEmbedder, SimEpochStore, SimFacts, SimScanner, SimSearcher
from tests.sim.qdrant import LATEST, Qdrant
from tests.sim.world import World

VIEW_SECONDS = 1.5
LONGEST_FREEZE = 8.0
LONGEST_WAY = timedelta(seconds=6 * LONGEST_FREEZE + 2 * LATEST)
"""An intent is held by a relay, an indexer and the network at most so long, each with its own standstill."""
RETENTION = 2 * LONGEST_WAY
"""After a restore the index may hold a deletion that the database does not know: the comparison that ends the doubt
must still find its tombstone, and begins no earlier than `LONGEST_WAY` later."""


class Nothing:
    """Metrics that count nothing."""

    def __getattr__(self, _: str) -> Any:
        return self

    def __call__(self, *_: object, **__: object) -> Any:
        return self


class OneView:
    """Epochs as an apply that looks only once would see them: the guard `apply.looks_again`, removed."""

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self._views: dict[object, Catalogue] = {}

    async def view(self) -> Catalogue:
        task = asyncio.current_task()
        if task not in self._views:
            self._views[task] = await self._epochs.view()
        return self._views[task]

    def forget(self) -> None:
        self._epochs.forget()


class Indexer:
    def __init__(self, world: World, qdrant: Qdrant, name: str) -> None:
        self.host = Host(world, name)
        self._world = world
        host, clock = self.host, world.clock
        embedder = SimEmbedder(world, host)
        store, facts, scanner = SimEpochStore(qdrant, host), SimFacts(qdrant, host), SimScanner(qdrant, host)
        self.epochs = Epochs(
            store=store, embedder=embedder, clock=clock, name=self._name, model="model-1", view_seconds=VIEW_SECONDS
        )
        vectorizer = Vectorizer(embedder, batch_size=4, concurrency=2)
        epochs: Any = self.epochs if world.on("apply.looks_again") else OneView(self.epochs)
        self._apply = ApplyIntents(epochs=epochs, facts=facts, vectorizer=vectorizer, sparse=NoWords())
        self.intake = Intake(
            self._apply_watched,
            metrics=Nothing(),
            batch_size=6,
            linger=timedelta(milliseconds=3),
            concurrency=2,
            max_pending=200,
        )
        self.inspect = InspectIndex(epochs=self.epochs, facts=facts, scanner=scanner, clock=clock)
        self.switch = SwitchEpochs(
            epochs=self.epochs,
            store=store,
            scanner=scanner,
            clock=clock,
            name=self._name,
            settle_seconds=2 * VIEW_SECONDS if world.on("promote.settled") else 0.0,
        )
        self.search = SearchFacts(
            epochs=self.epochs,
            searcher=SimSearcher(qdrant, host),
            vectorizer=vectorizer,
            sparse=NoWords(),
            await_watermark=AwaitWatermark(facts),
            timeout_seconds=5.0,
        )
        self._backfill = Backfill(
            epochs=self.epochs,
            facts=facts,
            scanner=scanner,
            apply=self._apply,
            rng=Random(world.rng.random()),
            interval_seconds=0.8,
            copied=Nothing(),
        )
        self._collector = TombstoneCollector(
            epochs=self.epochs,
            facts=facts,
            clock=clock,
            retention=RETENTION,
            interval=timedelta(seconds=5),
            metrics=Nothing(),
        )

    def start(self) -> None:
        stop = asyncio.Event()
        self.host.spawn(self._serve(), name="intake")
        self.host.spawn(self.epochs.run(stop), name="epochs")
        self.host.spawn(self._backfill.run(stop), name="backfill")
        self.host.spawn(self._collector.run(stop), name="collector")

    def _name(self, number: int) -> str:
        unique = self._world.on("epochs.names_are_unique")
        return f"facts_e{number}_{self._world.rng.getrandbits(32):08x}" if unique else f"facts_e{number}"

    async def _serve(self) -> None:
        async with self.intake:
            await asyncio.Event().wait()

    async def _apply_watched(self, intents: Sequence[Intent]) -> list[Ack]:
        """The intake answers a fault with RETRY; here it is one."""
        try:
            return await self._apply(intents)
        except Exception as error:
            self._world.broken("unexpected exception", repr(error))
            raise


class Audit:
    """Port `IndexAudit` of an extractor: `entrypoints/indexer_servicer.py` of some replica, without the bytes."""

    def __init__(self, world: World, client: Host, servers: "Any") -> None:
        self._world = world
        self._client = client
        self._servers = servers

    async def digests(self, *, epoch: int, first: int, last: int, pace: int) -> tuple[int, dict[int, Bucket]]:
        inspect = await self._replica()
        try:
            found = await inspect.digests(epoch=epoch, first=first, last=last, max_points_per_second=0)
        except ServiceError as error:
            raise _remote(error) from error
        rows = (
            (row.bucket, Bucket(digest=int.from_bytes(row.digest), count=row.point_count))
            for row in found.table.rows(first, last)
        )
        return found.epoch, {bucket: value for bucket, value in rows if value != EMPTY}

    async def points(self, *, epoch: int, buckets: Sequence[int]) -> AsyncIterator[Sequence[PointState]]:
        inspect = await self._replica()
        try:
            async for page in inspect.points(epoch=epoch, buckets=buckets):
                yield [_point(point) for point in page]
        except ServiceError as error:
            raise _remote(error) from error

    async def _replica(self) -> InspectIndex:
        await self._client.proceed()
        await self._client.wait(self._world.delay(0.002))
        up = [indexer for indexer in self._servers() if not indexer.host.dead]
        if not up:
            raise RemoteError(peer="indexer", code=Code.UNAVAILABLE, message="no replica")
        return self._world.rng.choice(up).inspect


def _point(point: Any) -> PointState:
    return PointState(
        fact_id=UUID(point.fact_id),
        project_id=UUID(point.project_id),
        source_id=UUID(point.source_id),
        version=point.version,
        content_hash=point.content_hash,
        epoch=point.epoch,
        tombstone=point.tombstone,
    )


def _remote(error: ServiceError) -> RemoteError:
    metadata: Mapping[str, str] = error.metadata
    return RemoteError(
        peer="indexer", code=error.code, message=error.message, reason=error.reason, metadata=dict(metadata)
    )
