"""What the scheduler promises about each step of a job, said without the code that keeps it.

A `Step` is one command on one job: what was there before, what came of it, and whether
the caller was told that it took effect. The same promises judge the pure state machine
in the model check and PostgreSQL in the differential test.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from services.scheduler.domain.job import Job, JobState
from tests.model.scheduler.explore import BrokenInvariant


class Command(StrEnum):
    LEASE = "lease"
    RENEW = "renew"
    COMPLETE = "complete"
    FAIL = "fail"
    FAIL_FOR_GOOD = "fail for good"
    RELEASE = "release"
    EXPIRE = "expire"
    CANCEL = "cancel"
    RETRY = "retry"


FINAL_WRITES = (Command.COMPLETE, Command.FAIL, Command.FAIL_FOR_GOOD, Command.RELEASE)
WORKER_WRITES = (Command.RENEW, *FINAL_WRITES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """`token` is that of the caller, 0 for callers who have none. `accepted`: was not refused."""

    command: Command
    before: Job
    after: Job
    accepted: bool
    now: datetime
    token: int = 0

    @property
    def changed(self) -> bool:
        return self.before != self.after


def require(holds: bool, promise: str) -> None:  # noqa: FBT001 - reads as the sentence that it is
    if not holds:
        raise BrokenInvariant(promise)


def check_step(step: Step) -> None:
    require(step.accepted or not step.changed, "a refused command changes nothing")
    _check_token(step)
    _check_terminal(step)
    _check_writer(step)
    _check_counts(step)
    _check_lease(step)
    _check_cancel(step)
    _check_deadline(step)
    _check_end(step)


def _check_token(step: Step) -> None:
    grown = step.after.fencing_token - step.before.fencing_token
    leased = step.command is Command.LEASE and step.changed
    require(grown == (1 if leased else 0), "the fencing token grows by one with each lease and with nothing else")


def _check_terminal(step: Step) -> None:
    if step.before.state.terminal:
        revived = step.command is Command.RETRY and step.before.state is not JobState.SUCCEEDED
        require(revived or not step.changed, "a job that ended changes by RetryJob alone, and never after a success")


def _check_writer(step: Step) -> None:
    if step.command in WORKER_WRITES and step.changed:
        held = step.before.state is JobState.RUNNING and step.token == step.before.fencing_token
        require(held, "a worker's write has an effect only with the current token of a running job")


# How `attempt` and `stall_count` move with each command that takes effect.
_COUNTS = {
    Command.LEASE: (1, 0),
    Command.RELEASE: (-1, 0),
    Command.EXPIRE: (-1, 1),
}


def _check_counts(step: Step) -> None:
    before, after = step.before, step.after
    if step.command is Command.RETRY:
        fresh = not step.changed or (after.attempt, after.stall_count, after.cancel_requested) == (0, 0, False)
        require(fresh, "a revived job starts with fresh attempts and no cancel")
        return
    moved = (after.attempt - before.attempt, after.stall_count - before.stall_count)
    expected = _COUNTS.get(step.command, (0, 0)) if step.changed else (0, 0)
    require(moved == expected, "attempts count errors, stalls count lost leases, releases count nothing")


def _check_lease(step: Step) -> None:
    before, after = step.before, step.after
    if step.command is Command.LEASE and step.changed:
        due = before.state is JobState.PENDING and before.schedule_time <= step.now
        require(due, "only a waiting job that is due is leased")
    if step.command is Command.EXPIRE and step.changed:
        over = before.lease_expire_time is not None and before.lease_expire_time < step.now
        require(before.state is JobState.RUNNING and over, "a lease is taken away only after it has run out")
    held = after.state is JobState.RUNNING
    require(held == (after.lease_expire_time is not None), "a job has a lease exactly while it runs")
    require(held == bool(after.worker_id), "a job has a holder exactly while it runs")


def _check_cancel(step: Step) -> None:
    before, after = step.before, step.after
    if step.command is Command.CANCEL:
        if before.state is JobState.PENDING:
            require(after.state is JobState.CANCELLED, "a cancel ends a waiting job at once")
        if before.cancel_requested:
            require(not step.changed, "a cancel that was asked for before changes nothing")
        elif before.state is JobState.RUNNING:
            asked = replace(before, cancel_requested=True, update_time=after.update_time)
            require(after == asked, "a cancel only asks the holder of a running job")
    waiting = after.state is JobState.PENDING
    require(not (waiting and after.cancel_requested), "a job whose cancel was requested never waits again")


def _check_deadline(step: Step) -> None:
    before, after = step.before, step.after
    if before.deadline_time is None or not step.changed:
        return
    if step.command is Command.RENEW and after.lease_expire_time is not None:
        require(after.lease_expire_time <= before.deadline_time, "no renewal reaches past the total deadline")
    if step.command in (Command.FAIL, Command.EXPIRE) and after.state is JobState.PENDING:
        require(after.schedule_time < before.deadline_time, "no attempt is planned for after the total deadline")


def _check_end(step: Step) -> None:
    before, after = step.before, step.after
    holder = before.state is JobState.RUNNING and step.token == before.fencing_token
    if step.command in FINAL_WRITES and holder:
        require(after.state is not JobState.RUNNING, "a final write of the holder ends its lease")
    require(after.state.terminal == (after.end_time is not None), "a job has an end time exactly when it has ended")
    if step.command is Command.RETRY and step.changed:
        fresh = after.schedule_time <= step.now and after.deadline_time is None and after.start_time is None
        require(fresh, "a revived job is due at once, and its total deadline begins anew")


def check_spending(job: Job, *, errors: int, stalls: int) -> None:
    """`errors` and `stalls` are those that an observer counted since the job was created or revived."""
    running = job.state in (JobState.RUNNING, JobState.SUCCEEDED)
    require(job.attempt == errors + running, "the attempt is the number of errors, plus the one that runs")
    require(job.stall_count == stalls, "the stall count is the number of leases that ran out")
    may_run = not job.state.terminal
    require(not (may_run and errors >= job.max_attempts), "errors beyond the limit end a job")
    require(not (may_run and stalls >= job.max_stalls), "stalls beyond the limit end a job")
    require(
        job.state is not JobState.DEAD
        or errors >= job.max_attempts
        or stalls >= job.max_stalls
        or job.deadline_time is not None,
        "a job dies only of spent attempts, spent stalls or its deadline",
    )
