"""What clients do to jobs after their creation: cancel, retry, delete."""

import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from services.scheduler.adapters.postgres.cancelling import cancel_tree
from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.rows import ENDED, LIVE, columns, to_entry, to_job
from services.scheduler.adapters.postgres.session import Connection, Session
from services.scheduler.application.ports import Cancelled, Settlement
from services.scheduler.domain.errors import JobStateConflict
from services.scheduler.domain.job import Job, JobState
from services.scheduler.domain.ready_index import Entry
from services.shared.errors import NotFound

GET = f"""
SELECT {LIVE} FROM scheduler.jobs j WHERE j.job_id = ANY($1::uuid[])
UNION ALL
SELECT {ENDED} FROM scheduler.ended_jobs e WHERE e.job_id = ANY($1::uuid[])
"""

_RESET = (
    "state",
    "attempt",
    "stall_count",
    "lease_end",
    "cancel_requested",
    "cancel_message",
    "update_time",
    "schedule_time",
    "start_time",
    "deadline_time",
    "retry_request_id",
)
_KEPT = columns("e", without=_RESET)
_KEPT_NAMES = _KEPT.replace("e.", "")

RETRY = f"""
WITH taken AS (
    DELETE FROM scheduler.ended_jobs e WHERE e.job_id = $1 AND e.state IN (4, 5, 6) RETURNING {_KEPT}
),
revived AS (
    INSERT INTO scheduler.jobs
        ({_KEPT_NAMES}, state, update_time, schedule_time, retry_request_id, rank_time)
    SELECT {_KEPT_NAMES}, 1, now(), now(), $2::uuid, now() + priority * $4::interval FROM taken
    RETURNING job_id, type, project_id, rank_time, limit_key
),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states)
    SELECT $3::uuid, array_agg(job_id), array_agg(1::smallint) FROM revived HAVING count(*) > 0
)
SELECT * FROM revived
"""

DELETE = f"""
WITH gone AS (
    DELETE FROM scheduler.ended_jobs e WHERE e.job_id = $1 RETURNING {ENDED}
),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states, deleted)
    SELECT $2::uuid, array_agg(job_id), array_agg(state), jsonb_agg(to_jsonb(gone)) FROM gone HAVING count(*) > 0
)
SELECT count(*) FROM gone
"""


class PostgresControl:
    def __init__(self, session: Session, dispatch: Dispatch) -> None:
        self._session = session
        self._dispatch = dispatch

    async def cancel(self, job_id: str, *, message: str, descend: bool) -> Cancelled:
        async with self._session.begin() as connection:
            affected, ended = await cancel_tree(connection, self._dispatch, [job_id], message=message, descend=descend)
            job = await self._get(connection, job_id)
        return Cancelled(job=job, affected_count=affected, settlement=Settlement(outcomes=(), ended=ended))

    async def retry(self, job_id: str, *, request_id: str) -> tuple[Job, Sequence[Entry]]:
        async with self._session.begin() as connection:
            revived = await connection.fetch(
                RETRY, job_id, request_id or None, self._dispatch.replica_id, self._dispatch.ageing
            )
            job = await self._get(connection, job_id)
            if not revived and not await self._retried_before(connection, job_id, request_id):
                raise JobStateConflict.of(job_id=job_id, state=job.state.name, step="be retried")
        return job, [to_entry(record) for record in revived]

    async def delete(self, job_id: str) -> None:
        async with self._session.begin() as connection:
            await connection.execute(DELETE, job_id, self._dispatch.replica_id)
            state = await connection.fetchval("SELECT state FROM scheduler.jobs WHERE job_id = $1", job_id)
            if state is not None:
                raise JobStateConflict.of(job_id=job_id, state=JobState(state).name, step="be deleted")

    async def _get(self, connection: Connection, job_id: str) -> Job:
        records = await connection.fetch(GET, [job_id])
        if not records:
            raise NotFound.of("job", job_id)
        return to_job(records[0])

    async def _retried_before(self, connection: Connection, job_id: str, request_id: str) -> bool:
        if not request_id:
            return False
        found = await connection.fetch(
            "SELECT retry_request_id FROM scheduler.jobs WHERE job_id = $1 "
            "UNION ALL SELECT retry_request_id FROM scheduler.ended_jobs WHERE job_id = $1",
            job_id,
        )
        return any(record[0] == UUID(request_id) for record in found)


def deleted_jobs(document: str | None) -> list[Job]:
    """The last states of deleted jobs, out of the change log."""
    return [to_job(_typed(row)) for row in json.loads(document)] if document else []


def _typed(row: dict[str, object]) -> dict[str, object]:
    return {
        name: datetime.fromisoformat(value) if name.endswith("_time") and isinstance(value, str) else value
        for name, value in row.items()
    }
