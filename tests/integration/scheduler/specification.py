"""Random walks of jobs in the database beside twins that the pure state machine moves."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from services.scheduler.application.ports import Settlement
from services.scheduler.domain import lifecycle
from services.scheduler.domain.errors import JobStateConflict, LeaseLost
from services.scheduler.domain.job import (
    Completion,
    Directive,
    FailedAttempt,
    Failure,
    Job,
    JobState,
    LeaseRef,
    Release,
    Renewal,
)
from tests.integration.scheduler.stores import POLICY, StoresAndJobs

PAST = datetime(2020, 1, 1, tzinfo=UTC)
NO_DELAY = timedelta()
ACCEPT = timedelta(seconds=30)

EXPIRE_NOW = "UPDATE scheduler.jobs SET lease_expire_time = $2 WHERE state = 2 AND job_id = ANY($1::uuid[])"


class Walk:
    """Does the same step to some of the jobs in one batch, and to their twins one by one."""

    def __init__(self, store: StoresAndJobs, jobs: Sequence[Job], rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self.twins = {job.job_id: job for job in jobs}
        self._steps = (
            self._lease,
            self._lease,
            self._renew,
            self._complete,
            self._fail,
            self._fail_for_good,
            self._release,
            self._expire,
            self._cancel,
            self._retry,
        )

    async def step(self) -> None:
        """One random batch on random jobs, with the current token of each or an older one."""
        chosen = self._rng.sample(sorted(self.twins), k=self._rng.randint(1, len(self.twins)))
        refs = [
            LeaseRef(job_id=name, fencing_token=max(1, self.twins[name].fencing_token - self._rng.choice((0, 0, 0, 1))))
            for name in chosen
        ]
        await self._rng.choice(self._steps)(refs)

    async def _lease(self, refs: Sequence[LeaseRef]) -> None:
        ready = await self._store.ready.still_ready([ref.job_id for ref in refs])
        leased = {job.lease.job_id for job in await self._store.lease(*ready)}
        for ref in refs:
            expected = self._move(
                ref,
                lambda job: lifecycle.lease(
                    job, worker_id="w", now=datetime.now(UTC), accept_timeout=ACCEPT, policy=POLICY
                ),
            )
            assert (ref.job_id in leased) == (expected is JobState.RUNNING)

    async def _renew(self, refs: Sequence[LeaseRef]) -> None:
        renewals = [Renewal(lease=ref, progress=None, checkpoint="") for ref in refs]
        for ref, renewed in zip(refs, await self._store.leases.renew(renewals), strict=True):
            twin = self.twins[ref.job_id]
            self.twins[ref.job_id], directive = lifecycle.renew(twin, lease=ref, now=PAST, policy=POLICY)
            assert renewed.directive is directive
            assert (renewed.lease_expire_time is None) == (directive is Directive.LOST)

    async def _complete(self, refs: Sequence[LeaseRef]) -> None:
        settled = await self._store.leases.complete([Completion(lease=ref, result="{}") for ref in refs])
        self._compare(refs, settled, lambda job, ref: lifecycle.complete(job, lease=ref, result="{}", now=PAST))

    async def _fail(self, refs: Sequence[LeaseRef], *, permanent: bool = False) -> None:
        attempts = [attempt(ref, permanent=permanent) for ref in refs]
        settled = await self._store.leases.fail(attempts, jitters=[0.0] * len(attempts))
        self._compare(
            refs,
            settled,
            lambda job, ref: lifecycle.fail(job, attempt=attempt(ref, permanent=permanent), delay=NO_DELAY, now=PAST),
        )

    async def _fail_for_good(self, refs: Sequence[LeaseRef]) -> None:
        await self._fail(refs, permanent=True)

    async def _release(self, refs: Sequence[LeaseRef]) -> None:
        releases = [Release(lease=ref, delay=NO_DELAY, checkpoint="") for ref in refs]
        settled = await self._store.leases.release(releases)
        self._compare(
            refs,
            settled,
            lambda job, ref: lifecycle.release(job, lease=ref, delay=NO_DELAY, checkpoint="", now=PAST),
        )

    async def _expire(self, refs: Sequence[LeaseRef]) -> None:
        await self._store.execute(EXPIRE_NOW, [ref.job_id for ref in refs], PAST)
        await self._store.leases.expire(limit=100)
        for ref in refs:
            twin = self.twins[ref.job_id]
            if twin.state is JobState.RUNNING:
                self.twins[ref.job_id] = lifecycle.expire(replace(twin, lease_expire_time=PAST), now=datetime.now(UTC))

    async def _cancel(self, refs: Sequence[LeaseRef]) -> None:
        for ref in refs:
            await self._store.control.cancel(ref.job_id, message="", descend=True)
            self._move(ref, lambda job: lifecycle.cancel(job, now=PAST))

    async def _retry(self, refs: Sequence[LeaseRef]) -> None:
        for ref in refs:
            expected = self._move(ref, lambda job: lifecycle.retry(job, now=PAST))
            try:
                await self._store.control.retry(ref.job_id, request_id="")
            except JobStateConflict:
                assert expected is None
            else:
                assert expected is JobState.PENDING

    def _move(self, ref: LeaseRef, transition: Callable[[Job], Job]) -> JobState | None:
        """The state that the specification leads to; None when it refuses the step."""
        try:
            self.twins[ref.job_id] = transition(self.twins[ref.job_id])
        except (LeaseLost, JobStateConflict):
            return None
        return self.twins[ref.job_id].state

    def _compare(
        self, refs: Sequence[LeaseRef], settlement: Settlement, transition: Callable[[Job, LeaseRef], Job]
    ) -> None:
        for ref, outcome in zip(refs, settlement.outcomes, strict=True):
            expected = self._move(ref, lambda job, ref=ref: transition(job, ref))
            assert outcome.state == expected
            assert (outcome.failure is None) == (expected is not None)


def attempt(lease: LeaseRef, *, permanent: bool) -> FailedAttempt:
    return FailedAttempt(
        lease=lease,
        failure=Failure(reason=8, message="boom"),
        permanent=permanent,
        retry_delay=NO_DELAY,
        gate_until_time=None,
    )


def visible(job: Job) -> tuple[object, ...]:
    """What both must agree on; times of the two differ."""
    return (
        job.state,
        job.fencing_token,
        job.attempt,
        job.stall_count,
        job.lease_end,
        job.cancel_requested,
        job.worker_id,
        job.last_failure and (job.last_failure.reason, job.last_failure.attempt),
        job.end_time is None,
        job.lease_expire_time is None,
    )
