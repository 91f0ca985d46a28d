"""PostgreSQL as the protocol sees it: committed tables, transactions, one sequence, points in time to go back to.

Rows are immutable, so a snapshot is a copy of dictionaries. Readers see what is committed when their
statement runs (READ COMMITTED). Writers are one at a time from their first writing statement to
their end, as if all their rows were contended; what they wrote is seen by nobody before the commit.
`now()` is the time at which the transaction began. The sequence is outside of transactions.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any, NamedTuple
from uuid import UUID

from services.extractor.domain.outbox import KeptVector, Witness
from services.extractor.domain.reconciliation import FactState, Run
from services.shared.errors import OutcomeUnknown, Unavailable
from tests.sim.host import Host
from tests.sim.world import World

HISTORY = 60
RESTORE_SECONDS = 0.3
"""How long a restore takes the server away: less than a relay holds on to what it has in flight."""

MICROSECONDS = 1_000_000


class FactRow(NamedTuple):
    project_id: UUID
    source_id: UUID
    version: int
    content_hash: bytes
    statement: str
    embedding_id: UUID | None
    embedding_epoch: int | None
    time: float


def fact_state(key: UUID, row: FactRow) -> FactState:
    """The columns that are compared."""
    return FactState(
        fact_id=key,
        project_id=row.project_id,
        source_id=row.source_id,
        version=row.version,
        content_hash=row.content_hash,
    )


class OutboxRow(NamedTuple):
    operation: int
    version: int
    project_id: UUID
    source_id: UUID
    due: float
    attempts: int
    owner: str | None
    token: UUID | None
    since: int | None
    """From which version on the fact waits; None for a marker."""
    away: bool = False


class MarkerRow(NamedTuple):
    marker: UUID
    issued: int
    sent: int
    resend: bool = False


class DeadRow(NamedTuple):
    operation: int
    version: int
    project_id: UUID
    source_id: UUID


class RunRow(NamedTuple):
    run: Run
    owner: str
    lease: float


class Tables:
    """`noticed` and `suspected`: when the timeline last changed, and when the index was last found ahead or lacking."""

    __slots__ = (
        "dead",
        "facts",
        "markers",
        "noticed",
        "outbox",
        "runs",
        "suspected",
        "timeline",
        "vectors",
        "witnesses",
    )

    def __init__(
        self,
        *,
        facts: dict[UUID, FactRow] | None = None,
        outbox: dict[UUID, OutboxRow] | None = None,
        dead: dict[UUID, DeadRow] | None = None,
        runs: dict[UUID, RunRow] | None = None,
        markers: dict[UUID, MarkerRow] | None = None,
        timeline: int = 1,
        noticed: float = -inf,
        suspected: float = -inf,
        vectors: dict[UUID, dict[str, KeptVector]] | None = None,
        witnesses: dict[tuple[int, str], Witness] | None = None,
    ) -> None:
        self.facts = facts or {}
        self.outbox = outbox or {}
        self.dead = dead or {}
        self.runs = runs or {}
        self.markers = markers or {}
        self.timeline = timeline
        self.noticed = noticed
        self.suspected = suspected
        self.vectors = vectors or {}
        self.witnesses = witnesses or {}

    def copy(self) -> "Tables":
        return Tables(
            facts=dict(self.facts),
            outbox=dict(self.outbox),
            dead=dict(self.dead),
            runs=dict(self.runs),
            markers=dict(self.markers),
            timeline=self.timeline,
            noticed=self.noticed,
            suspected=self.suspected,
            vectors=dict(self.vectors),
            witnesses=dict(self.witnesses),
        )


class Point(NamedTuple):
    """A point in time to which the database can be restored."""

    tables: Tables
    sequence: int


class Database:
    """`watch` sees every commit: the tables before and after, and the facts that it touched."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.committed = Tables()
        self.previous = self.committed
        self.sequence = 0
        self.generation = 1
        """The server's own timeline, which a restore moves on."""
        self.away_until = 0.0
        self.history: deque[Point] = deque([Point(self.committed, 0)], maxlen=HISTORY)
        self.watch: Callable[[Transaction, Tables, Tables], None] = lambda *_: None
        self.writing = asyncio.Lock()

    def nextval(self) -> int:
        self.sequence += 1
        return self.sequence

    def raise_sequence(self, floor: int) -> None:
        """`setval(…, greatest(nextval(…), floor))`."""
        self.sequence = max(self.nextval(), floor)

    def clock_micros(self) -> int:
        return int(self.world.clock.now().timestamp() * MICROSECONDS)

    def commit(self, transaction: "Transaction", after: Tables) -> None:
        before, self.previous, self.committed = self.committed, self.committed, after
        if transaction.touched:
            self.history.append(Point(after, self.sequence))
        self.watch(transaction, before, after)

    def restore(self, commits: int) -> None:
        """Goes back so many commits, the sequence too. Whoever has a transaction open loses it."""
        point = self.history[-min(commits, len(self.history) - 1) - 1]
        self.world.step("postgres", "restore", f"{commits} commits back, versions from {point.sequence + 1}")
        self.away_until = self.world.loop.time() + RESTORE_SECONDS
        self.committed = self.previous = point.tables
        self.sequence = point.sequence
        self.generation += 1
        self.history = deque([point], maxlen=HISTORY)

    @asynccontextmanager
    async def begin(self, host: Host) -> AsyncGenerator["Transaction"]:
        transaction = Transaction(self, host)
        try:
            await transaction.connect()
            yield transaction
            await transaction.commit()
        finally:
            transaction.release()


