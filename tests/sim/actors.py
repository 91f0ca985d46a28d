"""Who keeps the system busy: publishers, searchers, operators; and the nemesis."""

import asyncio
from hashlib import sha256
from uuid import UUID

from services.extractor.domain import identity
from services.extractor.domain.outbox import Operation
from services.indexer.domain.consistency import Watermark
from services.indexer.domain.epochs import EpochState
from services.indexer.domain.fact import FactId
from services.indexer.domain.search import Query, SearchMode
from services.shared.errors import ServiceError, Unavailable
from tests.sim.database import Tables
from tests.sim.extractor import UnitOfWork
from tests.sim.fact_statements import NewFact
from tests.sim.host import Host
from tests.sim.index_ports import POISON
from tests.sim.indexer import LONGEST_FREEZE, Indexer
from tests.sim.qdrant import Image
from tests.sim.system import System

PROJECTS = [UUID(int=1 << 64), UUID(int=2 << 64)]
SOURCES = [(PROJECTS[number % 2], identity.source_id(PROJECTS[number % 2], f"doc-{number}")) for number in range(6)]
WORDS = ("north", "south", "east", "west")
IMAGES = 4


def _stated(tables: Tables, project: UUID) -> dict[UUID, tuple[int, bool]]:
    """What a search with a token must know of the facts of a project."""
    gone = {
        key: (row.version, False)
        for key, row in tables.outbox.items()
        if row.operation == Operation.DELETE and row.since is not None and row.project_id == project
    }
    live = {
        key: (row.version, True)
        for key, row in tables.facts.items()
        if row.project_id == project and key not in tables.dead
    }
    return gone | live


