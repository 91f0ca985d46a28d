"""The scheduler's PostgreSQL adapters on a database whose clock stands still until it is set.

The statements of the adapters ask `now()` and `clock_timestamp()` without a schema. Here
the search path puts functions of the same names first, which read a table: times can be
compared to the microsecond, and a clock can be set back.
"""

import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg

from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.session import Session
from services.scheduler.adapters.postgres.stores import Retention, Stores
from services.scheduler.domain.job import Job
from services.scheduler.domain.policy import Policies
from services.shared.database.engine import Database
from services.shared.telemetry.metrics import Metrics

_CLOCK = """
CREATE SCHEMA clock;
CREATE TABLE clock.reading (at timestamptz NOT NULL);
INSERT INTO clock.reading VALUES ('epoch');
CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM clock.reading';
CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS 'SELECT at FROM clock.reading';
"""
_SETTINGS = ("search_path = clock, pg_catalog", "synchronous_commit = off")
_AGEING = timedelta(seconds=300)


class Store(Stores):
    async def set_clock(self, at: datetime) -> None:
        await self.session.fetch("UPDATE clock.reading SET at = $1", at)

    async def jobs(self, job_ids: Sequence[str]) -> dict[str, Sequence[Job]]:
        """What is stored under each id: one job, unless something is wrong."""
        stored = await self.reading.get(job_ids)
        return {job_id: [job for job in stored if job.job_id == job_id] for job_id in job_ids}

    async def empty(self) -> None:
        await self.session.fetch("DELETE FROM scheduler.jobs")
        await self.session.fetch("DELETE FROM scheduler.ended_jobs")
        await self.session.fetch("DELETE FROM scheduler.paused_types")


def start_of_time() -> datetime:
    """A day after the present: limits of keys are born with the time of the real clock."""
    return datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)


@asynccontextmanager
async def open_store(url: str, policies: Policies) -> AsyncGenerator[Store]:
    await _prepare(url)
    metrics = Metrics()
    database = Database(url, concurrency=2, application_name="model", metrics=metrics)
    session = Session(database, concurrency=2, patience=timedelta(seconds=5), metrics=metrics)
    dispatch = Dispatch(replica_id=uuid.uuid4(), policies=policies, ageing=_AGEING)
    try:
        yield Store.on(session, dispatch, retention=Retention())
    finally:
        await session.close()
        await database.close()


async def _prepare(url: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(_CLOCK)
        name = await connection.fetchval("SELECT current_database()")
        for setting in _SETTINGS:
            await connection.execute(f"ALTER DATABASE {name} SET {setting}")
    finally:
        await connection.close()
