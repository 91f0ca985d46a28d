"""How statements reach PostgreSQL: raw asyncpg on pooled connections.

`fetch` runs one statement as its own transaction, in one round trip, and `connect` any
number of such; `begin` opens a transaction for commands that need several. A connection that broke is thrown away, and
one that is found dead is never handed out, so that a restart of the server costs at
most the calls that were under way.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from services.scheduler.application.ports import StoreAway
from services.shared.database.engine import Database
from services.shared.database.failures import is_connection_lost, postgres_outage
from services.shared.errors import ResourceExhausted, ServiceError
from services.shared.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

# asyncpg ships no types; a record reads by position and by name.
Row = Any


class Connection(Protocol):
    """What the adapters use of an asyncpg connection."""

    async def fetch(self, query: str, *args: Any) -> list[Row]: ...

    async def fetchrow(self, query: str, *args: Any) -> Row | None: ...

    async def fetchval(self, query: str, *args: Any) -> Any: ...

    async def execute(self, query: str, *args: Any) -> str: ...

    def transaction(self) -> AbstractAsyncContextManager[None]: ...

    def is_closed(self) -> bool: ...


# The statistics of queue tables are always stale. Probing by key is right at every size, and a plan that never
# depends on them cannot turn bad at night.
_PLANNER = """
SET plan_cache_mode = force_generic_plan;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_seqscan = off;
SET jit = off;
"""


class Session:
    """Hands out connections that it keeps.

    A hot statement takes less time than a trip through the pool, so a connection stays
    here once it was opened. At most `concurrency` are in use at once; whoever waits
    longer than `patience` gets RESOURCE_EXHAUSTED. While the server cannot be reached,
    statements raise `StoreAway`; one that it gave up without fault of ours, `Unavailable`.
    """

    def __init__(self, database: Database, *, concurrency: int, patience: timedelta, metrics: Metrics) -> None:
        self._database = database
        self._concurrency = concurrency
        self._patience = patience.total_seconds()
        self._metrics = _SessionMetrics(metrics)
        self._reach = _Reach(metrics)
        self._slots = asyncio.Semaphore(concurrency)
        self._idle: list[_Kept] = []
        event.listen(database.engine.sync_engine, "connect", _configure)

    async def fetch(self, statement: str, *arguments: Any) -> list[Row]:
        """One statement, committed when this returns."""
        async with self.connect() as connection:
            return await connection.fetch(statement, *arguments)

    @asynccontextmanager
    async def begin(self) -> AsyncGenerator[Connection]:
        """A transaction: commits when the block ends, rolls back when it raises."""
        async with self.connect() as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().discard()

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Connection]:
        """A connection on which each statement is its own transaction."""
        await self._wait_for_slot()
        self._metrics.in_use.inc()
        try:
            kept = await self._take()
            try:
                yield kept.connection
            except BaseException as error:
                await self._put_back(kept, broken=not _is_refusal(error) or kept.connection.is_closed())
                raise
            await self._put_back(kept, broken=False)
            self._reach.answered()
        except Exception as error:
            if is_connection_lost(error):
                raise self._reach.lost(error) from error
            known = postgres_outage(error)
            if known is None:
                raise
            raise known from error
        finally:
            self._metrics.in_use.dec()
            self._slots.release()

    async def _wait_for_slot(self) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            self._metrics.wait.observe(0.0)
            return
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._patience):
                await self._slots.acquire()
        except TimeoutError as error:
            self._metrics.exhausted.inc()
            raise ResourceExhausted.of("server", self._concurrency, "all database connections are in use") from error
        finally:
            self._metrics.wait.observe(time.perf_counter() - started)

    async def _take(self) -> "_Kept":
        while self._idle:
            kept = self._idle.pop()
            if not kept.connection.is_closed():
                return kept
            await kept.discard()
        try:
            return await _Kept.open(self._database)
        except OSError as error:
            # Refused, but also no route, no such host, no answer in time.
            raise self._reach.lost(error) from error

    async def _put_back(self, kept: "_Kept", *, broken: bool) -> None:
        if broken:
            await kept.discard()
        else:
            self._idle.append(kept)


class _Kept:
    """A connection taken out of the pool for good."""

    def __init__(self, stack: AsyncExitStack, pooled: AsyncConnection, connection: Connection) -> None:
        self._stack = stack
        self._pooled = pooled
        self.connection = connection

    @classmethod
    async def open(cls, database: Database) -> "_Kept":
        async with AsyncExitStack() as stack:
            pooled = await stack.enter_async_context(database.connect())
            connection = await _driver(pooled)
            if connection.is_closed():
                await pooled.invalidate()
                connection = await _driver(pooled)
            return cls(stack.pop_all(), pooled, connection)

    async def discard(self) -> None:
        await self._pooled.invalidate()
        await self._stack.aclose()


class _SessionMetrics:
    def __init__(self, metrics: Metrics) -> None:
        self.in_use = metrics.gauge("scristill_scheduler_sql_in_use", "Connections that run a statement now.")
        self.wait = metrics.histogram(
            "scristill_scheduler_sql_wait_seconds",
            "Time that a statement waited for a connection.",
            buckets=(0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0),
        )
        self.exhausted = metrics.counter(
            "scristill_scheduler_sql_exhausted_total", "Statements that gave up waiting for a connection."
        )


class _Reach:
    """Says once that the server is away and once that it is back, however many statements find out."""

    def __init__(self, metrics: Metrics) -> None:
        self._away_since: float | None = None
        self._away = metrics.gauge(
            "scristill_scheduler_database_away", "1 from a lost connection to the next answer.", mode="livemax"
        )

    def lost(self, error: Exception) -> StoreAway:
        """Returns what to raise."""
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._away.set(1)
            logger.warning("database_away", error=str(error) or type(error).__name__)
        return StoreAway.of("postgresql")

    def answered(self) -> None:
        if self._away_since is not None:
            logger.info("database_back", away_seconds=round(time.monotonic() - self._away_since, 3))
            self._away_since = None
            self._away.set(0)


def _is_refusal(error: BaseException) -> bool:
    """Whether the server itself refused the statement, so that the connection is as good as before."""
    return isinstance(error, ServiceError) or (
        getattr(error, "sqlstate", None) is not None and not is_connection_lost(error)
    )


async def _driver(pooled: AsyncConnection) -> Connection:
    driver: Any = (await pooled.get_raw_connection()).driver_connection
    return driver


def _configure(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.run_async(_set_planner)


async def _set_planner(connection: Connection) -> None:
    await connection.execute(_PLANNER)
