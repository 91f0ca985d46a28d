"""Judges what clients saw of a real run.

A history is the calls of all clients and workers with their answers. Times are of one
monotonic clock, taken just before and just after a call, so that of two calls one came
first only if it returned before the other was invoked. Pushed leases count as calls of
which only the return is known. `check` is a pure function of the history: it knows
nothing of the scheduler but its promises.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Call(StrEnum):
    CREATE = "create"
    LEASE = "lease"
    RENEW = "renew"
    COMPLETE = "complete"
    FAIL = "fail"
    RELEASE = "release"
    CREATE_CHILD = "create_child"
    CANCEL = "cancel"
    RETRY = "retry"
    OBSERVE = "observe"


class Answer(StrEnum):
    """UNKNOWN: the call may have taken effect or not."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


ENDINGS = frozenset({Call.COMPLETE, Call.FAIL, Call.RELEASE})
WRITES = frozenset({*ENDINGS, Call.RENEW, Call.CREATE_CHILD})
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "DEAD"})

STALE_WRITE = "a write is accepted only with the newest token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`state` is that of the job after the call, where the answer tells. `held_until` is the end of a lease."""

    call: Call
    job_id: str
    returned: float
    invoked: float = 0.0
    answer: Answer = Answer.ACCEPTED
    token: int = 0
    worker_id: str = ""
    state: str = ""
    key: str = ""
    held_until: float = 0.0

    @property
    def accepted(self) -> bool:
        return self.answer is Answer.ACCEPTED


@dataclass(frozen=True, slots=True)
class Violation:
    promise: str
    job_id: str
    detail: str

    def __str__(self) -> str:
        return f"{self.promise}: job {self.job_id}: {self.detail}"


def check(history: Iterable[Event], *, caps: Mapping[str, int] | None = None) -> list[Violation]:
    """Every promise that the history breaks. `OBSERVE` events tell what is left of each job at the end."""
    jobs: dict[str, list[Event]] = defaultdict(list)
    for event in history:
        jobs[event.job_id].append(event)
    found = [violation for job_id, events in jobs.items() for violation in _check_job(job_id, events)]
    for key, cap in (caps or {}).items():
        found += _check_cap(key, cap, jobs.values())
    return found


def _check_job(job_id: str, events: Sequence[Event]) -> Iterator[Violation]:
    for judge in (_kept, _started, _completed_once, _fenced, _held_once, _ended_once, _over_when_ended):
        for promise, detail in judge(events):
            yield Violation(promise, job_id, detail)


Found = Iterator[tuple[str, str]]


def _of(events: Iterable[Event], *calls: Call) -> list[Event]:
    return [event for event in events if event.call in calls]


def _accepted(events: Iterable[Event], *calls: Call) -> list[Event]:
    return [event for event in _of(events, *calls) if event.accepted]


def _kept(events: Sequence[Event]) -> Found:
    if _accepted(events, Call.CREATE) and not _of(events, Call.OBSERVE):
        yield "an acknowledged job is never lost", "it is nowhere"


def _started(events: Sequence[Event]) -> Found:
    for done in _accepted(events, Call.COMPLETE):
        leases = [lease for lease in _of(events, Call.LEASE) if lease.token == done.token]
        if not any(lease.returned <= done.returned for lease in leases):
            yield "a job is started before it is completed", f"token {done.token} was never leased"


def _completed_once(events: Sequence[Event]) -> Found:
    tokens = {event.token for event in _accepted(events, Call.COMPLETE)}
    if len(tokens) > 1:
        yield "a job is completed once", f"with tokens {sorted(tokens)}"
    for seen in _of(events, Call.OBSERVE):
        if tokens and seen.state != "SUCCEEDED":
            yield "a completed job has succeeded", f"it is {seen.state}"
        unclear = any(event.answer is Answer.UNKNOWN for event in _of(events, Call.COMPLETE))
        if seen.state == "SUCCEEDED" and not tokens and not unclear:
            yield "a job succeeds by a completion", "nobody completed it"


def _fenced(events: Sequence[Event]) -> Found:
    leases = _of(events, Call.LEASE)
    for write in _accepted(events, *WRITES):
        newer = [lease.token for lease in leases if lease.token > write.token and lease.returned < write.invoked]
        if newer:
            yield STALE_WRITE, f"{write.call} of {write.worker_id} with {write.token}, when {max(newer)} was leased"


def _held_once(events: Sequence[Event]) -> Found:
    holders: dict[int, set[str]] = defaultdict(set)
    for lease in _of(events, Call.LEASE):
        holders[lease.token].add(lease.worker_id)
    for token, workers in holders.items():
        if len(workers) > 1:
            yield "a token is given to one worker", f"{token} to {sorted(workers)}"


def _ended_once(events: Sequence[Event]) -> Found:
    """The same write may be answered twice; two different ones may not both be accepted."""
    ends: dict[int, set[Call]] = defaultdict(set)
    for write in _accepted(events, *ENDINGS):
        ends[write.token].add(write.call)
    for token, calls in ends.items():
        if len(calls) > 1:
            yield "a lease ends once", f"{token} by {sorted(calls)}"


def _over_when_ended(events: Sequence[Event]) -> Found:
    retries = _accepted(events, Call.RETRY)
    for end in events:
        if not end.accepted or end.state not in TERMINAL:
            continue
        if any(retry.returned > end.invoked for retry in retries):
            continue
        later = [lease.token for lease in _of(events, Call.LEASE) if lease.token > end.token]
        if later:
            yield "a job that ended is not started again", f"{end.state} with token {end.token}, leased with {later}"


def _check_cap(key: str, cap: int, jobs: Iterable[Sequence[Event]]) -> Iterator[Violation]:
    """Counts only what was surely held: from the arrival of a lease to its end, or to the first try to end it."""
    changes: list[tuple[float, int, str]] = []
    for events in jobs:
        for lease in _of(events, Call.LEASE):
            if lease.key == key:
                until = _surely_until(lease, events)
                if until > lease.returned:
                    changes += [(lease.returned, 1, lease.job_id), (until, -1, lease.job_id)]
    running = 0
    for _, change, job_id in sorted(changes):
        running += change
        if running > cap:
            yield Violation("a concurrency cap is never exceeded", job_id, f"{running} jobs of {key}, cap {cap}")


def _surely_until(lease: Event, events: Sequence[Event]) -> float:
    own = [event for event in events if event.token == lease.token and event.worker_id == lease.worker_id]
    renewed = [event.held_until for event in _accepted(own, Call.RENEW)]
    ends = [event.invoked for event in _of(own, *ENDINGS)]
    return min([max([lease.held_until, *renewed]), *ends])
