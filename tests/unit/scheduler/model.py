"""A small world of workers and jobs for the model checks.

Workers remember every lease that they were given and may use any of them at any time, as
a stalled process does when it wakes. The world checks after each step what must hold
whatever the order of events. It runs the production module `lifecycle`, so that the
specification that is explored is the one that is shipped.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from services.scheduler.domain import lifecycle
from services.scheduler.domain.errors import JobStateConflict, LeaseLost
from services.scheduler.domain.job import Directive, Job, JobState, LeaseEnd, LeaseRef
from services.scheduler.domain.policy import TypePolicy
from tests.unit.scheduler import builders

POLICY = TypePolicy(lease_duration=timedelta(seconds=2), total_deadline=timedelta(seconds=9))
ACCEPT = timedelta(seconds=1)
DELAY = timedelta(seconds=1)


class InvariantBrokenError(AssertionError):
    pass


@dataclass(frozen=True, slots=True)
class World:
    """`grants` are the leases that each worker was given, per job: worker, token."""

    now: datetime
    jobs: tuple[Job, ...]
    grants: tuple[frozenset[tuple[str, int]], ...]

    def key(self) -> tuple[object, ...]:
        return (self.now, self.jobs, self.grants)


def start(jobs: int) -> World:
    return World(
        now=builders.NOW,
        jobs=tuple(builders.job(job_id=f"j{index}") for index in range(jobs)),
        grants=(frozenset(),) * jobs,
    )


def lease(world: World, index: int, worker: str) -> World:
    before = world.jobs[index]
    try:
        after = lifecycle.lease(before, worker_id=worker, now=world.now, accept_timeout=ACCEPT, policy=POLICY)
    except JobStateConflict:
        return world
    _require(before.state is JobState.PENDING, "a job that was not waiting was leased")
    _require(before.schedule_time <= world.now, "a job was leased before its time")
    _require(after.fencing_token > before.fencing_token, "the fencing token did not grow")
    _require(not before.cancel_requested, "a job whose cancel was requested was leased")
    grants = _with(world.grants, index, world.grants[index] | {(worker, after.fencing_token)})
    return replace(world, jobs=_with(world.jobs, index, after), grants=grants)


def write(world: World, index: int, worker: str, token: int, how: str) -> World:
    """A worker writes with a lease that it was given at some time, maybe long ago."""
    before = world.jobs[index]
    ref = LeaseRef(job_id=before.job_id, fencing_token=token)
    current = before.state is JobState.RUNNING and before.fencing_token == token
    try:
        after = _apply(before, ref, world.now, how)
    except LeaseLost:
        _require(not current, "the holder of the current lease was refused")
        return world
    _require(current or after == before, f"a stale lease changed the job by {how}")
    _require(not current or how == "renew" or after.state is not JobState.RUNNING, f"{how} by the holder had no effect")
    _check_end(before, after)
    return replace(world, jobs=_with(world.jobs, index, after))


def _apply(before: Job, ref: LeaseRef, now: datetime, how: str) -> Job:
    match how:
        case "renew":
            after, directive = lifecycle.renew(before, lease=ref, now=now, policy=POLICY)
            wanted = Directive.CANCEL if before.cancel_requested else Directive.CONTINUE
            current = before.state is JobState.RUNNING and before.fencing_token == ref.fencing_token
            _require(directive is (wanted if current else Directive.LOST), "a wrong directive")
            return after
        case "complete":
            return lifecycle.complete(before, lease=ref, result="{}", now=now)
        case "fail":
            return lifecycle.fail(before, attempt=builders.failed(ref), delay=DELAY, now=now)
        case "fail for good":
            attempt = builders.failed(ref, permanent=True)
            return lifecycle.fail(before, attempt=attempt, delay=DELAY, now=now)
        case _:
            return lifecycle.release(before, lease=ref, delay=timedelta(), checkpoint="", now=now)


def expire(world: World, index: int) -> World:
    before = world.jobs[index]
    try:
        after = lifecycle.expire(before, now=world.now)
    except JobStateConflict:
        return world
    _require(before.state is JobState.RUNNING, "a job that nobody holds was taken back")
    assert before.lease_expire_time is not None
    _require(before.lease_expire_time < world.now, "a lease was taken before its end")
    _check_end(before, after)
    return replace(world, jobs=_with(world.jobs, index, after))


def cancel(world: World, index: int) -> World:
    before = world.jobs[index]
    after = lifecycle.cancel(before, now=world.now)
    _require(after == before or not before.state.terminal, "cancel changed a terminal job")
    _require(after.state in (before.state, JobState.CANCELLED), "cancel led to a wrong state")
    taken = before.state is JobState.RUNNING and after.state is not JobState.RUNNING
    _require(not taken, "cancel took a job from its holder")
    return replace(world, jobs=_with(world.jobs, index, after))


def retry(world: World, index: int) -> World:
    before = world.jobs[index]
    try:
        after = lifecycle.retry(before, now=world.now)
    except JobStateConflict:
        return world
    _require(before.state in (JobState.FAILED, JobState.CANCELLED, JobState.DEAD), "a job was revived that must not be")
    _require(after.fencing_token == before.fencing_token, "retry changed the fencing token")
    return replace(world, jobs=_with(world.jobs, index, after))


def step_clock(world: World, seconds: int) -> World:
    return replace(world, now=world.now + timedelta(seconds=seconds))


def check(world: World) -> None:
    for job, grants in zip(world.jobs, world.grants, strict=True):
        tokens = [token for _, token in grants]
        _require(len(tokens) == len(set(tokens)), "two workers were given the same token")
        _require(job.attempt <= job.max_attempts, "more attempts than allowed")
        _require(job.stall_count <= job.max_stalls, "more stalls than allowed")
        _require((job.state is JobState.RUNNING) == (job.lease_expire_time is not None), "lease and state disagree")
        _require(job.state.terminal == (job.end_time is not None), "end time and state disagree")
        if job.state is JobState.RUNNING:
            _require(job.fencing_token == max(tokens), "the current token is not the newest")
            _require((job.worker_id, job.fencing_token) in grants, "the holder was never given its lease")


def _check_end(before: Job, after: Job) -> None:
    """What an accepted write or an expiry may lead to."""
    requeued = before.state is JobState.RUNNING and after.state is JobState.PENDING
    _require(not (requeued and before.cancel_requested), "a cancelled job went back to the queue")
    if requeued and after.lease_end is LeaseEnd.FAILED:
        _require(before.attempt < before.max_attempts, "a job was retried although its attempts are spent")
    if requeued and after.lease_end is LeaseEnd.STALLED:
        _require(after.stall_count < after.max_stalls, "a job was requeued although its stalls are spent")
    if requeued and before.deadline_time and after.lease_end in (LeaseEnd.FAILED, LeaseEnd.STALLED):
        _require(after.schedule_time < before.deadline_time, "a job was requeued past its deadline")
    if after.state is JobState.DEAD:
        _require(after.last_failure is not None, "a dead job without a reason")
    if after.state is JobState.RUNNING and after.deadline_time and after.lease_expire_time:
        extended = after.lease_expire_time > max(after.deadline_time, before.lease_expire_time or after.deadline_time)
        _require(not extended, "a lease was extended past the deadline")


def _with(items: tuple, index: int, item: object) -> tuple:
    return (*items[:index], item, *items[index + 1 :])


def _require(holds: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not holds:
        raise InvariantBrokenError(message)
