"""One job, and what two workers and the network know of it.

The steps of the job are those of the production state machine; what is modelled here is
only what surrounds it: a worker that believes it holds the job, rightly or not, and
writes that are under way, which may arrive late, twice or never.

Times are relative: `NOW` stands still and the times of the job move. Everything that can
no longer make a difference is made equal, so that the number of cells is finite.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

from services.scheduler.domain.errors import JobStateConflict, LeaseLost
from services.scheduler.domain.job import Directive, FailedAttempt, Failure, Job, JobState, LeaseEnd, LeaseRef
from services.scheduler.domain.policy import TypePolicy
from tests.model.scheduler.invariants import FINAL_WRITES, Command, Step, check_spending, check_step, require

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TICK = timedelta(seconds=1)
WORKERS = (0, 1)
WORKER_NAMES = ("A", "B")

_NOBODY = ""
_FAILURE = Failure(reason=8, message="error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """In ticks. `total_deadline` 0 means none."""

    lease: int = 2
    accept: int = 1
    backoff: int = 1
    total_deadline: int = 0
    max_attempts: int = 2
    max_stalls: int = 2

    @property
    def policy(self) -> TypePolicy:
        return TypePolicy(
            lease_duration=self.lease * TICK,
            total_deadline=self.total_deadline * TICK if self.total_deadline else None,
        )


@dataclass(frozen=True, slots=True)
class Write:
    """A write under way, with the token that its sender believed in."""

    command: Command
    token: int


@dataclass(frozen=True, slots=True)
class Cell:
    """`held` is the token in which each worker believes, 0 for none; `sent` is at most one write under way.

    `errors`, `stalls` and `settled` (how the last lease ended by a write) are an observer's.
    """

    job: Job
    held: tuple[int, int] = (0, 0)
    sent: Write | None = None
    errors: int = 0
    stalls: int = 0
    settled: Write | None = None


@dataclass(frozen=True, slots=True)
class Move:
    label: str
    cell: Cell
    command: Command | None = None


class JobModel:
    """Every step that one cell can take. `lifecycle` is the production module, or one with a guard removed."""

    def __init__(self, rules: Rules, lifecycle: ModuleType) -> None:
        self._rules = rules
        self._policy = rules.policy
        self._lifecycle: Any = lifecycle

    def new(self) -> Cell:
        return Cell(
            Job(
                job_id="job",
                type="t",
                project_id="p",
                state=JobState.PENDING,
                priority=5,
                payload="",
                create_time=NOW,
                update_time=NOW,
                schedule_time=NOW,
                max_attempts=self._rules.max_attempts,
                max_stalls=self._rules.max_stalls,
            )
        )

    def moves(self, cell: Cell) -> Iterator[Move]:
        """Moves of this job alone: the scheduler's, the clients', the workers' and the network's."""
        for command in (Command.LEASE, Command.EXPIRE, Command.CANCEL, Command.RETRY):
            try:
                yield from self._scheduler_moves(cell, command)
            except AssertionError as broken:
                broken.add_note(command)
                raise
        for worker in WORKERS:
            if cell.held[worker]:
                yield from self._worker_moves(cell, worker)
        if cell.sent is not None:
            yield from self._network_moves(cell, cell.sent)

    def tick(self, cell: Cell, ticks: int) -> Cell:
        """The same cell, seen `ticks` later (or earlier, when the clock was set back)."""
        job = cell.job
        shifted = replace(
            job,
            schedule_time=job.schedule_time - ticks * TICK,
            lease_expire_time=job.lease_expire_time and job.lease_expire_time - ticks * TICK,
            deadline_time=job.deadline_time and job.deadline_time - ticks * TICK,
        )
        return canonical(replace(cell, job=shifted))

    def crash(self, cell: Cell, worker: int) -> Cell:
        """The worker forgets; what it sent before may still arrive."""
        return canonical(_believe(cell, worker, 0))

    def _scheduler_moves(self, cell: Cell, command: Command) -> Iterator[Move]:
        if command is Command.LEASE:
            yield from self._lease(cell)
            return
        after, accepted = self._apply(cell, command, 0)
        if accepted and after != cell:
            yield Move(command, after, command)

    def _lease(self, cell: Cell) -> Iterator[Move]:
        for worker in WORKERS:
            name = WORKER_NAMES[worker]
            leased, accepted = self._apply(cell, Command.LEASE, 0, worker_id=name)
            if accepted:
                token = leased.job.fencing_token
                yield Move(f"lease to {name}", canonical(_believe(leased, worker, token)), Command.LEASE)
                yield Move(f"lease to {name}, who never hears of it", leased, Command.LEASE)

    def _worker_moves(self, cell: Cell, worker: int) -> Iterator[Move]:
        name, token = WORKER_NAMES[worker], cell.held[worker]
        renewed, accepted = self._apply_noted(cell, Command.RENEW, token, f"{name} renews")
        yield Move(f"{name} renews", renewed if accepted else canonical(_believe(renewed, worker, 0)))
        if cell.sent is None:
            for command in FINAL_WRITES:
                yield Move(f"{name} sends {command}", canonical(replace(cell, sent=Write(command, token))))

    def _network_moves(self, cell: Cell, write: Write) -> Iterator[Move]:
        label = f"{write.command} arrives"
        after, _ = self._apply_noted(cell, write.command, write.token, label)
        yield Move(f"{label}, and may come again", after)
        gone = replace(after, sent=None)
        yield Move(f"{label}, its answer is lost", canonical(gone))
        told = tuple(0 if token == write.token else token for token in gone.held)
        yield Move(f"{label} and is answered", canonical(replace(gone, held=(told[0], told[1]))))
        yield Move(f"{write.command} is lost", canonical(replace(cell, sent=None)))

    def _apply_noted(self, cell: Cell, command: Command, token: int, label: str) -> tuple[Cell, bool]:
        try:
            return self._apply(cell, command, token)
        except AssertionError as broken:
            broken.add_note(label)
            raise

    def _apply(self, cell: Cell, command: Command, token: int, *, worker_id: str = _NOBODY) -> tuple[Cell, bool]:
        """One command on the job, judged. Refusals are answers, not errors."""
        before = cell.job
        try:
            after, accepted = self._do(before, command, LeaseRef(job_id="job", fencing_token=token), worker_id)
        except (JobStateConflict, LeaseLost):
            after, accepted = before, False
        self._check_times(command, before, after, accepted=accepted)
        check_step(Step(command=command, before=before, after=after, accepted=accepted, now=NOW, token=token))
        again = cell.settled is not None and _same_end(cell.settled, command, token)
        require(accepted or not again, "a write that is sent again is answered as the first time")
        if after == before:
            return cell, accepted
        observed = _observe(replace(cell, job=after), command, token)
        check_spending(after, errors=observed.errors, stalls=observed.stalls)
        return canonical(observed), accepted

    def _check_times(self, command: Command, before: Job, job: Job, *, accepted: bool) -> None:
        if command is Command.FAIL and accepted and job.state is JobState.PENDING and job != before:
            require(job.schedule_time == NOW + self._rules.backoff * TICK, "a failed attempt is followed by a pause")
        if not accepted or command not in (Command.LEASE, Command.RENEW):
            return
        promised = NOW + (self._rules.accept if command is Command.LEASE else self._rules.lease) * TICK
        latest = job.deadline_time or promised
        kept = job.lease_expire_time is not None and job.lease_expire_time >= min(promised, latest)
        require(kept, "a lease lasts as long as the policy of its type says")
        require(
            bool(job.deadline_time) == bool(self._rules.total_deadline), "the first lease starts the total deadline"
        )

    def _do(self, job: Job, command: Command, lease: LeaseRef, worker_id: str) -> tuple[Job, bool]:
        rules, steps = self._rules, self._lifecycle
        match command:
            case Command.LEASE:
                accept = rules.accept * TICK
                return steps.lease(job, worker_id=worker_id, now=NOW, accept_timeout=accept, policy=self._policy), True
            case Command.RENEW:
                renewed, directive = steps.renew(job, lease=lease, now=NOW, policy=self._policy)
                wants_cancel = directive is Directive.CANCEL
                require(wants_cancel == (job.cancel_requested and directive is not Directive.LOST), "a cancel is told")
                return renewed, directive is not Directive.LOST
            case Command.COMPLETE:
                return steps.complete(job, lease=lease, result="", now=NOW), True
            case Command.FAIL | Command.FAIL_FOR_GOOD:
                attempt = FailedAttempt(
                    lease=lease,
                    failure=_FAILURE,
                    permanent=command is Command.FAIL_FOR_GOOD,
                    retry_delay=None,
                    gate_until_time=None,
                )
                return steps.fail(job, attempt=attempt, delay=rules.backoff * TICK, now=NOW), True
            case Command.RELEASE:
                return steps.release(job, lease=lease, delay=timedelta(), checkpoint="", now=NOW), True
            case _:
                return getattr(steps, command.value)(job, now=NOW), True


def canonical(cell: Cell) -> Cell:
    """Makes equal what no step can tell apart any more."""
    job, stale = cell.job, cell.job.fencing_token > 1
    current = job.fencing_token
    settled = cell.settled

    def seen(token: int) -> int:
        return 0 if token == 0 else 2 if token == current else 1

    if stale:
        job = replace(job, fencing_token=2)
        settled = settled and replace(settled, token=seen(settled.token))
    ended = job.state.terminal
    waiting = job.state is JobState.PENDING
    job = replace(
        job,
        update_time=NOW - TICK,
        start_time=job.start_time and NOW,
        end_time=job.end_time and NOW,
        last_failure=None,
        schedule_time=max(job.schedule_time, NOW) if waiting else NOW,
        lease_expire_time=job.lease_expire_time and max(job.lease_expire_time, NOW - TICK),
        deadline_time=job.deadline_time and (NOW if ended else max(job.deadline_time, NOW)),
    )
    held, sent = cell.held, cell.sent
    if stale:
        held = (seen(held[0]), seen(held[1]))
        sent = sent and Write(sent.command, seen(sent.token))
    return replace(cell, job=job, held=held, sent=sent, settled=settled)


def swapped(cell: Cell) -> Cell:
    """The same cell with the names of the workers exchanged."""
    names = dict(zip(WORKER_NAMES, reversed(WORKER_NAMES), strict=True))
    job = replace(cell.job, worker_id=names.get(cell.job.worker_id, _NOBODY))
    return replace(cell, job=job, held=(cell.held[1], cell.held[0]))


def _believe(cell: Cell, worker: int, token: int) -> Cell:
    held = (token, cell.held[1]) if worker == 0 else (cell.held[0], token)
    return replace(cell, held=held)


_ENDS = {
    Command.COMPLETE: LeaseEnd.COMPLETED,
    Command.FAIL: LeaseEnd.FAILED,
    Command.FAIL_FOR_GOOD: LeaseEnd.FAILED,
    Command.RELEASE: LeaseEnd.RELEASED,
}


def _same_end(settled: Write, command: Command, token: int) -> bool:
    return settled.token == token and _ENDS.get(command) is _ENDS[settled.command]


def _observe(cell: Cell, command: Command, token: int) -> Cell:
    match command:
        case Command.LEASE | Command.EXPIRE:
            return replace(cell, settled=None, stalls=cell.stalls + (command is Command.EXPIRE))
        case Command.RETRY:
            return replace(cell, settled=None, errors=0, stalls=0)
        case Command.FAIL | Command.FAIL_FOR_GOOD:
            return replace(cell, settled=Write(command, token), errors=cell.errors + 1)
        case Command.COMPLETE | Command.RELEASE:
            return replace(cell, settled=Write(command, token))
        case _:
            return cell
