"""Counts and durations, straight from the tables: what is not stored twice cannot drift."""

from collections.abc import Sequence
from datetime import timedelta

from services.scheduler.adapters.postgres.session import Row, Session
from services.scheduler.application.ports import DurationStats, QueueStats

# Unlike the queue's own statements, these read many rows once, and may plan as they like.
PLANNER = "SET LOCAL enable_seqscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL plan_cache_mode = force_custom_plan"

QUEUES = """
WITH live AS (
    SELECT type, project_id,
        count(*) FILTER (WHERE rank_time IS NOT NULL) AS ready,
        count(*) FILTER (WHERE state = 1 AND rank_time IS NULL) AS scheduled,
        count(*) FILTER (WHERE state = 2) AS running,
        0 AS dead,
        min(schedule_time) FILTER (WHERE rank_time IS NOT NULL) AS oldest
    FROM scheduler.jobs WHERE $1::text[] = '{}' OR type = ANY($1) GROUP BY type, project_id
),
dead AS (
    SELECT type, project_id, 0, 0, 0, count(*), NULL::timestamptz
    FROM scheduler.ended_jobs WHERE state = 6 AND state > 3 AND ($1::text[] = '{}' OR type = ANY($1))
    GROUP BY type, project_id
),
counted AS (
    SELECT * FROM live UNION ALL SELECT * FROM dead
    UNION ALL SELECT type, NULL, 0, 0, 0, 0, NULL FROM scheduler.paused_types WHERE $1::text[] = '{}' OR type = ANY($1)
)
SELECT c.type, coalesce(c.project_id, '') AS project_id, sum(ready)::bigint AS ready,
    sum(scheduled)::bigint AS scheduled, sum(running)::bigint AS running, sum(dead)::bigint AS dead,
    now() - min(oldest) AS age,
    EXISTS (SELECT FROM scheduler.paused_types p WHERE p.type = c.type) AS paused
FROM counted c
GROUP BY GROUPING SETS ((c.type), (c.type, c.project_id))
HAVING grouping(c.project_id) = 1 OR ($2 AND c.project_id IS NOT NULL)
ORDER BY c.type, grouping(c.project_id) DESC, c.project_id
"""

# A job that was cancelled while it waited has no start and no duration.
DURATIONS = """
SELECT type, count(*) AS completed, avg(d) AS average, min(d) AS minimum, max(d) AS maximum,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY d) AS p50,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY d) AS p95
FROM (
    SELECT type, extract(epoch FROM end_time - start_time)::float8 AS d FROM scheduler.ended_jobs
    WHERE end_time > now() - $2::interval AND start_time IS NOT NULL AND ($1::text[] = '{}' OR type = ANY($1))
) durations
GROUP BY type ORDER BY type
"""


class PostgresStatistics:
    def __init__(self, session: Session) -> None:
        self._session = session

    async def queues(self, types: Sequence[str], *, by_project: bool) -> Sequence[QueueStats]:
        async with self._session.begin() as connection:
            await connection.execute(PLANNER)
            records = await connection.fetch(QUEUES, types, by_project)
        return [_to_queue(record) for record in records]

    async def durations(self, types: Sequence[str], *, window: timedelta) -> Sequence[DurationStats]:
        async with self._session.begin() as connection:
            await connection.execute(PLANNER)
            records = await connection.fetch(DURATIONS, types, window)
        return [_to_durations(record) for record in records]


def _to_queue(record: Row) -> QueueStats:
    return QueueStats(
        type=record["type"],
        project_id=record["project_id"],
        ready_count=record["ready"],
        scheduled_count=record["scheduled"],
        running_count=record["running"],
        dead_count=record["dead"],
        oldest_ready_age=record["age"],
        paused=record["paused"],
    )


def _to_durations(record: Row) -> DurationStats:
    return DurationStats(
        type=record["type"],
        completed_count=record["completed"],
        average=timedelta(seconds=record["average"]),
        minimum=timedelta(seconds=record["minimum"]),
        maximum=timedelta(seconds=record["maximum"]),
        p50=timedelta(seconds=record["p50"]),
        p95=timedelta(seconds=record["p95"]),
    )
