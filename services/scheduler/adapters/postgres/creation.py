"""Creates jobs: one statement for any number of them.

A new identity cannot exist yet, so that its job needs no second look and no answer from
the database. One that a client chose may belong to a job that ended and left the table;
the look into the ended ones comes after the insert, in a snapshot of its own, because a
job may end between the two.
"""

import hashlib
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from services.scheduler.adapters.postgres.cancelling import cancel_tree
from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.session import Connection, Row, Session
from services.scheduler.application.ports import Created, Creation, HandedOut, HandOut
from services.scheduler.domain.errors import LeaseLost
from services.scheduler.domain.job import LOWEST_PRIORITY, JobSpec, JobState, LeasedJob, LeaseRef
from services.scheduler.domain.ready_index import Entry

# Most calls create jobs that differ in little: a column in which all are equal is an array of one.
_INSERT = """
    INSERT INTO scheduler.jobs (job_id, spec_hash, type, project_id, priority, payload, schedule_time, limit_key,
        max_attempts, max_stalls, traceparent, parent_job_id, state, create_time, update_time, rank_time)
    SELECT s.job_id, s.spec_hash, s.type, s.project_id, s.priority, s.payload, s.schedule_time, s.limit_key,
        s.max_attempts, s.max_stalls, s.traceparent, $12::uuid, 1, now(), now(),
        CASE WHEN s.schedule_time <= now()
             THEN now() + s.priority * $13::interval + s.place * interval '1 microsecond' END
    FROM (
        SELECT u.job_id, u.spec_hash,
            coalesce(u.type, ($3::text[])[1]) AS type,
            coalesce(u.project_id, ($4::text[])[1]) AS project_id,
            coalesce(u.priority, ($5::smallint[])[1]) AS priority,
            coalesce(u.payload, ($6::text[])[1]) AS payload,
            coalesce(u.schedule_time, now()) AS schedule_time,
            coalesce(u.limit_key, ($8::text[])[1]) AS limit_key,
            coalesce(u.max_attempts, ($9::smallint[])[1]) AS max_attempts,
            coalesce(u.max_stalls, ($10::smallint[])[1]) AS max_stalls,
            coalesce(u.traceparent, ($11::text[])[1]) AS traceparent,
            u.number - 1 + $15::int AS place
        FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::timestamptz[],
                    $8::text[], $9::smallint[], $10::smallint[], $11::text[]) WITH ORDINALITY
            AS u(job_id, spec_hash, type, project_id, priority, payload, schedule_time, limit_key, max_attempts,
                 max_stalls, traceparent, number)
    ) s
"""

# For identities made here, which cannot exist yet.
INSERT_NEW = f"""
WITH inserted AS ({_INSERT}),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states)
    SELECT $14::uuid, $1::uuid[], array_fill(1::smallint, ARRAY[cardinality($1::uuid[])])
    WHERE cardinality($1::uuid[]) > 0
)
SELECT now()
"""

INSERT = f"""
WITH inserted AS ({_INSERT} ON CONFLICT (job_id) DO NOTHING
    RETURNING job_id
),
batch AS (
    SELECT array_agg(job_id) AS job_ids FROM inserted HAVING count(*) > 0
),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states)
    SELECT $14::uuid, job_ids, array_fill(1::smallint, ARRAY[cardinality(job_ids)]) FROM batch
)
SELECT now(), (SELECT job_ids FROM batch)
"""

# For a worker that waits: what INSERT and CLAIM make of a new job, which is nobody else's yet.
INSERT_LEASED = """
WITH leased AS (
    INSERT INTO scheduler.jobs (job_id, spec_hash, type, project_id, priority, payload, schedule_time, max_attempts,
        max_stalls, traceparent, state, create_time, update_time, worker_id, fencing_token, attempt, start_time,
        lease_expire_time, deadline_time)
    SELECT s.job_id, s.spec_hash, s.type, s.project_id, s.priority, s.payload, now(), s.max_attempts,
        s.max_stalls, s.traceparent, 2, now(), now(), s.worker_id, 1, 1, now(),
        now() + $12::interval, now() + make_interval(secs => s.deadline_seconds)
    FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::smallint[],
                $8::smallint[], $9::text[], $10::text[], $11::float8[])
        AS s(job_id, spec_hash, type, project_id, priority, payload, max_attempts, max_stalls, traceparent,
             worker_id, deadline_seconds)
    WHERE NOT EXISTS (SELECT FROM scheduler.paused_types p WHERE p.type = s.type)
    ON CONFLICT (job_id) DO NOTHING
    RETURNING job_id, lease_expire_time, deadline_time
),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states)
    SELECT $13::uuid, array_agg(job_id), array_agg(2::smallint) FROM leased HAVING count(*) > 0
)
SELECT * FROM leased
"""

ValueT = TypeVar("ValueT")

