"""Reads jobs by id and in pages, newest first.

A page is the merge of the newest jobs of each project, so that every query is a walk
down an index however many jobs of others lie between. Projects are found by skipping
from one to the next in that index.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from services.scheduler.adapters.postgres.control import GET
from services.scheduler.adapters.postgres.rows import ENDED, LIVE, to_job
from services.scheduler.adapters.postgres.session import Session
from services.scheduler.application.ports import Page
from services.scheduler.domain.job import REVIVABLE, Job, JobFilter, JobState

# $1 projects, $2 types, $3 states, $4 jobs, $5 parents, $6 and $7 the cursor, $8 the limit.
_MATCHES = """
    ($2::text[] = '{{}}' OR {t}.type = ANY($2)) AND ($3::smallint[] = '{{}}' OR {t}.state = ANY($3))
    AND ($4::uuid[] = '{{}}' OR {t}.job_id = ANY($4)) AND ($5::uuid[] = '{{}}' OR {t}.parent_job_id = ANY($5))
    AND ($6::timestamptz IS NULL OR ({t}.create_time, {t}.job_id) < ($6, $7::uuid))
"""
_NEWEST = "ORDER BY {t}.create_time DESC, {t}.job_id DESC LIMIT $8"

_EVERY_PROJECT = """
    WITH RECURSIVE project AS (
        SELECT min(project_id) AS project_id FROM {table}
        UNION ALL
        SELECT (SELECT min(n.project_id) FROM {table} n WHERE n.project_id > p.project_id)
        FROM project p WHERE p.project_id IS NOT NULL
    )
    SELECT project_id FROM project WHERE project_id IS NOT NULL
"""

_SOURCES = (
    ("scheduler.jobs", "j", LIVE),
    ("scheduler.ended_jobs", "e", ENDED),
)


class PostgresReading:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, job_ids: Sequence[str]) -> Sequence[Job]:
        return [to_job(record) for record in await self._session.fetch(GET, job_ids)]

    async def list_page(self, job_filter: JobFilter, *, after: tuple[datetime, str] | None, limit: int) -> Page:
        return await self._page(job_filter, after, limit, live=True, ended=True)

    async def list_current(self, job_filter: JobFilter, *, after: tuple[datetime, str] | None, limit: int) -> Page:
        return await self._page(job_filter, after, limit, live=True, ended=False)

    async def _page(
        self, job_filter: JobFilter, after: tuple[datetime, str] | None, limit: int, *, live: bool, ended: bool
    ) -> Page:
        states = job_filter.states
        wanted = (
            live and (not states or any(not state.terminal for state in states)),
            ended and (not states or any(state.terminal for state in states)),
        )
        parts = [_part(job_filter, *source) for source, want in zip(_SOURCES, wanted, strict=True) if want]
        if not parts:
            return Page(jobs=(), more=False)
        statement = f"{' UNION ALL '.join(parts)} ORDER BY create_time DESC, job_id DESC LIMIT $8"
        records = await self._session.fetch(statement, *_arguments(job_filter, after, limit + 1))
        return Page(jobs=[to_job(record) for record in records[:limit]], more=len(records) > limit)


def _arguments(job_filter: JobFilter, after: tuple[datetime, str] | None, limit: int) -> tuple[Any, ...]:
    return (
        job_filter.project_ids,
        job_filter.types,
        [int(state) for state in job_filter.states],
        job_filter.job_ids,
        job_filter.parent_job_ids,
        after[0] if after else None,
        after[1] if after else None,
        limit,
    )


def _part(job_filter: JobFilter, table: str, t: str, columns: str) -> str:
    """The newest matching jobs of one table; the access path follows the narrowest part of the filter."""
    matches, newest = _MATCHES.format(t=t), _NEWEST.format(t=t)
    in_projects = f"($1::text[] = '{{}}' OR {t}.project_id = ANY($1))"
    if job_filter.job_ids or job_filter.parent_job_ids:
        key = "job_id" if job_filter.job_ids else "parent_job_id"
        number = 4 if job_filter.job_ids else 5
        where = f"{t}.{key} = ANY(${number}::uuid[]) AND {in_projects} AND {matches}"
        return f"(SELECT {columns} FROM {table} {t} WHERE {where} {newest})"
    projects = "unnest($1::text[])" if job_filter.project_ids else f"({_EVERY_PROJECT.format(table=table)})"
    lateral = f"{t}.project_id = p.project_id AND {in_projects} AND {matches}"
    states = ""
    if t == "e" and job_filter.states and all(_rare(state) for state in job_filter.states):
        states = "CROSS JOIN unnest($3::smallint[]) AS s(state)"
        lateral = f"{t}.state > 3 AND {t}.state = s.state AND {lateral}"
    inner = f"SELECT {columns} FROM {table} {t} WHERE {lateral} {newest}"
    return f"(SELECT x.* FROM {projects} AS p(project_id) {states} CROSS JOIN LATERAL ({inner}) x)"


def _rare(state: JobState) -> bool:
    return state in REVIVABLE or not state.terminal
