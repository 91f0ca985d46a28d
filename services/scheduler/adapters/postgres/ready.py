"""Feeds the ready index of a replica: first jobs per project, further pages, delayed jobs that are due."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import groupby

from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.rows import ENTRY, to_entry
from services.scheduler.adapters.postgres.session import Session
from services.scheduler.domain.ready_index import Entry, PageRequest

HEADS = f"""
WITH RECURSIVE project AS (
    SELECT t.type, (SELECT min(project_id) FROM scheduler.jobs WHERE type = t.type AND rank_time IS NOT NULL)
        AS project_id
    FROM unnest($1::text[]) AS t(type)
    UNION ALL
    SELECT p.type, (SELECT min(n.project_id) FROM scheduler.jobs n
        WHERE n.type = p.type AND n.project_id > p.project_id AND n.rank_time IS NOT NULL)
    FROM project p WHERE p.project_id IS NOT NULL
)
SELECT x.* FROM project p CROSS JOIN LATERAL (
    SELECT {ENTRY} FROM scheduler.jobs j
    WHERE j.type = p.type AND j.project_id = p.project_id AND j.rank_time IS NOT NULL
    ORDER BY j.rank_time, j.job_id LIMIT $2
) x WHERE p.project_id IS NOT NULL
"""

PAGE = f"""
SELECT {ENTRY} FROM scheduler.jobs j
WHERE j.type = $1 AND j.project_id = $2 AND j.rank_time IS NOT NULL AND (j.rank_time, j.job_id) > ($3, $4::uuid)
ORDER BY j.rank_time, j.job_id LIMIT $5
"""

STILL_READY = f"SELECT {ENTRY} FROM scheduler.jobs j WHERE j.job_id = ANY($1::uuid[])"

# State 0 in the change log: ready now, which other replicas must know and watchers need not.
PROMOTE = f"""
WITH due AS (
    SELECT job_id FROM scheduler.jobs
    WHERE rank_time IS NULL AND lease_expire_time IS NULL AND schedule_time <= now()
    ORDER BY schedule_time LIMIT $1 FOR UPDATE SKIP LOCKED
),
promoted AS (
    UPDATE scheduler.jobs j SET rank_time = j.schedule_time + j.priority * $2::interval
    FROM due d WHERE j.job_id = d.job_id
    RETURNING {ENTRY}
),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states)
    SELECT $3::uuid, array_agg(job_id), array_agg(0::smallint) FROM promoted HAVING count(*) > 0
)
SELECT * FROM promoted
"""

NEXT_DUE = """
SELECT min(schedule_time) - now() FROM scheduler.jobs WHERE rank_time IS NULL AND lease_expire_time IS NULL
"""


class PostgresReadyJobs:
    def __init__(self, session: Session, dispatch: Dispatch) -> None:
        self._session = session
        self._dispatch = dispatch

    async def heads(self, types: Sequence[str], *, limit: int) -> dict[tuple[str, str], Sequence[Entry]]:
        entries = [to_entry(record) for record in await self._session.fetch(HEADS, types, limit)]
        return {key: list(group) for key, group in groupby(entries, key=lambda entry: (entry.type, entry.project_id))}

    async def page(self, request: PageRequest) -> Sequence[Entry]:
        records = await self._session.fetch(PAGE, request.type, request.project_id, *request.after, request.limit)
        return [to_entry(record) for record in records]

    async def still_ready(self, job_ids: Sequence[str]) -> Sequence[Entry]:
        found = await self._session.fetch(STILL_READY, job_ids)
        return [to_entry(record) for record in found if record["rank_time"]]

    async def promote_due(self, *, limit: int) -> tuple[Sequence[Entry], timedelta | None]:
        records = await self._session.fetch(PROMOTE, limit, self._dispatch.ageing, self._dispatch.replica_id)
        wait = (await self._session.fetch(NEXT_DUE))[0][0]
        return [to_entry(record) for record in records], wait