LOCK_PARENT = """
SELECT cancel_requested FROM scheduler.jobs
WHERE job_id = $1 AND fencing_token = $2 AND state = 2 FOR NO KEY UPDATE
"""

KNOWN = """
SELECT job_id, spec_hash, false AS ended FROM scheduler.jobs WHERE job_id = ANY($1::uuid[])
UNION ALL
SELECT job_id, spec_hash, true FROM scheduler.ended_jobs WHERE job_id = ANY($1::uuid[])
"""

# A large call is several statements of one transaction, so that encoding it never holds the event loop for long.
_SLICE = 500

_MICROSECOND = timedelta(microseconds=1)

REMOVE = "DELETE FROM scheduler.jobs WHERE job_id = ANY($1::uuid[])"


class PostgresCreation:
    def __init__(self, session: Session, dispatch: Dispatch) -> None:
        self._session = session
        self._dispatch = dispatch

    async def create(self, specs: Sequence[JobSpec], *, parent: LeaseRef | None) -> Created:
        whole = parent is None and len(specs) <= _SLICE and not any(spec.chosen for spec in specs)
        async with self._session.connect() if whole else self._session.begin() as connection:
            doomed = await lock_parent(connection, parent) if parent is not None else False
            created = await self.create_in(connection, specs, parent_job_id=parent.job_id if parent else None)
            if doomed:
                created = replace(created, ready=())
                await cancel_tree(connection, self._dispatch, [spec.job_id for spec in specs], message="")
        return created

    async def create_leased(self, hand_outs: Sequence[HandOut], *, accept_timeout: timedelta) -> HandedOut:
        chosen = [each.spec.job_id for each in hand_outs if each.spec.chosen]
        # Without these, what cannot be handed out is created on its own, and two round trips are saved.
        async with self._session.begin() if chosen else self._session.connect() as connection:
            records = await connection.fetch(INSERT_LEASED, *self._leased_arguments(hand_outs, accept_timeout))
            leased = {str(record[0]): record for record in records}
            if chosen:
                known = await connection.fetch(KNOWN, chosen)
                for job_id in await _remove_revived(connection, leased, known):
                    del leased[job_id]
            rest = [each.spec for each in hand_outs if each.spec.job_id not in leased]
            return _handed_out(hand_outs, leased, await self.create_in(connection, rest, parent_job_id=None))

    async def create_in(
        self, connection: Connection, specs: Sequence[JobSpec], *, parent_job_id: str | None
    ) -> Created:
        """Creates within a transaction of the caller, which holds the parent if there is one."""
        results: list[Creation] = []
        ready: list[Entry] = []
        for start in range(0, len(specs), _SLICE):
            part = await self._create_slice(connection, specs[start : start + _SLICE], parent_job_id, place=start)
            results += part.results
            ready += part.ready
        return Created(results=results, ready=ready)

    async def _create_slice(
        self, connection: Connection, specs: Sequence[JobSpec], parent_job_id: str | None, *, place: int
    ) -> Created:
        arguments = self._arguments(specs, parent=parent_job_id, place=place)
        chosen = [spec.job_id for spec in specs if spec.chosen]
        if not chosen:
            return self._all_created(specs, await connection.fetchval(INSERT_NEW, *arguments), place=place)
        now, inserted = (await connection.fetch(INSERT, *arguments))[0]
        new = {str(job_id) for job_id in inserted or ()}
        known = await connection.fetch(KNOWN, chosen)
        new -= await _remove_revived(connection, new, known)
        return self._created(specs, now, new, known={str(record[0]): record[1] for record in known}, place=place)

    def _all_created(self, specs: Sequence[JobSpec], now: datetime, *, place: int) -> Created:
        ready = self._ready(enumerate(specs, start=place), now)
        return Created(results=[Creation.CREATED] * len(specs), ready=ready)

    def _created(
        self, specs: Sequence[JobSpec], now: datetime, new: set[str], *, known: Mapping[str, int], place: int
    ) -> Created:
        results: list[Creation] = []
        created: list[tuple[int, JobSpec]] = []
        for offset, spec in enumerate(specs, start=place):
            if spec.job_id in new:
                new.discard(spec.job_id)
                results.append(Creation.CREATED)
                created.append((offset, spec))
            else:
                same = known.get(spec.job_id) == spec_hash(spec)
                results.append(Creation.EXISTED if same else Creation.DIFFERS)
        return Created(results=results, ready=self._ready(created, now))

    def _ready(self, created: Iterable[tuple[int, JobSpec]], now: datetime) -> list[Entry]:
        """Those of new jobs, each with its place in the call, that may be leased; ranked as the insert does."""
        first = [now + priority * self._dispatch.ageing for priority in range(LOWEST_PRIORITY + 1)]
        return [
            Entry(spec.job_id, spec.type, spec.project_id, first[spec.priority] + place * _MICROSECOND, spec.limit_key)
            for place, spec in created
            if spec.schedule_time is None or spec.schedule_time <= now
        ]

    def _leased_arguments(self, hand_outs: Sequence[HandOut], accept_timeout: timedelta) -> tuple[object, ...]:
        specs = [each.spec for each in hand_outs]
        policies = [self._dispatch.policies.of(spec.type) for spec in specs]
        return (
            [spec.job_id for spec in specs],
            [spec_hash(spec) for spec in specs],
            [spec.type for spec in specs],
            [spec.project_id for spec in specs],
            [spec.priority for spec in specs],
            [spec.payload for spec in specs],
            [spec.max_attempts or policy.max_attempts for spec, policy in zip(specs, policies, strict=True)],
            [policy.max_stalls for policy in policies],
            [spec.traceparent for spec in specs],
            [each.worker_id for each in hand_outs],
            [each.total_deadline.total_seconds() if each.total_deadline else None for each in hand_outs],
            accept_timeout,
            self._dispatch.replica_id,
        )

    def _arguments(self, specs: Sequence[JobSpec], *, parent: str | None, place: int) -> tuple[object, ...]:
        """`place` is that of the first spec in its call; jobs of one call keep their order."""
        policies = [self._dispatch.policies.of(spec.type) for spec in specs]
        scheduled = any(spec.schedule_time for spec in specs)
        return (
            [spec.job_id for spec in specs],
            [spec_hash(spec) for spec in specs],
            _column([spec.type for spec in specs]),
            _column([spec.project_id for spec in specs]),
            _column([spec.priority for spec in specs]),
            _column([spec.payload for spec in specs]),
            [spec.schedule_time for spec in specs] if scheduled else (),
            _column([spec.limit_key for spec in specs]),
            _column([spec.max_attempts or policy.max_attempts for spec, policy in zip(specs, policies, strict=True)]),
            _column([policy.max_stalls for policy in policies]),
            _column([spec.traceparent for spec in specs]),
            parent,
            self._dispatch.ageing,
            self._dispatch.replica_id,
            place,
        )


