"""Renewals and endings of leases: one statement per batch, each with the fence in it.

`FENCE` is the only condition under which a worker's write has an effect. Rows are locked
in the order of their ids, so that two batches cannot wait for each other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from services.scheduler.adapters.postgres.cancelling import cancel_tree
from services.scheduler.adapters.postgres.claiming import PostgresClaims
from services.scheduler.adapters.postgres.creation import PostgresCreation
from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.limiting import shut_gates
from services.scheduler.adapters.postgres.rows import columns, to_entry
from services.scheduler.adapters.postgres.session import Row, Session
from services.scheduler.adapters.postgres.settling import EXPIRE, FAIL, RELEASE
from services.scheduler.application.ports import (
    Assignment,
    Claimed,
    Ended,
    Expired,
    Renewed,
    Settled,
    Settlement,
)
from services.scheduler.domain.errors import LeaseLost
from services.scheduler.domain.job import (
    Completion,
    Directive,
    FailedAttempt,
    JobState,
    LeaseEnd,
    LeaseRef,
    Release,
    Renewal,
)
from services.scheduler.domain.limits import KeyShut
from services.scheduler.domain.ready_index import Entry

FENCE = "j.job_id = i.job_id AND j.state = 2 AND j.fencing_token = i.fencing_token"

RENEW = f"""
WITH renewed AS (
    UPDATE scheduler.jobs j SET
        lease_expire_time = least(now() + coalesce(
            ($8::interval[])[array_position($7::text[], j.type)], $9::interval), j.deadline_time),
        checkpoint = coalesce(nullif(i.checkpoint, ''), j.checkpoint),
        progress_completed = coalesce(i.completed, j.progress_completed),
        progress_total = coalesce(i.total, j.progress_total),
        progress_message = coalesce(i.message, j.progress_message),
        update_time = CASE WHEN i.completed IS NULL THEN j.update_time ELSE now() END
    FROM unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[])
        AS i(job_id, fencing_token, checkpoint, completed, total, message)
    WHERE {FENCE}
    RETURNING j.job_id, j.fencing_token, j.cancel_requested, j.lease_expire_time, i.completed
),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states)
    SELECT $10::uuid, array_agg(job_id), array_agg(2::smallint) FROM renewed WHERE completed IS NOT NULL
    HAVING count(*) > 0
)
SELECT job_id, fencing_token, cancel_requested, lease_expire_time FROM renewed
"""

_MOVED = columns("j", without=("state", "lease_end", "update_time"))
_MOVED_NAMES = _MOVED.replace("j.", "")

COMPLETE = f"""
WITH done AS (
    DELETE FROM scheduler.jobs j
    USING unnest($1::uuid[], $2::bigint[], $3::text[]) AS i(job_id, fencing_token, result)
    WHERE {FENCE}
    RETURNING {_MOVED}, i.result
),
ended AS (
    INSERT INTO scheduler.ended_jobs ({_MOVED_NAMES}, state, lease_end, update_time, end_time, result)
    SELECT {_MOVED_NAMES}, 3, 1, now(), now(), result FROM done
),
changed AS (
    INSERT INTO scheduler.job_changes (replica_id, job_ids, states)
    SELECT $4::uuid, array_agg(job_id), array_agg(3::smallint) FROM done HAVING count(*) > 0
)
SELECT job_id, fencing_token, type, limit_key, start_time, now() FROM done
"""

ANSWERED = """
SELECT job_id, fencing_token, state, lease_end FROM scheduler.jobs WHERE job_id = ANY($1::uuid[])
UNION ALL
SELECT job_id, fencing_token, state, lease_end FROM scheduler.ended_jobs WHERE job_id = ANY($1::uuid[])
"""

EXPECT_BACK = f"""
UPDATE scheduler.jobs j SET lease_expire_time = least(j.lease_expire_time, now() + $3::interval)
FROM unnest($1::uuid[], $2::bigint[]) AS i(job_id, fencing_token)
WHERE {FENCE}
"""

STILL_HELD = f"""
SELECT j.job_id, j.fencing_token
FROM unnest($1::uuid[], $2::bigint[]) AS i(job_id, fencing_token) JOIN scheduler.jobs j ON {FENCE}
"""

NEXT_EXPIRE_TIME = "SELECT now(), min(lease_expire_time) FROM scheduler.jobs WHERE lease_expire_time IS NOT NULL"


class PostgresLeases:
    def __init__(self, session: Session, dispatch: Dispatch, creation: PostgresCreation) -> None:
        self._session = session
        self._dispatch = dispatch
        self._creation = creation
        self._claims = PostgresClaims(session, dispatch)
        policies = dispatch.policies
        self._types = list(policies.by_type)
        self._leases = [policy.lease_duration for policy in policies.by_type.values()]
        self._backoff_bases = [policy.backoff_base.total_seconds() for policy in policies.by_type.values()]
        self._backoff_caps = [policy.backoff_cap.total_seconds() for policy in policies.by_type.values()]

    async def claim(self, assignments: Sequence[Assignment], *, accept_timeout: timedelta) -> Claimed:
        return await self._claims.claim(assignments, accept_timeout=accept_timeout)

    async def renew(self, renewals: Sequence[Renewal]) -> Sequence[Renewed]:
        ordered = sorted(renewals, key=lambda renewal: renewal.lease.job_id)
        records = await self._session.fetch(
            RENEW,
            *_refs(each.lease for each in ordered),
            [each.checkpoint for each in ordered],
            [each.progress.completed_count if each.progress else None for each in ordered],
            [each.progress.total_count if each.progress else None for each in ordered],
            [each.progress.message if each.progress else None for each in ordered],
            self._types,
            self._leases,
            self._dispatch.policies.default.lease_duration,
            self._dispatch.replica_id,
        )
        held = {_lease(record): record for record in records}
        return [_to_renewed(each.lease, held.get(each.lease)) for each in renewals]

    async def complete(self, completions: Sequence[Completion]) -> Settlement:
        ordered = sorted(completions, key=lambda completion: completion.lease.job_id)
        arguments = (
            *_refs(each.lease for each in ordered),
            [each.result for each in ordered],
            self._dispatch.replica_id,
        )
        if any(each.children for each in ordered):
            return await self._complete_with_children(completions, arguments)
        done = await self._session.fetch(COMPLETE, *arguments)
        return await self._completed(completions, done)

    async def fail(self, attempts: Sequence[FailedAttempt], *, jitters: Sequence[float]) -> Settlement:
        default = self._dispatch.policies.default
        arguments = (
            *_refs(each.lease for each in attempts),
            [each.permanent for each in attempts],
            [each.failure.reason for each in attempts],
            [each.failure.message for each in attempts],
            [each.retry_delay.total_seconds() if each.retry_delay is not None else None for each in attempts],
            list(jitters),
            self._types,
            self._backoff_bases,
            self._backoff_caps,
            default.backoff_base.total_seconds(),
            default.backoff_cap.total_seconds(),
            self._dispatch.replica_id,
            self._dispatch.ageing,
        )
        wanted = {each.lease: each.gate_until_time for each in attempts if each.gate_until_time}
        if not wanted:
            settled = await self._session.fetch(FAIL, *arguments)
            return await self._settlement([each.lease for each in attempts], settled, LeaseEnd.FAILED)
        async with self._session.begin() as connection:
            settled = await connection.fetch(FAIL, *arguments)
            gates = _gates(settled, wanted)
            await shut_gates(connection, gates)
        settlement = await self._settlement([each.lease for each in attempts], settled, LeaseEnd.FAILED)
        return replace(settlement, gates=[KeyShut(limit_key=key, until=until) for key, until in gates])

    async def release(self, releases: Sequence[Release]) -> Settlement:
        settled = await self._session.fetch(
            RELEASE,
            *_refs(each.lease for each in releases),
            [each.delay.total_seconds() for each in releases],
            [each.checkpoint for each in releases],
            self._dispatch.replica_id,
            self._dispatch.ageing,
        )
        return await self._settlement([each.lease for each in releases], settled, LeaseEnd.RELEASED)

    async def expect_back(self, leases: Sequence[LeaseRef], *, grace: timedelta) -> None:
        await self._session.fetch(EXPECT_BACK, *_refs(sorted(leases, key=lambda lease: lease.job_id)), grace)

    async def still_held(self, leases: Sequence[LeaseRef]) -> Sequence[LeaseRef]:
        return [_lease(record) for record in await self._session.fetch(STILL_HELD, *_refs(leases))]

    async def expire(self, *, limit: int) -> Expired:
        settled = await self._session.fetch(EXPIRE, limit, self._dispatch.replica_id, self._dispatch.ageing)
        now, next_expire_time = (await self._session.fetch(NEXT_EXPIRE_TIME))[0]
        outcomes = [Settled(lease=_lease(record), state=JobState(record["next_state"])) for record in settled]
        return Expired(
            settlement=to_settlement(outcomes, settled, now=now),
            stalled=[record["type"] for record in settled],
            next_expire_time=next_expire_time,
            now=now,
        )

    async def _complete_with_children(
        self, completions: Sequence[Completion], arguments: tuple[Any, ...]
    ) -> Settlement:
        """Children of a job whose cancel was requested are born cancelled, as those of `CreateJobs` are."""
        ready: list[Entry] = []
        async with self._session.begin() as connection:
            flags = await connection.fetch(CANCEL_FLAGS, arguments[0])
            done = await connection.fetch(COMPLETE, *arguments)
            held = {_lease(record) for record in done}
            doomed = {str(record[0]) for record in flags if record[1]}
            for each in completions:
                if not each.children or each.lease not in held:
                    continue
                created = await self._creation.create_in(connection, each.children, parent_job_id=each.lease.job_id)
                if each.lease.job_id in doomed:
                    children = [child.job_id for child in each.children]
                    await cancel_tree(connection, self._dispatch, children, message="")
                else:
                    ready += created.ready
        return replace(await self._completed(completions, done), ready=ready)

    async def _completed(self, completions: Sequence[Completion], done: Sequence[Row]) -> Settlement:
        held = {_lease(record) for record in done}
        late = [each.lease for each in completions if each.lease not in held]
        answers = await self._answers(late, LeaseEnd.COMPLETED) if late else {}
        return Settlement(
            outcomes=[
                Settled(lease=each.lease, state=JobState.SUCCEEDED) if each.lease in held else answers[each.lease]
                for each in completions
            ],
            ended=[Ended(record["type"], JobState.SUCCEEDED, record["start_time"], record["now"]) for record in done],
            freed_keys=frozenset(record["limit_key"] for record in done if record["limit_key"]),
        )

    async def _settlement(self, leases: Sequence[LeaseRef], settled: Sequence[Row], end: LeaseEnd) -> Settlement:
        states = {_lease(record): JobState(record["next_state"]) for record in settled}
        late = [lease for lease in leases if lease not in states]
        answers = await self._answers(late, end) if late else {}
        outcomes = [
            Settled(lease=lease, state=states[lease]) if lease in states else answers[lease] for lease in leases
        ]
        now = settled[0]["now"] if settled else None
        return to_settlement(outcomes, settled, now=now)

    async def _answers(self, leases: Sequence[LeaseRef], end: LeaseEnd) -> dict[LeaseRef, Settled]:
        """For writes without effect: the answer of the first time when it was applied before, else LEASE_LOST."""
        records = await self._session.fetch(ANSWERED, [lease.job_id for lease in leases])
        rows = {str(record[0]): record for record in records}
        return {lease: _answer(lease, rows.get(lease.job_id), end) for lease in leases}


CANCEL_FLAGS = "SELECT job_id, cancel_requested FROM scheduler.jobs WHERE job_id = ANY($1::uuid[]) FOR UPDATE"


def to_settlement(outcomes: Sequence[Settled], records: Sequence[Row], *, now: datetime | None) -> Settlement:
    return Settlement(
        outcomes=outcomes,
        ready=[to_entry(record) for record in records if record["rank_time"]],
        ended=[
            Ended(record["type"], JobState(record["next_state"]), record["start_time"], now)
            for record in records
            if now and JobState(record["next_state"]).terminal
        ],
        freed_keys=frozenset(record["limit_key"] for record in records if record["limit_key"]),
    )


def _lease(record: Row) -> LeaseRef:
    """Of the write that took effect. Writes with several leases of one job may share a statement."""
    return LeaseRef(job_id=str(record["job_id"]), fencing_token=record["fencing_token"])


def _gates(settled: Sequence[Row], wanted: Mapping[LeaseRef, datetime]) -> list[tuple[str, datetime]]:
    """Gates of those jobs alone whose failure was accepted: a stale holder shuts none."""
    return [
        (record["limit_key"], wanted[_lease(record)])
        for record in settled
        if record["limit_key"] and _lease(record) in wanted
    ]


def _refs(leases: Iterable[LeaseRef]) -> tuple[list[str], list[int]]:
    refs = list(leases)
    return [lease.job_id for lease in refs], [lease.fencing_token for lease in refs]


def _to_renewed(lease: LeaseRef, record: Row | None) -> Renewed:
    if record is None:
        return Renewed(lease=lease, directive=Directive.LOST, lease_expire_time=None)
    directive = Directive.CANCEL if record["cancel_requested"] else Directive.CONTINUE
    return Renewed(lease=lease, directive=directive, lease_expire_time=record["lease_expire_time"])


def _answer(lease: LeaseRef, record: Row | None, end: LeaseEnd) -> Settled:
    if record is not None and record[1] == lease.fencing_token and record[3] == end:
        return Settled(lease=lease, state=JobState(record[2]))
    return Settled(
        lease=lease,
        failure=LeaseLost.of(
            job_id=lease.job_id,
            fencing_token=lease.fencing_token,
            current_fencing_token=record[1] if record else 0,
            state=JobState(record[2]).name if record else "",
        ),
    )
