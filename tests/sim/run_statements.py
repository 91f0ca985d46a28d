"""The statements of `adapters/postgres/reconciliations.py`: runs, the fact side of the comparison, repairs."""

# ruff: noqa: ARG002 - the signatures are those of the ports

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from services.extractor.domain.outbox import Operation
from services.extractor.domain.reconciliation import (
    EMPTY,
    Bucket,
    Drift,
    FactState,
    IdRange,
    Run,
    RunRequest,
    RunState,
    bucket_of,
    share,
)
from tests.sim.database import FactRow, OutboxRow, RunRow, Transaction, fact_state
from tests.sim.doubt_statements import compared, doubt_time, settled_time
from tests.sim.world import START


class RunStatements:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction
        self._world = transaction.world

    async def open(self, run_id: UUID, request: RunRequest, *, owner: str, lease: timedelta) -> tuple[Run | None, bool]:
        """_OPEN under the unique index of running runs, else _CURRENT."""
        transaction = self._transaction
        await transaction.statement("open run")
        tables = await transaction.lock()
        current = next((row.run for row in tables.runs.values() if row.run.state is RunState.RUNNING), None)
        if current is not None:
            return current, False
        run = Run(
            run_id=run_id,
            epoch=request.epoch,
            dry_run=request.dry_run,
            pace=request.pace,
            state=RunState.RUNNING,
            watermark=transaction.database.sequence,
            start_time=START + timedelta(seconds=transaction.now),
        )
        tables.runs[run_id] = RunRow(run, owner, transaction.now + lease.total_seconds())
        return run, True

    async def take_over(self, *, owner: str, lease: timedelta) -> Run | None:
        """_TAKE_OVER."""
        transaction = self._transaction
        await transaction.statement("take over run")
        tables = await transaction.lock()
        for run_id, row in tables.runs.items():
            if row.run.state is RunState.RUNNING and row.lease < transaction.now:
                tables.runs[run_id] = RunRow(row.run, owner, transaction.now + lease.total_seconds())
                return row.run
        return None

    async def notice_timeline(self) -> bool:
        """_NOTICE_TIMELINE, OUTRUN and _ABANDON."""
        transaction = self._transaction
        await transaction.statement("notice timeline")
        tables, database = await transaction.lock(), transaction.database
        if tables.timeline == database.generation or not self._world.on("restore.timeline"):
            return False
        tables.timeline, tables.noticed = database.generation, transaction.now
        database.raise_sequence(database.clock_micros())
        for run_id, row in tables.runs.items():
            if row.run.state is RunState.RUNNING:
                abandoned = replace(row.run, state=RunState.FAILED, end_time=self._world.clock.now())
                tables.runs[run_id] = row._replace(run=abandoned)
        return True

    async def due(self, *, period: timedelta, settle: timedelta) -> bool:
        """_DUE."""
        await self._transaction.statement("due")
        tables, now = self._transaction.tables, self._transaction.now
        settled = settled_time(self._world, tables, settle=settle)
        since = max(now - period.total_seconds(), settled if settled <= now else doubt_time(tables))
        return all(began < since for began in compared(tables))

    async def get(self, run_id: UUID) -> Run | None:
        """_GET."""
        await self._transaction.statement("get run")
        row = self._transaction.tables.runs.get(run_id)
        return row.run if row else None

    async def last(self) -> Run | None:
        """_LAST."""
        await self._transaction.statement("last run")
        done = [row.run for row in self._transaction.tables.runs.values() if row.run.state is RunState.DONE]
        return max(done, key=lambda run: run.start_time, default=None)

    async def advance(self, run: Run, *, owner: str, lease: timedelta) -> bool:
        """_ADVANCE."""
        transaction = self._transaction
        await transaction.statement("advance run", (run.next_bucket, run.state.name))
        tables = await transaction.lock()
        row = tables.runs.get(run.run_id)
        if row is None or row.owner != owner or row.run.state is not RunState.RUNNING:
            return False
        ended = None if run.state is RunState.RUNNING else self._world.clock.now()
        tables.runs[run.run_id] = RunRow(replace(run, end_time=ended), owner, transaction.now + lease.total_seconds())
        return True

    async def record(self, run_id: UUID, drifts: Sequence[Drift], *, repaired: set[UUID]) -> set[UUID]:
        """_RECORD."""
        found = [(str(drift.fact_id)[:8], drift.kind.name) for drift in drifts]
        await self._transaction.statement("record drifts", found)
        self._transaction.notes.append(("found", drifts))
        await self._transaction.lock()
        return {drift.fact_id for drift in drifts}

    async def digests(self, *, epoch: int, first: int, last: int) -> dict[int, Bucket]:
        """_DIGESTS, by the arithmetic of the domain."""
        await self._transaction.statement("digests", (first, last))
        found: dict[int, Bucket] = {}
        for key, row in self._transaction.tables.facts.items():
            bucket = bucket_of(key)
            if first <= bucket <= last:
                mine = share(fact_state(key, row), epoch=epoch)
                found[bucket] = found.get(bucket, EMPTY).plus(mine)
        return found

    async def facts_in(self, ranges: Sequence[IdRange]) -> dict[UUID, FactState]:
        """_FACTS."""
        await self._transaction.statement("facts in ranges")
        return {
            key: fact_state(key, row) for key, row in self._transaction.tables.facts.items() if _within(key, ranges)
        }

    async def pending_in(self, ranges: Sequence[IdRange]) -> frozenset[UUID]:
        """_PENDING."""
        await self._transaction.statement("pending in ranges")
        if not self._world.on("reconcile.pending"):
            return frozenset()
        tables = self._transaction.tables
        return frozenset(key for key in (*tables.outbox, *tables.dead) if _within(key, ranges))

    async def repair(self, drifts: Sequence[Drift], *, traceparent: str) -> set[UUID]:
        """_RAISE_VERSIONS, _REVISE and _BANISH."""
        transaction = self._transaction
        await transaction.statement("repair", [(str(drift.fact_id)[:8], drift.kind.name) for drift in drifts])
        tables = await transaction.lock()
        database = transaction.database
        if self._world.on("repair.above_index"):
            database.raise_sequence(max((drift.indexed_version for drift in drifts), default=0))
        repaired: set[UUID] = set()
        revised: list[Drift] = []
        for drift in drifts:
            row, held = self._revised(drift), tables.outbox.get(drift.fact_id)
            if row is None:
                continue
            revised.append(drift)
            if held is not None and row.operation == Operation.DELETE:
                continue
            if held is not None:
                row = held._replace(operation=row.operation, version=row.version)
            tables.outbox[drift.fact_id] = row
            repaired.add(drift.fact_id)
        transaction.notes.append(("repaired", [drift for drift in drifts if drift.fact_id in repaired]))
        transaction.notes.append(("revised", revised))
        return repaired

    def _revised(self, drift: Drift) -> OutboxRow | None:
        """What _REVISE and _BANISH state about one fact."""
        transaction, world = self._transaction, self._world
        tables, key = transaction.tables, drift.fact_id
        transaction.touched.add(key)
        fact = tables.facts.get(key)
        of: FactRow | None = None
        if fact is not None and (fact.version == drift.stored_version or not world.on("repair.version")):
            of = fact._replace(version=transaction.database.nextval(), embedding_id=None, embedding_epoch=None)
            tables.facts[key] = of
        elif drift.stored_version or (fact is not None and world.on("repair.ghost_is_absent")):
            return None
        owner = drift.fact or drift.point
        assert owner is not None
        version = of.version if of else transaction.database.nextval()
        return OutboxRow(
            int(Operation.UPSERT if of else Operation.DELETE),
            version,
            of.project_id if of else owner.project_id,
            of.source_id if of else owner.source_id,
            transaction.now,
            0,
            None,
            None,
            drift.stored_version,
        )


def _within(key: UUID, ranges: Sequence[IdRange]) -> bool:
    return any(low <= key <= high for low, high in ranges)
