"""The change log: what happened to which jobs, in commit order, without a lock on writers.

A position is a transaction id. Only rows of transactions older than every one that still
runs are read, so that nothing can appear behind a reader. The log costs one row per
batch, not per job.
"""

from uuid import UUID

from services.scheduler.adapters.postgres.control import deleted_jobs
from services.scheduler.adapters.postgres.session import Session
from services.scheduler.application.ports import Change, Changes

POSITION = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"

OLDEST = "SELECT xid::text::bigint FROM scheduler.change_horizon"

READ = """
SELECT b.barrier::text::bigint AS barrier, h.xid::text::bigint AS oldest, c.*
FROM (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS barrier) b
CROSS JOIN scheduler.change_horizon h
LEFT JOIN LATERAL (
    SELECT c.xid::text::bigint AS position, c.number, c.replica_id, c.job_ids, c.states, c.deleted::text AS deleted,
        extract(epoch FROM clock_timestamp() - c.change_time)::float8 AS age
    FROM scheduler.job_changes c
    WHERE c.xid >= $1::text::xid8 AND c.xid < b.barrier AND ($3::uuid IS NULL OR c.replica_id <> $3)
    ORDER BY c.xid FETCH FIRST $2 ROWS WITH TIES
) c ON true
ORDER BY c.position, c.number
"""


class PostgresChangeLog:
    def __init__(self, session: Session, *, replica_id: UUID) -> None:
        self._session = session
        self._replica_id = replica_id

    async def position(self) -> int:
        return (await self._session.fetch(POSITION))[0][0]

    async def oldest_position(self) -> int:
        return (await self._session.fetch(OLDEST))[0][0]

    async def read(self, position: int, *, limit: int, foreign_only: bool = False) -> Changes:
        records = await self._session.fetch(READ, str(position), limit, self._replica_id if foreign_only else None)
        rows = [record for record in records if record["position"] is not None]
        full = len(rows) >= limit
        return Changes(
            changes=[
                Change(
                    position=row["position"],
                    job_ids=[str(job_id) for job_id in row["job_ids"]],
                    states=row["states"],
                    deleted=deleted_jobs(row["deleted"]),
                    age_seconds=row["age"],
                )
                for row in rows
            ],
            next_position=rows[-1]["position"] + 1 if full else max(position, records[0]["barrier"]),
            oldest_position=records[0]["oldest"],
            full=full,
        )
