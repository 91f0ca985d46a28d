"""Periodic schedules. A firing and its job are one transaction, and the job's identity follows from the firing."""

from collections.abc import Sequence
from datetime import datetime

from services.scheduler.adapters.postgres.creation import PostgresCreation
from services.scheduler.adapters.postgres.session import Connection, Row, Session
from services.scheduler.domain.job import JobSpec
from services.scheduler.domain.ready_index import Entry
from services.scheduler.domain.schedule import MissedFirePolicy, Schedule, due_firings, first_after
from services.shared import ids

_FIRING = ids.namespace("schedule-firing")

_COLUMNS = """schedule_id, cron, type, project_id, priority, payload, limit_key, max_attempts, missed_fire_policy,
    paused, next_fire_time, last_fire_time"""

# A firing that is due but not yet carried out survives a put with the same times.
PUT = f"""
INSERT INTO scheduler.schedules AS s ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, NULL)
ON CONFLICT (schedule_id) DO UPDATE SET
    cron = $2, type = $3, project_id = $4, priority = $5, payload = $6, limit_key = $7, max_attempts = $8,
    missed_fire_policy = $9, paused = $10,
    next_fire_time = CASE WHEN s.cron = $2 AND NOT s.paused THEN s.next_fire_time ELSE $11 END
RETURNING {_COLUMNS}
"""

LIST = f"SELECT {_COLUMNS} FROM scheduler.schedules WHERE schedule_id > $1 ORDER BY schedule_id LIMIT $2"

DUE = f"""
SELECT {_COLUMNS}, now() AS now FROM scheduler.schedules
WHERE NOT paused AND next_fire_time <= now() ORDER BY schedule_id LIMIT 100 FOR UPDATE SKIP LOCKED
"""

FIRED = """
UPDATE scheduler.schedules SET next_fire_time = $2, last_fire_time = coalesce($3, last_fire_time)
WHERE schedule_id = $1
"""


class PostgresSchedules:
    def __init__(self, session: Session, creation: PostgresCreation) -> None:
        self._session = session
        self._creation = creation

    async def put(self, schedule: Schedule) -> Schedule:
        async with self._session.begin() as connection:
            next_fire_time = first_after(schedule.cron, await connection.fetchval("SELECT now()"))
            stored = await connection.fetchrow(
                PUT,
                schedule.schedule_id,
                schedule.cron,
                schedule.type,
                schedule.project_id,
                schedule.priority,
                schedule.payload,
                schedule.limit_key,
                schedule.max_attempts,
                int(schedule.missed_fire_policy),
                schedule.paused,
                next_fire_time,
            )
        return _to_schedule(stored)

    async def list_page(self, *, after: str, limit: int) -> Sequence[Schedule]:
        return [_to_schedule(record) for record in await self._session.fetch(LIST, after, limit)]

    async def delete(self, schedule_id: str) -> None:
        await self._session.fetch("DELETE FROM scheduler.schedules WHERE schedule_id = $1", schedule_id)

    async def fire(self) -> Sequence[Entry]:
        async with self._session.begin() as connection:
            ready: list[Entry] = []
            for record in await connection.fetch(DUE):
                ready += await self._fire(connection, _to_schedule(record), record["now"])
        return ready

    async def _fire(self, connection: Connection, schedule: Schedule, now: datetime) -> Sequence[Entry]:
        firings = due_firings(schedule, now)
        specs = [_to_spec(schedule, firing) for firing in firings]
        created = await self._creation.create_in(connection, specs, parent_job_id=None) if specs else None
        await connection.execute(
            FIRED, schedule.schedule_id, first_after(schedule.cron, now), firings[-1] if firings else None
        )
        return created.ready if created else ()


def _to_spec(schedule: Schedule, firing: datetime) -> JobSpec:
    return JobSpec(
        job_id=str(ids.derived(_FIRING, schedule.schedule_id, firing.isoformat())),
        chosen=True,
        type=schedule.type,
        project_id=schedule.project_id,
        priority=schedule.priority,
        payload=schedule.payload,
        schedule_time=None,
        limit_key=schedule.limit_key,
        max_attempts=schedule.max_attempts,
        traceparent="",
    )


def _to_schedule(row: Row) -> Schedule:
    return Schedule(
        schedule_id=row["schedule_id"],
        cron=row["cron"],
        type=row["type"],
        project_id=row["project_id"],
        priority=row["priority"],
        payload=row["payload"],
        limit_key=row["limit_key"],
        max_attempts=row["max_attempts"],
        missed_fire_policy=MissedFirePolicy(row["missed_fire_policy"]),
        paused=row["paused"],
        next_fire_time=row["next_fire_time"],
        last_fire_time=row["last_fire_time"],
    )