class Actors:
    """Each method is a task that goes on until the round is over."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._world = system.world
        self._calm = False
        self._locks = {source: asyncio.Lock() for _, source in SOURCES}
        self._epochs_asked = 1
        self._images: list[Image] = [system.qdrant.image()]

    def start(self) -> None:
        for number in range(3):
            self._world.spawn(self._publish(Host(self._world, f"publisher-{number}")), name="publisher")
        self._world.spawn(self._search(), name="searcher")
        self._world.spawn(self._replay(Host(self._world, "operator-letters")), name="replay")
        for number in range(2):
            self._world.spawn(self._switch_epochs(number), name="operator")
        self._world.spawn(self._nemesis(), name="nemesis")
        self._world.spawn(self._photograph(), name="backups")

    def stop(self) -> None:
        self._calm = True

    # -- work ----------------------------------------------------------------------

    async def _publish(self, host: Host) -> None:
        unit_of_work = UnitOfWork(self._system.database, host)
        while not self._calm:
            await asyncio.sleep(self._world.delay(self._world.shape.publish_seconds))
            project, source = self._world.rng.choice(SOURCES[: self._world.shape.sources])
            if not self._world.on("publish.source_lock"):
                await self._replace(unit_of_work, project, source)
                continue
            async with self._locks[source]:
                await self._replace(unit_of_work, project, source)

    async def _replace(self, unit_of_work: UnitOfWork, project: UUID, source: UUID) -> None:
        if self._calm:
            return
        rng = self._world.rng
        try:
            async with unit_of_work() as repositories:
                if rng.random() < 0.05:
                    await repositories.facts.delete([source])
                    return
                held = self._system.database.committed.facts
                facts = [
                    fact
                    for key in range(self._world.shape.keys)
                    if (fact := self._fact(identity.fact_id(source, "g", str(key)), held))
                ]
                await repositories.facts.replace(project, source, facts)
        except Unavailable:
            return
        for extractor in self._system.extractors:
            extractor.relay.wake()

    def _fact(self, fact_id: UUID, held: dict) -> NewFact | None:
        """Mostly as before; else new, gone, changed, or moved."""
        rng, row = self._world.rng, held.get(fact_id)
        dice = rng.random()
        if row is not None and dice < 0.6:
            return NewFact(fact_id, row.content_hash, row.statement)
        if row is not None and dice < 0.65:
            return NewFact(fact_id, row.content_hash, row.statement, moved=True)
        if dice > (0.8 if row is not None else self._world.shape.birth):
            return None
        words = POISON if self._world.happens(self._world.faults.poison) else rng.choice(WORDS)
        statement = f"{words} {fact_id}"
        return NewFact(fact_id, sha256(statement.encode()).digest(), statement)

    async def _search(self) -> None:
        while not self._calm:
            await asyncio.sleep(self._world.delay(0.4))
            if self._system.indexers:
                indexer = self._world.rng.choice(self._system.indexers)
                await asyncio.wait({indexer.host.spawn(self._search_once(indexer), name="search")})

    async def _search_once(self, indexer: Indexer) -> None:
        project = self._world.rng.choice(PROJECTS)
        observer = self._system.observer
        since, then = dict(observer.acknowledged), self._system.database.committed
        watermark: Watermark | None = None
        try:
            if self._world.happens(self._world.shape.tokens):
                watermark, then = await self._token(project)
                since |= _stated(then, project)
            query = Query(project_id=str(project), text="north", mode=SearchMode.DENSE, limit=100, watermark=watermark)
            page = await indexer.search(query)
        except ServiceError:
            return
        self._world.step(indexer.host.name, "search", (page.epoch, len(page.hits)))
        observer.saw(list(page.hits), epoch=page.epoch, project=project, since=since, then=then)

    async def _token(self, project: UUID) -> tuple[Watermark, Tables]:
        """A token, and what is committed when it is given out."""
        unit_of_work = UnitOfWork(self._system.database, Host(self._world, "reader"))
        async with unit_of_work() as repositories:
            marker = identity.marker_id(project)
            version = await repositories.markers.issue(project, marker=marker)
            then = self._system.database.committed
        for extractor in self._system.extractors:
            extractor.relay.wake()
        return Watermark(marker=FactId(str(marker)), version=version), then

    async def _replay(self, host: Host) -> None:
        unit_of_work = UnitOfWork(self._system.database, host)
        while not self._calm:
            await asyncio.sleep(self._world.delay(6))
            dead = sorted(self._system.database.committed.dead)
            if dead and not self._calm:
                try:
                    async with unit_of_work() as repositories:
                        await repositories.outbox.replay(dead[:2], traceparent="")
                except Unavailable:
                    continue

    async def _switch_epochs(self, operator: int) -> None:
        while not self._calm:
            await asyncio.sleep(self._world.delay(self._world.shape.operator_seconds))
            if self._system.indexers and not self._calm:
                indexer = self._world.rng.choice(self._system.indexers)
                await asyncio.wait({indexer.host.spawn(self._transition(indexer, operator), name="operator")})

    async def _transition(self, indexer: Indexer, operator: int) -> None:
        epochs = self._system.qdrant.catalogue.epochs
        others = [epoch for epoch in epochs if epoch.state in (EpochState.BUILDING, EpochState.RETIRING)]
        dice, switch = self._world.rng.random(), indexer.switch
        try:
            if not others or dice < 0.25:
                self._epochs_asked += 1
                number = self._epochs_asked
                self._world.step(indexer.host.name, "create epoch", number)
                await switch.create(model=f"model-{number}", request_id=f"{operator}:{number}")
                return
            epoch = self._world.rng.choice(others)
            retire = epoch.state is EpochState.RETIRING and dice < 0.7
            self._world.step(indexer.host.name, "drop epoch" if retire else "promote epoch", epoch.number)
            await (switch.drop(epoch.number) if retire else switch.promote(epoch.number))
        except ServiceError as error:
            self._world.step(indexer.host.name, "epoch unchanged", error.message)

    # -- faults --------------------------------------------------------------------

    async def _photograph(self) -> None:
        """Copies of the index to which it may be restored; the first one is empty."""
        while not self._calm:
            await asyncio.sleep(5)
            self._images = [*self._images[-IMAGES:], self._system.qdrant.image()]

    async def _nemesis(self) -> None:
        while not self._calm:
            await asyncio.sleep(self._world.delay(2.5))
            if self._calm:
                return
            faults, system = self._world.faults, self._system
            if self._world.happens(faults.crash):
                host = self._world.rng.choice(system.hosts) if system.hosts else None
                if host is not None:
                    self._world.spawn(system.crash(host, back_after=self._world.delay(1.5)), name="crash")
            if self._world.happens(faults.freeze) and system.hosts:
                self._world.rng.choice(system.hosts).freeze(self._world.rng.uniform(0.5, LONGEST_FREEZE))
            if self._world.happens(faults.qdrant_away):
                system.qdrant.away_until = self._world.loop.time() + self._world.delay(2)
                self._world.step("qdrant", "away")
            if self._world.happens(faults.postgres_away):
                system.database.away_until = self._world.loop.time() + self._world.delay(2)
                self._world.step("postgres", "away")
            if self._world.happens(faults.cut_stream) and system.extractors:
                for stream in self._world.rng.choice(system.extractors).network.streams:
                    stream.drain()
            self._restore()

    def _restore(self) -> None:
        faults, system = self._world.faults, self._system
        if self._world.happens(faults.restore_qdrant):
            system.qdrant.restore(self._world.rng.choice(self._images))
            system.observer.index_changed()
        if self._world.happens(faults.restore_postgres):
            system.database.restore(self._world.rng.randint(1, 40))
            system.observer.database_restored()
        if self._world.happens(faults.damage):
            self._damage()

    def _damage(self) -> None:
        """One point is not what it should be: the six kinds of drift."""
        qdrant, rng = self._system.qdrant, self._world.rng
        places = [(name, each) for name, points in qdrant.collections.items() for each in points]
        if not places:
            return
        name, each = rng.choice(sorted(places))
        point = qdrant.collections[name][each]
        kind = rng.choice(["missing", "stale", "ghost", "epoch", "payload", "project"])
        self._world.step("qdrant", "damage", (kind, name, point.fact_id, point.version))
        changed = {
            "stale": point._replace(version=max(1, point.version - 2)),
            "ghost": point._replace(tombstone=False),
            "epoch": point._replace(epoch=point.epoch + 7),
            "payload": point._replace(content_hash=bytes(31) + b"x"),
            "project": point._replace(project_id=str(UUID(int=9))),
        }
        if kind == "missing":
            del qdrant.collections[name][each]
        else:
            qdrant.collections[name][each] = changed[kind]
        self._system.observer.index_changed()
