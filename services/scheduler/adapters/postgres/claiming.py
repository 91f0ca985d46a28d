"""Claims: many jobs for many workers in one statement, and never more than the limits of their keys allow."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta

from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.limiting import KeyRows
from services.scheduler.adapters.postgres.session import Row, Session
from services.scheduler.application.ports import Assignment, Claimed
from services.scheduler.domain import limits
from services.scheduler.domain.job import LeasedJob, LeaseRef

CLAIM = """
WITH locked AS (
    SELECT j.job_id, i.worker_id, i.deadline_seconds
    FROM unnest($1::uuid[], $2::text[], $3::float8[]) AS i(job_id, worker_id, deadline_seconds)
    JOIN scheduler.jobs j ON j.job_id = i.job_id
    WHERE j.state = 1 AND j.schedule_time <= now()
      AND NOT EXISTS (SELECT FROM scheduler.paused_types p WHERE p.type = j.type)
    FOR UPDATE OF j SKIP LOCKED
),
leased AS (
    UPDATE scheduler.jobs j SET
        state = 2, rank_time = NULL, lease_end = 0,
        worker_id = l.worker_id,
        fencing_token = j.fencing_token + 1,
        attempt = j.attempt + 1,
        lease_expire_time = now() + $4::interval,
        start_time = coalesce(j.start_time, now()),
        deadline_time = coalesce(j.deadline_time, now() + make_interval(secs => l.deadline_seconds)),
        update_time = now()
    FROM locked l WHERE j.job_id = l.job_id
    RETURNING j.job_id, j.fencing_token, j.worker_id, j.type, j.project_id, j.payload, j.attempt, j.stall_count,
        j.checkpoint, j.traceparent, j.parent_job_id, j.limit_key, j.lease_expire_time, j.deadline_time
),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states)
    SELECT $5::uuid, array_agg(job_id), array_agg(2::smallint) FROM leased HAVING count(*) > 0
)
SELECT * FROM leased
"""


class PostgresClaims:
    def __init__(self, session: Session, dispatch: Dispatch) -> None:
        self._session = session
        self._dispatch = dispatch
        self._keys = KeyRows()

    async def claim(self, assignments: Sequence[Assignment], *, accept_timeout: timedelta) -> Claimed:
        """Jobs without a key need one round trip; those with one are leased under the lock of their keys."""
        free = [each for each in assignments if not each.entry.limit_key]
        keyed = [each for each in assignments if each.entry.limit_key]
        leased: list[Row] = []
        if free:
            leased = await self._session.fetch(CLAIM, *self._arguments(free, accept_timeout))
        if not keyed:
            return Claimed(leased=_in_order(assignments, leased))
        under_lock, admission = await self._claim_keyed(keyed, accept_timeout)
        return Claimed(
            leased=_in_order(assignments, (*leased, *under_lock)),
            refused=admission.refused,
            shut=admission.shut,
        )

    async def _claim_keyed(
        self, assignments: Sequence[Assignment], accept_timeout: timedelta
    ) -> tuple[list[Row], limits.Admission]:
        async with self._session.begin() as connection:
            rows, now = await self._keys.hold(connection, (each.entry.limit_key for each in assignments))
            running = await self._keys.running(connection, rows.values())
            admission = limits.admit([each.entry for each in assignments], limits=rows, running=running, now=now)
            admitted = {entry.job_id for entry in admission.admitted}
            chosen = [each for each in assignments if each.entry.job_id in admitted]
            leased = await connection.fetch(CLAIM, *self._arguments(chosen, accept_timeout)) if chosen else []
            counted = Counter[str](record["limit_key"] for record in leased)
            await self._keys.spend(connection, rows.values(), leased=counted, now=now)
        return leased, admission

    def _arguments(self, assignments: Sequence[Assignment], accept_timeout: timedelta) -> tuple[object, ...]:
        return (
            [each.entry.job_id for each in assignments],
            [each.worker_id for each in assignments],
            [each.total_deadline.total_seconds() if each.total_deadline else None for each in assignments],
            accept_timeout,
            self._dispatch.replica_id,
        )


def _in_order(assignments: Sequence[Assignment], records: Iterable[Row]) -> list[LeasedJob]:
    """The database returns rows as it finds them; workers get jobs in the order in which they were chosen."""
    leased = {job.lease.job_id: job for job in map(_to_leased, records)}
    return [leased[each.entry.job_id] for each in assignments if each.entry.job_id in leased]


def _to_leased(record: Row) -> LeasedJob:
    return LeasedJob(
        lease=LeaseRef(job_id=str(record[0]), fencing_token=record[1]),
        worker_id=record[2],
        type=record[3],
        project_id=record[4],
        payload=record[5],
        attempt=record[6],
        stall_count=record[7],
        checkpoint=record[8],
        traceparent=record[9],
        parent_job_id=str(record[10]) if record[10] else "",
        limit_key=record[11],
        lease_expire_time=record[12],
        deadline_time=record[13],
    )
