"""The state machine of a job, as pure functions from a job to the job after the step.

    PENDING ──lease──▶ RUNNING ──complete──▶ SUCCEEDED
       ▲                  ├──fail, permanent──▶ FAILED
       ├──fail, release,──┤
       │  expire          ├──fail, expire; attempts or stalls spent──▶ DEAD
       │                  │
       └──────cancel──────┴──▶ CANCELLED

The adapter does the same steps for many jobs in one SQL statement; this module is the
specification that it is tested against, and what the model checks explore. Invariants:

- the fencing token grows with each lease and with nothing else;
- only the holder of the current token changes a RUNNING job, apart from `cancel`, which
  only asks, and `expire`, which needs the lease to have run out;
- a terminal job changes by `retry` alone;
- a job whose cancel was requested never becomes PENDING again.

Each predicate below is one guard. Replacing any of them by a constant breaks an
invariant, and a test shows that.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from services.scheduler.domain.errors import JobStateConflict, LeaseLost
from services.scheduler.domain.job import (
    REVIVABLE,
    Directive,
    FailedAttempt,
    Failure,
    Job,
    JobState,
    LeaseEnd,
    LeaseRef,
    Progress,
)
from services.scheduler.domain.policy import TypePolicy
from services.shared.errors import Reason


def is_waiting(job: Job) -> bool:
    return job.state is JobState.PENDING


def is_due(job: Job, now: datetime) -> bool:
    return job.schedule_time <= now


def is_held(job: Job) -> bool:
    return job.state is JobState.RUNNING


def token_matches(job: Job, lease: LeaseRef) -> bool:
    return job.fencing_token == lease.fencing_token


def lease_has_run_out(job: Job, now: datetime) -> bool:
    """False for a job that nobody holds: it has no lease."""
    return job.lease_expire_time is not None and job.lease_expire_time < now


def deadline_allows(job: Job, at: datetime) -> bool:
    return job.deadline_time is None or at < job.deadline_time


def attempts_left(job: Job) -> bool:
    return job.attempt < job.max_attempts


def stalls_left(job: Job) -> bool:
    return job.stall_count < job.max_stalls


def is_revivable(job: Job) -> bool:
    return job.state in REVIVABLE


def wants_to_end(job: Job) -> bool:
    return job.cancel_requested


def was_answered(job: Job, lease: LeaseRef, end: LeaseEnd) -> bool:
    """Whether this write was applied before: the lease given is the last one, and it ended just so."""
    return job.fencing_token == lease.fencing_token and job.lease_end is end


def lease(job: Job, *, worker_id: str, now: datetime, accept_timeout: timedelta, policy: TypePolicy) -> Job:
    """Hands the job to a worker, which must accept it by any write within `accept_timeout`."""
    if not is_waiting(job) or not is_due(job, now):
        raise JobStateConflict.of(job_id=job.job_id, state=job.state.name, step="be leased")
    deadline = now + policy.total_deadline if policy.total_deadline else None
    return replace(
        job,
        state=JobState.RUNNING,
        worker_id=worker_id,
        fencing_token=job.fencing_token + 1,
        attempt=job.attempt + 1,
        lease_end=LeaseEnd.NONE,
        lease_expire_time=now + accept_timeout,
        start_time=job.start_time or now,
        deadline_time=job.deadline_time or deadline,
        update_time=now,
    )


def require_held(job: Job, lease: LeaseRef) -> None:
    """The fence: every write of a worker passes here."""
    if not is_held(job) or not token_matches(job, lease):
        raise LeaseLost.of(
            job_id=job.job_id,
            fencing_token=lease.fencing_token,
            current_fencing_token=job.fencing_token,
            state=job.state.name,
        )


def renew(
    job: Job,
    *,
    lease: LeaseRef,
    now: datetime,
    policy: TypePolicy,
    progress: Progress | None = None,
    checkpoint: str = "",
) -> tuple[Job, Directive]:
    """Extends the lease, but never past the total deadline."""
    if not is_held(job) or not token_matches(job, lease):
        return job, Directive.LOST
    expire = now + policy.lease_duration
    renewed = replace(
        job,
        lease_expire_time=min(expire, job.deadline_time) if job.deadline_time else expire,
        progress=progress or job.progress,
        checkpoint=checkpoint or job.checkpoint,
        update_time=now if progress else job.update_time,
    )
    return renewed, Directive.CANCEL if wants_to_end(job) else Directive.CONTINUE


def complete(job: Job, *, lease: LeaseRef, result: str, now: datetime) -> Job:
    if was_answered(job, lease, LeaseEnd.COMPLETED):
        return job
    require_held(job, lease)
    return replace(_ended(job, JobState.SUCCEEDED, now), result=result, lease_end=LeaseEnd.COMPLETED)


def fail(job: Job, *, attempt: FailedAttempt, delay: timedelta, now: datetime) -> Job:
    """Ends the attempt by an error. `delay` is what the caller asked for, or the backoff of the type."""
    if was_answered(job, attempt.lease, LeaseEnd.FAILED):
        return job
    require_held(job, attempt.lease)
    failure = replace(attempt.failure, attempt=job.attempt, fail_time=now)
    failed = replace(job, last_failure=failure, lease_end=LeaseEnd.FAILED)
    if attempt.permanent:
        return _ended(failed, JobState.FAILED, now)
    if not attempts_left(job) or not deadline_allows(job, now + delay):
        return _ended(failed, JobState.DEAD, now)
    return _requeued(failed, now=now, delay=delay)


def release(job: Job, *, lease: LeaseRef, delay: timedelta, checkpoint: str, now: datetime) -> Job:
    """Gives the job back without spending the attempt."""
    if was_answered(job, lease, LeaseEnd.RELEASED):
        return job
    require_held(job, lease)
    released = replace(
        job, attempt=job.attempt - 1, checkpoint=checkpoint or job.checkpoint, lease_end=LeaseEnd.RELEASED
    )
    return _requeued(released, now=now, delay=delay)


def expire(job: Job, *, now: datetime) -> Job:
    """Takes the job from a holder that did not renew in time. Counts as a stall, not as an attempt."""
    if not lease_has_run_out(job, now):
        raise JobStateConflict.of(job_id=job.job_id, state=job.state.name, step="expire")
    stalled = replace(job, attempt=job.attempt - 1, stall_count=job.stall_count + 1, lease_end=LeaseEnd.STALLED)
    if not deadline_allows(job, now):
        return _dead(stalled, Reason.DEADLINE_UNREACHABLE, "the total deadline has passed", now)
    if not stalls_left(stalled):
        return _dead(stalled, Reason.STALLED_TOO_OFTEN, "the job was abandoned too often", now)
    return _requeued(stalled, now=now, delay=timedelta())


def cancel(job: Job, *, now: datetime) -> Job:
    """Ends a waiting job at once, asks the holder of a running one, leaves any other alone."""
    if is_waiting(job):
        return _ended(replace(job, cancel_requested=True), JobState.CANCELLED, now)
    if is_held(job) and not wants_to_end(job):
        return replace(job, cancel_requested=True, update_time=now)
    return job


def retry(job: Job, *, now: datetime) -> Job:
    """Revives an ended job with fresh attempts. The fencing token goes on from where it was."""
    if not is_revivable(job):
        raise JobStateConflict.of(job_id=job.job_id, state=job.state.name, step="be retried")
    return replace(
        job,
        state=JobState.PENDING,
        attempt=0,
        stall_count=0,
        cancel_requested=False,
        lease_end=LeaseEnd.NONE,
        schedule_time=now,
        update_time=now,
        start_time=None,
        end_time=None,
        deadline_time=None,
    )


def _requeued(job: Job, *, now: datetime, delay: timedelta) -> Job:
    if wants_to_end(job):
        return _ended(job, JobState.CANCELLED, now)
    return replace(
        job, state=JobState.PENDING, worker_id="", lease_expire_time=None, schedule_time=now + delay, update_time=now
    )


def _dead(job: Job, reason: Reason, message: str, now: datetime) -> Job:
    failure = Failure(reason=reason, message=message, attempt=job.attempt + 1, fail_time=now)
    return _ended(replace(job, last_failure=failure), JobState.DEAD, now)


def _ended(job: Job, state: JobState, now: datetime) -> Job:
    return replace(job, state=state, worker_id="", lease_expire_time=None, end_time=now, update_time=now)
