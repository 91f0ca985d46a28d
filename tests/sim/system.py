"""All of the system: two extractors, two indexers, the stores between them; and how it comes to rest."""

import asyncio
from collections.abc import Callable
from uuid import UUID

from services.extractor.domain.reconciliation import Run, RunRequest, RunState
from services.indexer.domain.epochs import EpochState
from services.shared.errors import ServiceError, Unavailable
from tests.sim.database import Database
from tests.sim.doubt_statements import compared, in_doubt
from tests.sim.extractor import Extractor
from tests.sim.host import Host
from tests.sim.indexer import LONGEST_FREEZE, LONGEST_WAY, Indexer
from tests.sim.observer import Observer
from tests.sim.qdrant import LATEST, Qdrant
from tests.sim.world import Faults, World

REPLICAS = 2
PATIENCE = 400.0
"""Seconds in which a calm system must have done all of its work."""

STEPS_TO_REST = 30_000


class System:
    def __init__(self, world: World) -> None:
        self.world = world
        self.database = Database(world)
        self.qdrant = Qdrant(world)
        self.observer = Observer(world, self.database, self.qdrant)
        self._born = 0
        self.indexers: list[Indexer] = []
        self.extractors: list[Extractor] = []
        for _ in range(REPLICAS):
            self.add_indexer()
            self.add_extractor()

    @property
    def hosts(self) -> list[Host]:
        return [each.host for each in (*self.extractors, *self.indexers)]

    def add_indexer(self) -> None:
        self._born += 1
        self.indexers.append(Indexer(self.world, self.qdrant, f"indexer-{self._born}"))
        self.indexers[-1].start()

    def add_extractor(self) -> None:
        self._born += 1
        name = f"extractor-{self._born}"
        self.extractors.append(Extractor(self.world, self.database, name, lambda: self.indexers))
        self.extractors[-1].start()

    async def crash(self, host: Host, *, back_after: float) -> None:
        """The process is gone, with its end of every stream; another one comes up later."""
        host.kill()
        for extractor in self.extractors:
            for stream in list(extractor.network.streams):
                if stream.server is host:
                    stream.cut()
        indexer = next((each for each in self.indexers if each.host is host), None)
        self.indexers = [each for each in self.indexers if each.host is not host]
        self.extractors = [each for each in self.extractors if each.host is not host]
        await asyncio.sleep(back_after)
        if indexer is not None:
            self.add_indexer()
        else:
            self.add_extractor()

    async def come_to_rest(self) -> None:
        """No more work and no more faults: everything must find its place by itself, or by one reconciliation."""
        self.world.faults = Faults()
        self.world.extend(STEPS_TO_REST)
        # A publication that had begun may still commit, and what was sent may still land.
        await asyncio.sleep(LONGEST_FREEZE + 2 * LATEST)
        await self._until("the outbox is empty", self._idle)
        if self.observer.tainted:
            await self._mend()
            await self._until("the outbox is empty after repairs", self._idle)
        else:
            await self._promote()
        self.observer.compare()
        run = await self._reconcile()
        if run is not None and (run.drift_counts or run.facts != run.points):
            self.world.broken("a reconciliation at rest found drift", dict(run.drift_counts))

    async def _mend(self) -> None:
        """A restored database is noticed and compared by itself; for a changed index the operator asks for a run."""
        if self.observer.index_tainted:
            await self._reconcile()
        else:
            await self._until("the restored database was compared", self._compared)

    def _compared(self) -> bool:
        """Whether the restore was noticed, and a run has ended well since that leaves the system without a doubt."""
        tables = self.database.committed
        noticed = tables.timeline == self.database.generation
        since = any(began > self.observer.restored_at for began in compared(tables))
        return noticed and since and not in_doubt(self.world, tables, settle=LONGEST_WAY)

    def _idle(self) -> bool:
        return not self.database.committed.outbox and self._running() is None

    def _running(self) -> Run | None:
        rows = self.database.committed.runs.values()
        return next((row.run for row in rows if row.run.state is RunState.RUNNING), None)

    async def _until(self, what: str, reached: Callable[[], bool]) -> None:
        deadline = self.world.loop.time() + PATIENCE
        while not reached() and not self.world.violation:
            if self.world.loop.time() > deadline or self.world.steps >= self.world.limit:
                outbox = self.database.committed.outbox
                self.world.broken(f"never at rest: {what}", [(str(key), row) for key, row in outbox.items()][:4])
                return
            await asyncio.sleep(0.5)

    async def _promote(self) -> None:
        """An epoch that is being built must become whole and open its gate."""
        building = [each for each in self.qdrant.catalogue.epochs if each.state is EpochState.BUILDING]
        deadline = self.world.loop.time() + PATIENCE
        for epoch in building:
            while not self.world.violation:
                try:
                    await self.indexers[0].switch.promote(epoch.number)
                    break
                except ServiceError as error:
                    if self.world.loop.time() > deadline:
                        self.world.broken("an epoch does not become whole", (epoch.number, error.message))
                await asyncio.sleep(1)

    async def _reconcile(self) -> Run | None:
        """A run that begins now and ends well."""
        extractor = self.extractors[0]
        mine: list[UUID] = []

        async def ask() -> None:
            while not mine and not self.world.violation:
                try:
                    run, under_way = await extractor.reconciliation.begin(RunRequest())
                except Unavailable:
                    continue
                if not under_way:
                    mine.append(run.run_id)
                await asyncio.sleep(0.5)

        def done() -> bool:
            row = self.database.committed.runs.get(mine[0]) if mine else None
            if row is not None and row.run.state is RunState.FAILED:
                mine.clear()
                extractor.host.spawn(ask(), name="ask")
            return row is not None and row.run.state is RunState.DONE

        extractor.host.spawn(ask(), name="ask")
        await self._until("the reconciliation is done", done)
        return self.database.committed.runs[mine[0]].run if mine and not self.world.violation else None