class Transaction:
    """A connection with an open transaction. `tables` are to be read at once, without an await in between."""

    def __init__(self, database: Database, host: Host) -> None:
        self.database = database
        self.world = database.world
        self.host = host
        self.generation = database.generation
        self.now = self.world.loop.time()
        self.touched: set[UUID] = set()
        self.notes: list[tuple[str, Any]] = []
        self._work: Tables | None = None
        self._locked = False

    @property
    def tables(self) -> Tables:
        """The transaction's own writes over what is committed."""
        return self._work if self._work is not None else self.database.committed

    async def connect(self) -> None:
        await self.host.proceed()
        await asyncio.sleep(self.world.delay(0.001))
        self.now = self.world.loop.time()
        self.generation = self.database.generation
        self._require_server()

    async def statement(self, name: str, subject: object = "") -> None:
        """The way to the server; when it returns, the statement runs."""
        if self.host.dead:
            raise asyncio.CancelledError
        await asyncio.sleep(self.world.delay(self.world.shape.statement_seconds))
        if self.host.dead:
            raise asyncio.CancelledError
        self._require_server()
        if self.world.happens(self.world.faults.statement_fails):
            self.world.step(self.host.name, f"{name} fails")
            raise Unavailable.of("postgresql")
        self.world.step(self.host.name, name, subject)

    async def lock(self) -> Tables:
        """Waits for other writers; from here to the end this transaction writes alone."""
        if self._work is None:
            await self.database.writing.acquire()
            self._locked = True
            if self.host.dead:
                raise asyncio.CancelledError
            self._require_server()
            self._work = self.database.committed.copy()
        return self._work

    async def commit(self) -> None:
        if self._work is None:
            return
        await asyncio.sleep(self.world.delay(0.002))
        if self.host.dead:
            raise asyncio.CancelledError
        self._require_server()
        unknown = self.world.happens(self.world.faults.commit_unknown)
        if unknown and self.world.happens(0.5):
            self.world.step(self.host.name, "commit lost on the way there")
            raise OutcomeUnknown.of("postgresql")
        self.world.step(self.host.name, "commit lost on the way back" if unknown else "commit")
        work, self._work = self._work, None
        self.database.commit(self, work)
        self.release()
        if unknown:
            raise OutcomeUnknown.of("postgresql")
        await self.host.proceed()

    def release(self) -> None:
        if self._locked:
            self._locked = False
            self._work = None
            self.database.writing.release()

    def _require_server(self) -> None:
        if self.database.away_until > self.world.loop.time() or self.generation != self.database.generation:
            raise Unavailable.of("postgresql")
