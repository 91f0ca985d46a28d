"""The values of the scheduler: jobs, leases, failures and what clients ask for.

A `Job` is one row, whichever table holds it. Times are aware UTC. Identities are the
canonical text of a UUID, lower case with dashes. Values that are made by the ten thousand
per second are named tuples, which cost a third of what a frozen dataclass does.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

HIGHEST_PRIORITY = 0
LOWEST_PRIORITY = 9


class JobState(IntEnum):
    """Numbers as in `scristill.scheduler.v1.JobState`; they are persisted."""

    PENDING = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5
    DEAD = 6

    @property
    def terminal(self) -> bool:
        return self >= JobState.SUCCEEDED


REVIVABLE = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.DEAD})


class LeaseEnd(IntEnum):
    """How the last lease of a job ended, so that a repeated write is answered as the first. Persisted."""

    NONE = 0
    COMPLETED = 1
    FAILED = 2
    RELEASED = 3
    STALLED = 4


class Directive(IntEnum):
    """What a holder shall do; numbers as in the contract."""

    CONTINUE = 1
    CANCEL = 2
    LOST = 3


class LeaseRef(NamedTuple):
    """Proof that a worker holds a job."""

    job_id: str
    fencing_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    completed_count: int = 0
    total_count: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed. `reason` is a number of the contract's `ErrorReason`."""

    reason: int
    message: str
    attempt: int = 0
    fail_time: datetime | None = None


class JobSpec(NamedTuple):
    """What a client asks for. `job_id` is final here; `chosen` tells that the same id may come again."""

    job_id: str
    chosen: bool
    type: str
    project_id: str
    priority: int
    payload: str
    schedule_time: datetime | None
    limit_key: str
    max_attempts: int
    traceparent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    job_id: str
    type: str
    project_id: str
    state: JobState
    priority: int
    payload: str
    create_time: datetime
    update_time: datetime
    schedule_time: datetime
    max_attempts: int
    max_stalls: int
    attempt: int = 0
    stall_count: int = 0
    fencing_token: int = 0
    lease_end: LeaseEnd = LeaseEnd.NONE
    worker_id: str = ""
    limit_key: str = ""
    parent_job_id: str = ""
    cancel_requested: bool = False
    traceparent: str = ""
    checkpoint: str = ""
    result: str = ""
    progress: Progress | None = None
    last_failure: Failure | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    lease_expire_time: datetime | None = None
    deadline_time: datetime | None = None


class LeasedJob(NamedTuple):
    """What a worker gets to see of a job that it now holds."""

    lease: LeaseRef
    worker_id: str
    type: str
    project_id: str
    payload: str
    attempt: int
    stall_count: int
    checkpoint: str
    traceparent: str
    parent_job_id: str
    limit_key: str
    lease_expire_time: datetime
    deadline_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    lease: LeaseRef
    progress: Progress | None
    checkpoint: str


class Completion(NamedTuple):
    lease: LeaseRef
    result: str
    children: tuple[JobSpec, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedAttempt:
    """`retry_delay` None means the backoff of the type."""

    lease: LeaseRef
    failure: Failure
    permanent: bool
    retry_delay: timedelta | None
    gate_until_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    lease: LeaseRef
    delay: timedelta
    checkpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Any of each; an empty tuple means all."""

    types: tuple[str, ...] = ()
    project_ids: tuple[str, ...] = ()
    states: tuple[JobState, ...] = ()
    job_ids: tuple[str, ...] = ()
    parent_job_ids: tuple[str, ...] = ()

    def matches(self, job: Job) -> bool:
        return (
            (not self.types or job.type in self.types)
            and (not self.project_ids or job.project_id in self.project_ids)
            and (not self.states or job.state in self.states)
            and (not self.job_ids or job.job_id in self.job_ids)
            and (not self.parent_job_ids or job.parent_job_id in self.parent_job_ids)
        )