def _column(values: list[ValueT]) -> list[ValueT]:
    return values if len(set(values)) > 1 else values[:1]


async def _remove_revived(connection: Connection, inserted: Container[str], known: Iterable[Row]) -> set[str]:
    """Jobs that ended before and that this transaction has made anew; not any more, after this."""
    revived = {job_id for record in known if record[2] and (job_id := str(record[0])) in inserted}
    if revived:
        await connection.execute(REMOVE, list(revived))
    return revived


def _handed_out(hand_outs: Sequence[HandOut], leased: Mapping[str, Row], rest: Created) -> HandedOut:
    others = iter(rest.results)
    return HandedOut(
        created=Created(
            results=[Creation.CREATED if each.spec.job_id in leased else next(others) for each in hand_outs],
            ready=rest.ready,
        ),
        leased=[_to_leased(each, leased[each.spec.job_id]) for each in hand_outs if each.spec.job_id in leased],
    )


def _to_leased(hand_out: HandOut, record: Row) -> LeasedJob:
    """The first lease of a job without a past."""
    spec = hand_out.spec
    return LeasedJob(
        lease=LeaseRef(job_id=spec.job_id, fencing_token=1),
        worker_id=hand_out.worker_id,
        type=spec.type,
        project_id=spec.project_id,
        payload=spec.payload,
        attempt=1,
        stall_count=0,
        checkpoint="",
        traceparent=spec.traceparent,
        parent_job_id="",
        limit_key="",
        lease_expire_time=record[1],
        deadline_time=record[2],
    )


async def lock_parent(connection: Connection, parent: LeaseRef) -> bool:
    """Holds the parent's lease for the rest of the transaction. Returns whether its cancel was requested."""
    held: Row | None = await connection.fetchrow(LOCK_PARENT, parent.job_id, parent.fencing_token)
    if held is None:
        raise await lease_lost(connection, parent)
    return held[0]


async def lease_lost(connection: Connection, lease: LeaseRef) -> LeaseLost:
    now = await connection.fetchrow(
        "SELECT fencing_token, state FROM scheduler.jobs WHERE job_id = $1 "
        "UNION ALL SELECT fencing_token, state FROM scheduler.ended_jobs WHERE job_id = $1",
        lease.job_id,
    )
    return LeaseLost.of(
        job_id=lease.job_id,
        fencing_token=lease.fencing_token,
        current_fencing_token=now[0] if now else 0,
        state=JobState(now[1]).name if now else "",
    )


def spec_hash(spec: JobSpec) -> int:
    """Of what a client asked for, so that the same identity with another wish is noticed."""
    schedule_time = spec.schedule_time.isoformat() if spec.schedule_time else ""
    text = f"{spec.type}\x1f{spec.project_id}\x1f{spec.priority}\x1f{schedule_time}\x1f{spec.limit_key}\x1f"
    content = f"{text}{spec.max_attempts}\x1f{spec.payload}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), signed=True)
