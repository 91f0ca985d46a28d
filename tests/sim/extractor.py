"""One replica of the extractor as far as the index goes: relay, reconciliation, orphans; wired as in its bootstrap."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID

from services.extractor.application.fact_relay import FactRelay, RelaySettings
from services.extractor.application.index_watch import IndexWatch
from services.extractor.application.reconcile import Reconciler
from services.extractor.application.settle import SettleFacts
from services.extractor.entrypoints.reconciliation_loop import ReconciliationLoop
from tests.sim.database import Database
from tests.sim.fact_statements import FactStatements
from tests.sim.host import Host
from tests.sim.indexer import LONGEST_WAY, Audit, Indexer, Nothing
from tests.sim.marker_statements import MarkerStatements
from tests.sim.outbox_statements import OutboxStatements
from tests.sim.run_statements import RunStatements
from tests.sim.stream import Network
from tests.sim.witness_statements import WitnessStatements
from tests.sim.world import World

LEASE = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repositories:
    facts: FactStatements
    outbox: OutboxStatements
    reconciliations: RunStatements
    markers: MarkerStatements
    witnesses: WitnessStatements
    savepoint: Callable[[], AbstractAsyncContextManager[None]] = nullcontext


class UnitOfWork:
    def __init__(self, database: Database, host: Host) -> None:
        self._database = database
        self._host = host

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Any]:
        async with self._database.begin(self._host) as transaction:
            yield Repositories(
                facts=FactStatements(transaction),
                outbox=OutboxStatements(transaction),
                reconciliations=RunStatements(transaction),
                markers=MarkerStatements(transaction),
                witnesses=WitnessStatements(transaction),
            )


class Extractor:
    def __init__(self, world: World, database: Database, name: str, indexers: Callable[[], Sequence[Indexer]]) -> None:
        self.host = Host(world, name)
        host, rng = self.host, Random(world.rng.random())
        unit_of_work = UnitOfWork(database, host)
        self.network = Network(world, host, lambda: [(each.host, each.intake) for each in indexers()])

        def lost() -> None:
            self.reconciliation.look_now()

        index = Audit(world, host, indexers)
        watch = IndexWatch(
            unit_of_work=unit_of_work,
            index=index,
            on_loss=lost,
            metrics=Nothing(),
        )
        self.reconciliation = ReconciliationLoop(
            reconciler=Reconciler(
                unit_of_work=unit_of_work,
                index=index,
                wake=lambda _: self.relay.wake(),
                new_id=lambda: UUID(int=world.rng.getrandbits(128)),
                owner=name,
                metrics=Nothing(),
            ),
            unit_of_work=unit_of_work,
            watch=watch,
            wake=lambda _: self.relay.wake(),
            period=timedelta(seconds=world.shape.period_seconds),
            settle=LONGEST_WAY,
            orphan_after=timedelta(seconds=20),
            pace=0,
            look=timedelta(seconds=world.shape.look_seconds),
        )
        self.relay = FactRelay(
            unit_of_work=unit_of_work,
            indexer=self.network,
            settle=SettleFacts(unit_of_work=unit_of_work, owner=name, rng=rng),
            watch=watch,
            settings=RelaySettings(
                owner=name,
                batch_size=5,
                max_in_flight=16,
                lease=LEASE,
                poll=timedelta(seconds=1),
                send_vectors=world.shape.send_vectors,
                settle=LONGEST_WAY,
            ),
            rng=rng,
            metrics=Nothing(),
        )

    def start(self) -> None:
        stop = asyncio.Event()
        self.host.spawn(self.relay.run(stop), name="relay")
        self.host.spawn(self.reconciliation.run(stop), name="reconciliation")
