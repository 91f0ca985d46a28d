"""Partitions of ended jobs, and the tail of the change log."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from services.scheduler.adapters.postgres.session import Connection, Session

_AHEAD = 3
_NAME = "ended_jobs_%Y%m%d_%H%M"

# Traffic queues up behind whoever waits for a lock on the whole table.
BE_QUICK = "SET LOCAL lock_timeout = '2s'"

# One replica at a time; the others come back later.
TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('scristill.scheduler.partitions', 0))"

EXISTING = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'scheduler.ended_jobs'::regclass AND c.relname ~ '_[0-9]{8}_[0-9]{4}$'
"""

# The change log may be forgotten up to here: older than the retention, and below every running transaction.
TRIM = """
WITH old AS (
    SELECT xid, number FROM scheduler.job_changes
    WHERE change_time < now() - $1::interval AND xid < pg_snapshot_xmin(pg_current_snapshot())
    LIMIT 50000
),
gone AS (
    DELETE FROM scheduler.job_changes c USING old WHERE c.xid = old.xid AND c.number = old.number RETURNING c.xid
),
moved AS (
    UPDATE scheduler.change_horizon SET xid = newest.xid
    FROM (SELECT ((max(xid::text::bigint) + 1)::text)::xid8 AS xid FROM gone) newest
    WHERE newest.xid IS NOT NULL AND newest.xid > change_horizon.xid
)
SELECT count(*) FROM gone
"""


class PostgresUpkeep:
    def __init__(self, session: Session, *, span: timedelta, retention: timedelta, change_retention: timedelta) -> None:
        self._session = session
        self._span = span
        self._retention = retention
        self._change_retention = change_retention

    async def prepare_partitions(self) -> None:
        async with self._session.begin() as connection:
            await connection.execute(BE_QUICK)
            if not await connection.fetchval(TRY_LOCK):
                return
            existing = await _existing(connection)
            start = _floor(await connection.fetchval("SELECT now()"), self._span)
            for step in range(_AHEAD + 1):
                await self._create(connection, start + step * self._span, existing)

    async def drop_old_partitions(self) -> Sequence[str]:
        """A partition goes when its newest job is older than the retention."""
        async with self._session.begin() as connection:
            await connection.execute(BE_QUICK)
            if not await connection.fetchval(TRY_LOCK):
                return ()
            oldest = await connection.fetchval("SELECT now()") - self._retention
            old = [name for name in await _existing(connection) if _start(name) + self._span <= oldest]
            for name in old:
                await connection.execute(f"DROP TABLE scheduler.{name}")
        await self._session.fetch("DELETE FROM scheduler.ended_jobs_default WHERE end_time < $1", oldest)
        return old

    async def trim_changes(self) -> int:
        return (await self._session.fetch(TRIM, self._change_retention))[0][0]

    async def _create(self, connection: Connection, start: datetime, existing: set[str]) -> None:
        """Rows that went to the default partition meanwhile are moved, for they would forbid the new one."""
        name = start.strftime(_NAME)
        if name in existing:
            return
        end = start + self._span
        await connection.execute(
            f"CREATE TABLE scheduler.{name} (LIKE scheduler.ended_jobs INCLUDING ALL);"
            f"ALTER TABLE scheduler.{name} ADD CONSTRAINT span CHECK "
            f"(end_time >= '{start.isoformat()}' AND end_time < '{end.isoformat()}');"
            "LOCK TABLE scheduler.ended_jobs IN SHARE ROW EXCLUSIVE MODE"
        )
        await connection.execute(
            f"WITH moved AS (DELETE FROM scheduler.ended_jobs_default WHERE end_time >= $1 AND end_time < $2"
            f" RETURNING *) INSERT INTO scheduler.{name} SELECT * FROM moved",
            start,
            end,
        )
        await connection.execute(
            f"ALTER TABLE scheduler.ended_jobs ATTACH PARTITION scheduler.{name} "
            f"FOR VALUES FROM ('{start.isoformat()}') TO ('{end.isoformat()}');"
            f"ALTER TABLE scheduler.{name} DROP CONSTRAINT span"
        )


async def _existing(connection: Connection) -> set[str]:
    return {record[0] for record in await connection.fetch(EXISTING)}


def _floor(moment: datetime, span: timedelta) -> datetime:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return epoch + (moment - epoch) // span * span


def _start(name: str) -> datetime:
    return datetime.strptime(name, _NAME).replace(tzinfo=UTC)
