"""The engine of one process: a pool sized from its concurrency, measured at its one door.

Rule: a process that runs at most `concurrency` transactions at once gets `concurrency`
connections plus two (health checks and maintenance loops), and no overflow, so that
`replicas x workers x (concurrency + 2)` is what PostgreSQL must allow. Waiting for a
connection is measured; giving up after `POOL_WAIT_SECONDS` is counted, and ends as
RESOURCE_EXHAUSTED.
"""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import orjson
from sqlalchemy import event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.shared.errors import ResourceExhausted
from services.shared.telemetry.metrics import Metrics

POOL_WAIT_SECONDS = 10.0

_SPARE_CONNECTIONS = 2
_RECYCLE_SECONDS = 1800
_WAIT_BUCKETS = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)


def pool_size(concurrency: int) -> int:
    return concurrency + _SPARE_CONNECTIONS


class Database:
    """The pool of one process. Everything takes its connections here, in `connect`."""

    def __init__(
        self,
        url: str,
        *,
        concurrency: int,
        application_name: str,
        metrics: Metrics,
        statement_timeout: timedelta = timedelta(seconds=30),
        idle_in_transaction_timeout: timedelta = timedelta(seconds=60),
        pool_wait: float = POOL_WAIT_SECONDS,
    ) -> None:
        self._size = pool_size(concurrency)
        self._metrics = _PoolMetrics(metrics, application_name, self._size)
        self.engine: AsyncEngine = create_async_engine(
            async_url(url),
            pool_size=self._size,
            max_overflow=0,
            pool_timeout=pool_wait,
            pool_recycle=_RECYCLE_SECONDS,
            pool_pre_ping=False,
            json_deserializer=orjson.loads,
            connect_args={
                "timeout": 10,
                "server_settings": {
                    "application_name": application_name,
                    "statement_timeout": _milliseconds(statement_timeout),
                    "idle_in_transaction_session_timeout": _milliseconds(idle_in_transaction_timeout),
                },
            },
        )
        event.listen(self.engine.sync_engine, "checkout", self._metrics.checked_out)
        event.listen(self.engine.sync_engine, "checkin", self._metrics.checked_in)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[AsyncConnection]:
        """A pooled connection without a transaction of its own; prefer `unit_of_work`."""
        connection = self.engine.connect()
        started = time.perf_counter()
        try:
            await connection.start()
        except PoolTimeoutError as error:
            self._metrics.exhausted.inc()
            raise ResourceExhausted.of("server", self._size, "all database connections are in use") from error
        finally:
            self._metrics.wait.observe(time.perf_counter() - started)
        try:
            yield connection
        finally:
            await connection.close()

    async def close(self) -> None:
        await self.engine.dispose()


class _PoolMetrics:
    def __init__(self, metrics: Metrics, pool: str, size: int) -> None:
        metrics.gauge("scristill_database_pool_size", "Connections that the pool may hold.", labels=("pool",)).labels(
            pool
        ).set(size)
        self._in_use = metrics.gauge(
            "scristill_database_pool_checked_out", "Connections in use.", labels=("pool",)
        ).labels(pool)
        self.wait = metrics.histogram(
            "scristill_database_pool_wait_seconds",
            "Time to get a connection.",
            labels=("pool",),
            buckets=_WAIT_BUCKETS,
        ).labels(pool)
        self.exhausted = metrics.counter(
            "scristill_database_pool_exhausted_total",
            "Requests for a connection that gave up waiting.",
            labels=("pool",),
        ).labels(pool)

    def checked_out(self, *_event: Any) -> None:
        self._in_use.inc()

    def checked_in(self, *_event: Any) -> None:
        self._in_use.dec()


def async_url(url: str) -> str:
    """`postgresql://…` as the asyncpg dialect wants it."""
    return make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)


def _milliseconds(duration: timedelta) -> str:
    return str(round(duration.total_seconds() * 1000))
