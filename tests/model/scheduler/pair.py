"""PostgreSQL and the pure state machine side by side: the same commands, the same answers, the same jobs.

Every command goes to the adapter and to a dictionary of jobs that the domain module
changes. Answers and all fields of all jobs must be equal after each, and every change
that PostgreSQL made must keep the promises of `invariants`.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from services.scheduler.application.ports import Assignment, HandOut, Settled
from services.scheduler.domain import lifecycle, limits
from services.scheduler.domain.errors import JobStateConflict
from services.scheduler.domain.job import (
    Completion,
    Directive,
    FailedAttempt,
    Failure,
    Job,
    JobSpec,
    JobState,
    LeaseRef,
    Progress,
    Release,
    Renewal,
)
from services.scheduler.domain.limits import KeyLimit
from services.scheduler.domain.policy import Policies, TypePolicy
from services.scheduler.domain.ready_index import Entry
from services.shared.errors import ServiceError
from tests.model.scheduler.invariants import Command, Step, check_step
from tests.model.scheduler.store import Store, start_of_time

TYPE = "work"
POLICY = TypePolicy(
    lease_duration=timedelta(seconds=60), total_deadline=timedelta(seconds=600), max_attempts=2, max_stalls=2
)
POLICIES = Policies(by_type={TYPE: POLICY}, default=TypePolicy())
ACCEPT = timedelta(seconds=10)
CHECKPOINT = '{"at":1}'

_REASON = 8
_NOTHING = timedelta()


class Divergence(AssertionError):
    """PostgreSQL and the state machine do not agree."""


Answer = str | tuple[str, Mapping[str, object]]


def refusal(error: ServiceError) -> Answer:
    return type(error).__name__, {name: str(value) for name, value in error.metadata.items()}


class Pair:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._project = uuid.uuid4().hex
        self._limits: dict[str, KeyLimit] = {}
        self._retried: dict[str, str] = {}
        self.now = self._latest = start_of_time()
        self.jobs: dict[str, Job] = {}
        self.paused = False

    async def start(self) -> None:
        await self._store.empty()
        await self._store.set_clock(self.now)

    async def pass_time(self, delta: timedelta) -> None:
        """Also backwards, as when a clock is set."""
        self.now += delta
        self._latest = max(self._latest, self.now)
        await self._store.set_clock(self.now)

    def lease(self, job_id: str, *, age: int = 0) -> LeaseRef:
        """The lease that was given out last, or one `age` leases before it."""
        return LeaseRef(job_id=job_id, fencing_token=max(1, self.jobs[job_id].fencing_token - age))

    # -- clients ---------------------------------------------------------------

    async def create(
        self, *, delay: timedelta = _NOTHING, key: str = "", parent: LeaseRef | None = None, job_id: str = ""
    ) -> str:
        spec = self._spec(job_id or str(uuid.uuid4()), delay=delay, key=self._key(key))
        expected: dict[str, Job] = {}
        try:
            if parent is not None:
                lifecycle.require_held(self.jobs[parent.job_id], parent)
            expected = self._born([spec], parent)
            answer: Answer = "ok"
        except ServiceError as error:
            answer = refusal(error)
        try:
            await self._store.creation.create([spec], parent=parent)
            given: Answer = "ok"
        except ServiceError as error:
            given = refusal(error)
        self._agree("create", answer, given)
        await self._compare(expected)
        return spec.job_id

    async def hand_out(self, job_id: str = "", *, worker_id: str = "w") -> str:
        """Creates a job for a worker that waits: all that `create` and `claim` do to a new one."""
        spec = self._spec(job_id or str(uuid.uuid4()), delay=_NOTHING, key="", chosen=bool(job_id))
        expected = self._born([spec], None)
        if expected and not self.paused:
            leased = lifecycle.lease(
                expected[spec.job_id], worker_id=worker_id, now=self.now, accept_timeout=ACCEPT, policy=POLICY
            )
            expected = {spec.job_id: leased}
        handed = await self._store.creation.create_leased(
            [HandOut(spec=spec, worker_id=worker_id, total_deadline=POLICY.total_deadline)], accept_timeout=ACCEPT
        )
        given = {job.lease.job_id: job.lease.fencing_token for job in handed.leased}
        held = {job.job_id: job.fencing_token for job in expected.values() if lifecycle.is_held(job)}
        self._agree("hand out", held, given)
        await self._compare(expected)
        return spec.job_id

    async def cancel(self, job_id: str) -> None:
        expected = self._cancelled([job_id], self.jobs)
        await self._store.control.cancel(job_id, message="", descend=True)
        await self._compare(expected, Command.CANCEL)

    async def retry(self, job_id: str, *, request_id: str = "") -> None:
        expected: dict[str, Job] = {}
        answer: Answer = "ok"
        try:
            expected = {job_id: lifecycle.retry(self.jobs[job_id], now=self.now)}
            self._retried[job_id] = request_id
        except JobStateConflict as error:
            if not request_id or self._retried.get(job_id) != request_id:
                answer = refusal(error)
        try:
            await self._store.control.retry(job_id, request_id=request_id)
            given: Answer = "ok"
        except ServiceError as error:
            given = refusal(error)
        self._agree("retry", answer, given)
        await self._compare(expected, Command.RETRY)

    async def delete(self, job_id: str) -> None:
        job = self.jobs[job_id]
        answer = (
            "ok"
            if job.state.terminal
            else refusal(JobStateConflict.of(job_id=job_id, state=job.state.name, step="be deleted"))
        )
        try:
            await self._store.control.delete(job_id)
            given: Answer = "ok"
        except ServiceError as error:
            given = refusal(error)
        self._agree("delete", answer, given)
        if answer == "ok":
            del self.jobs[job_id]
            if (await self._store.jobs([job_id]))[job_id]:
                raise Divergence("a deleted job is still there")
        await self._compare({})

    # -- the scheduler ---------------------------------------------------------

    async def pause(self, *, paused: bool) -> None:
        self.paused = paused
        await (self._store.controls.pause(TYPE) if paused else self._store.controls.resume(TYPE))

    async def limit(self, key: str, *, cap: int = 0, rate: float = 0.0) -> None:
        name = self._key(key)
        gate = self._limit(name).gate_until_time
        self._limits[name] = KeyLimit(
            limit_key=name,
            max_in_flight=cap,
            max_per_second=rate,
            tokens=max(rate, 1.0),
            refill_time=self._limit(name).refill_time,
            gate_until_time=gate,
        )
        await self._store.controls.set_key_limit(name, max_in_flight=cap, max_per_second=rate)

    async def claim(self, *job_ids: str, worker_id: str = "w") -> None:
        entries = [self._entry(self.jobs[job_id]) for job_id in job_ids]
        expected, refused = self._admitted(entries, worker_id)
        claimed = await self._store.leases.claim(
            [Assignment(entry=entry, worker_id=worker_id, total_deadline=POLICY.total_deadline) for entry in entries],
            accept_timeout=ACCEPT,
        )
        given = {job.lease.job_id: job.lease.fencing_token for job in claimed.leased}
        self._agree("claim", {job.job_id: job.fencing_token for job in expected.values()}, given)
        self._agree("claim, refused", refused, {entry.job_id for entry in claimed.refused})
        await self._compare(expected, Command.LEASE)

    async def expire(self) -> None:
        expected: dict[str, Job] = {}
        for job in self.jobs.values():
            if lifecycle.lease_has_run_out(job, self.now):
                expected[job.job_id] = lifecycle.expire(job, now=self.now)
        expired = await self._store.leases.expire(limit=100)
        self._agree("expire", len(expected), len(expired.stalled))
        await self._compare(expected, Command.EXPIRE)

    async def promote(self) -> None:
        """After this, every due job is offered for dispatch, and none that does not wait."""
        await self._store.ready.promote_due(limit=100)
        heads = await self._store.ready.heads([TYPE], limit=100)
        offered = {entry.job_id for entry in heads.get((TYPE, self._project), ())}
        waiting = {job.job_id for job in self.jobs.values() if job.state is JobState.PENDING}
        due = {job_id for job_id in waiting if self.jobs[job_id].schedule_time <= self.now}
        was_due = {job_id for job_id in waiting if self.jobs[job_id].schedule_time <= self._latest}
        if not due <= offered <= was_due:
            raise Divergence(f"due {due}, offered {offered}, waiting {waiting}")

    # -- workers ---------------------------------------------------------------

    async def renew(self, lease: LeaseRef, *, progress: Progress | None = None, checkpoint: str = "") -> None:
        job, directive = lifecycle.renew(
            self.jobs[lease.job_id],
            lease=lease,
            now=self.now,
            policy=POLICY,
            progress=progress,
            checkpoint=checkpoint,
        )
        [given] = await self._store.leases.renew([Renewal(lease=lease, progress=progress, checkpoint=checkpoint)])
        self._agree("renew", directive, given.directive)
        if directive is not Directive.LOST:
            self._agree("renew, until", job.lease_expire_time, given.lease_expire_time)
        await self._compare({job.job_id: job}, Command.RENEW, lease)

    async def expect_back(self, lease: LeaseRef, *, grace: timedelta) -> None:
        """What the end of a worker's stream does to its leases."""
        job = self.jobs[lease.job_id]
        if lifecycle.is_held(job) and lifecycle.token_matches(job, lease):
            expire = job.lease_expire_time or self.now
            job = replace(job, lease_expire_time=min(expire, self.now + grace))
        await self._store.leases.expect_back([lease], grace=grace)
        await self._compare({job.job_id: job})

    async def complete(self, lease: LeaseRef, *, children: Sequence[str] = ()) -> None:
        before = self.jobs[lease.job_id]
        expected, answer = self._judge(lambda: lifecycle.complete(before, lease=lease, result="{}", now=self.now))
        specs = [self._spec(job_id, delay=_NOTHING, key="") for job_id in children]
        if expected and expected[lease.job_id] != before:
            expected |= self._born(specs, lease)
        settlement = await self._store.leases.complete([Completion(lease=lease, result="{}", children=tuple(specs))])
        self._settled("complete", answer, settlement.outcomes)
        await self._compare(expected, Command.COMPLETE, lease)

    async def fail(
        self,
        lease: LeaseRef,
        *,
        permanent: bool = False,
        delay: timedelta = timedelta(seconds=30),
        gate_until: datetime | None = None,
    ) -> None:
        attempt = FailedAttempt(
            lease=lease,
            failure=Failure(reason=_REASON, message="boom"),
            permanent=permanent,
            retry_delay=delay,
            gate_until_time=gate_until,
        )
        before = self.jobs[lease.job_id]
        expected, answer = self._judge(lambda: lifecycle.fail(before, attempt=attempt, delay=delay, now=self.now))
        if gate_until is not None and before.limit_key and expected.get(lease.job_id, before) != before:
            self._shut(before.limit_key, gate_until)
        settlement = await self._store.leases.fail([attempt], jitters=[0.5])
        self._settled("fail", answer, settlement.outcomes)
        await self._compare(expected, Command.FAIL, lease)

    async def release(self, lease: LeaseRef, *, delay: timedelta = _NOTHING, checkpoint: str = "") -> None:
        before = self.jobs[lease.job_id]
        expected, answer = self._judge(
            lambda: lifecycle.release(before, lease=lease, delay=delay, checkpoint=checkpoint, now=self.now)
        )
        settlement = await self._store.leases.release([Release(lease=lease, delay=delay, checkpoint=checkpoint)])
        self._settled("release", answer, settlement.outcomes)
        await self._compare(expected, Command.RELEASE, lease)

    # -- the state machine's side ----------------------------------------------

    def _judge(self, step) -> tuple[dict[str, Job], Answer]:
        try:
            job: Job = step()
        except ServiceError as error:
            return {}, refusal(error)
        return {job.job_id: job}, job.state.name

    def _admitted(self, entries: Sequence[Entry], worker_id: str) -> tuple[dict[str, Job], set[str]]:
        keyed = [entry for entry in entries if entry.limit_key]
        running = {
            entry.limit_key: sum(lifecycle.is_held(job) and job.limit_key == entry.limit_key for job in self._all())
            for entry in keyed
        }
        known = {entry.limit_key: self._limit(entry.limit_key) for entry in keyed}
        admission = limits.admit(keyed, limits=known, running=running, now=self.now)
        refused = {entry.job_id for entry in admission.refused}
        leased: dict[str, Job] = {}
        for entry in entries:
            job = self.jobs[entry.job_id]
            free = entry.job_id not in refused and not self.paused and entry.job_id not in leased
            if free and lifecycle.is_waiting(job) and lifecycle.is_due(job, self.now):
                leased[job.job_id] = lifecycle.lease(
                    job, worker_id=worker_id, now=self.now, accept_timeout=ACCEPT, policy=POLICY
                )
        for name in {job.limit_key for job in leased.values() if job.limit_key}:
            self._spend(name, sum(job.limit_key == name for job in leased.values()))
        return leased, refused

    def _born(self, specs: Sequence[JobSpec], parent: LeaseRef | None) -> dict[str, Job]:
        born = {spec.job_id: self._new(spec, parent) for spec in specs if spec.job_id not in self.jobs}
        if parent is not None and lifecycle.wants_to_end(self.jobs[parent.job_id]):
            born |= self._cancelled([spec.job_id for spec in specs], {**self.jobs, **born})
        return born

    def _cancelled(self, roots: Sequence[str], jobs: Mapping[str, Job]) -> dict[str, Job]:
        cancelled: dict[str, Job] = {}
        level = list(roots)
        while level:
            cancelled |= {job_id: lifecycle.cancel(jobs[job_id], now=self.now) for job_id in level}
            level = [job.job_id for job in jobs.values() if job.parent_job_id in level]
        return cancelled

    def _new(self, spec: JobSpec, parent: LeaseRef | None) -> Job:
        return Job(
            job_id=spec.job_id,
            type=spec.type,
            project_id=spec.project_id,
            state=JobState.PENDING,
            priority=spec.priority,
            payload=spec.payload,
            create_time=self.now,
            update_time=self.now,
            schedule_time=spec.schedule_time or self.now,
            max_attempts=POLICY.max_attempts,
            max_stalls=POLICY.max_stalls,
            limit_key=spec.limit_key,
            parent_job_id=parent.job_id if parent else "",
        )

    def _spec(self, job_id: str, *, delay: timedelta, key: str, chosen: bool = True) -> JobSpec:
        return JobSpec(
            job_id=job_id,
            chosen=chosen,
            type=TYPE,
            project_id=self._project,
            priority=5,
            payload="{}",
            schedule_time=self.now + delay if delay else None,
            limit_key=key,
            max_attempts=0,
            traceparent="",
        )

    def _entry(self, job: Job) -> Entry:
        return Entry(job.job_id, job.type, job.project_id, self.now, job.limit_key)

    def _key(self, key: str) -> str:
        """Keys are of one pair alone, because the adapter remembers which it has made."""
        return f"{self._project}-{key}" if key else ""

    def _limit(self, name: str) -> KeyLimit:
        unlimited = KeyLimit(
            limit_key=name, max_in_flight=0, max_per_second=0, tokens=0, refill_time=self.now, gate_until_time=None
        )
        return self._limits.get(name, unlimited)

    def _spend(self, name: str, count: int) -> None:
        limit = self._limit(name)
        if limit.max_per_second:
            tokens = limit.available(self.now) - count
            self._limits[name] = replace(limit, tokens=tokens, refill_time=self.now)

    def _shut(self, name: str, until: datetime) -> None:
        limit = self._limit(name)
        self._limits[name] = replace(limit, gate_until_time=max(until, limit.gate_until_time or until))

    def _all(self) -> Iterable[Job]:
        return self.jobs.values()

    # -- judgement -------------------------------------------------------------

    def _settled(self, command: str, answer: Answer, outcomes: Sequence[Settled]) -> None:
        [outcome] = outcomes
        given: Answer = refusal(outcome.failure) if outcome.failure else outcome.state.name if outcome.state else ""
        self._agree(command, answer, given)

    def _agree(self, command: str, expected: object, given: object) -> None:
        if expected != given:
            raise Divergence(f"{command}: the state machine says {expected}, PostgreSQL {given}")

    async def _compare(
        self, expected: Mapping[str, Job], command: Command | None = None, lease: LeaseRef | None = None
    ):
        before = dict(self.jobs)
        self.jobs.update(expected)
        stored = await self._store.jobs(list(self.jobs))
        for job_id, job in self.jobs.items():
            if stored[job_id] != [job]:
                raise Divergence(f"{command}:\n{difference(job, stored[job_id])}")
            if command and job_id in before:
                token = lease.fencing_token if lease and lease.job_id == job_id else 0
                accepted = job != before[job_id] or job_id in expected
                step = Step(
                    command=command, before=before[job_id], after=job, accepted=accepted, now=self.now, token=token
                )
                if job_id in expected and (lease is None or lease.job_id == job_id):
                    check_step(step)


def difference(expected: Job, stored: Sequence[Job]) -> str:
    if len(stored) != 1:
        return f"  job {expected.job_id} is stored {len(stored)} times"
    [given] = stored
    names = [name for name in Job.__slots__ if getattr(expected, name) != getattr(given, name)]
    lines = [f"  {name}: {getattr(expected, name)!r}, but stored {getattr(given, name)!r}" for name in names]
    return "\n".join(lines)
