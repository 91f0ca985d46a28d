"""What the use cases need from a store. Owned here, implemented by the adapters.

Every method is one transaction unless it says otherwise, and all times are those of the
store's clock. Batches answer one result per item, in order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple, Protocol

from services.scheduler.domain.job import (
    Completion,
    Directive,
    FailedAttempt,
    Job,
    JobFilter,
    JobSpec,
    JobState,
    LeasedJob,
    LeaseRef,
    Release,
    Renewal,
)
from services.scheduler.domain.limits import KeyShut
from services.scheduler.domain.ready_index import Entry, PageRequest
from services.scheduler.domain.schedule import Schedule
from services.shared.errors import ServiceError, Unavailable

RAN_OUT = -1
"""In place of a state in the change log: the lease ran out. What the job became of that follows in the same row."""


class StoreAway(Unavailable):
    """Raised by every method while the store cannot be reached; its adapter logs that, and the return, once."""


class Creation(IntEnum):
    CREATED = 1
    EXISTED = 2
    DIFFERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """`ready` are the new jobs that may be leased now; `results` has one entry per spec."""

    results: Sequence[Creation]
    ready: Sequence[Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandOut:
    """A job to be created for a worker that waits for it."""

    spec: JobSpec
    worker_id: str
    total_deadline: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedOut:
    """`leased` are those that were new, unless their type is paused; such are created as any other."""

    created: Created
    leased: Sequence[LeasedJob]


class Settled(NamedTuple):
    """What became of a write with this lease: the state that the job is in now, or why it was refused."""

    lease: LeaseRef
    state: JobState | None = None
    failure: ServiceError | None = None


class Ended(NamedTuple):
    """A job that reached a terminal state. `start_time` is None for one that never ran."""

    type: str
    state: JobState
    start_time: datetime | None
    end_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Outcome of a batch of writes: per item, plus what the dispatcher must know."""

    outcomes: Sequence[Settled]
    ready: Sequence[Entry] = ()
    ended: Sequence[Ended] = ()
    freed_keys: frozenset[str] = frozenset()
    gates: Sequence[KeyShut] = ()


class Assignment(NamedTuple):
    """A ready job proposed for a worker."""

    entry: Entry
    worker_id: str
    total_deadline: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """`refused` are jobs held back by a limit of their key; what is in neither list is gone."""

    leased: Sequence[LeasedJob]
    refused: Sequence[Entry] = ()
    shut: Sequence[KeyShut] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    lease: LeaseRef
    directive: Directive
    lease_expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    job: Job
    affected_count: int
    settlement: Settlement


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """`next_expire_time` is the earliest end of a lease that is still good; None without any."""

    settlement: Settlement
    stalled: Sequence[str]
    next_expire_time: datetime | None
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    jobs: Sequence[Job]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row of the change log. `deleted` holds the last states of jobs that were deleted.

    Watchers need only positive states; 0 (ready now) and `RAN_OUT` are for other replicas.
    """

    position: int
    job_ids: Sequence[str]
    states: Sequence[int]
    deleted: Sequence[Job]
    age_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Changes at or after a position. All below `next_position` are in; more may follow at once if `full`."""

    changes: Sequence[Change]
    next_position: int
    oldest_position: int
    full: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """`project_id` is empty in the row that counts all projects of the type."""

    type: str
    project_id: str
    ready_count: int
    scheduled_count: int
    running_count: int
    dead_count: int
    oldest_ready_age: timedelta | None
    paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationStats:
    """From first lease to end, of the jobs that have both times."""

    type: str
    completed_count: int
    average: timedelta
    minimum: timedelta
    maximum: timedelta
    p50: timedelta
    p95: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """What operators set: paused types, weights, and the keys that have a cap or a rate."""

    paused_types: frozenset[str]
    weights: dict[str, float]


class JobCreation(Protocol):
    async def create(self, specs: Sequence[JobSpec], *, parent: LeaseRef | None) -> Created:
        """Raises `LeaseLost` when the parent's lease does not hold; then nothing is created."""
        ...

    async def create_leased(self, hand_outs: Sequence[HandOut], *, accept_timeout: timedelta) -> HandedOut:
        """What `create` and `claim` do, in one step. Of different jobs, without a key, a time or a parent."""
        ...


class JobLeases(Protocol):
    async def claim(self, assignments: Sequence[Assignment], *, accept_timeout: timedelta) -> Claimed: ...

    async def renew(self, renewals: Sequence[Renewal]) -> Sequence[Renewed]: ...

    async def complete(self, completions: Sequence[Completion]) -> Settlement: ...

    async def fail(self, attempts: Sequence[FailedAttempt], *, jitters: Sequence[float]) -> Settlement: ...

    async def release(self, releases: Sequence[Release]) -> Settlement: ...

    async def expect_back(self, leases: Sequence[LeaseRef], *, grace: timedelta) -> None:
        """Shortens leases whose worker may be gone: they end after `grace` unless they are renewed."""
        ...

    async def still_held(self, leases: Sequence[LeaseRef]) -> Sequence[LeaseRef]:
        """Those that hold."""
        ...

    async def expire(self, *, limit: int) -> Expired: ...


class JobControl(Protocol):
    async def cancel(self, job_id: str, *, message: str, descend: bool) -> Cancelled: ...

    async def retry(self, job_id: str, *, request_id: str) -> tuple[Job, Sequence[Entry]]: ...

    async def delete(self, job_id: str) -> None: ...


class JobReading(Protocol):
    async def get(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """The jobs that exist, in no order."""
        ...

    async def list_page(self, job_filter: JobFilter, *, after: tuple[datetime, str] | None, limit: int) -> Page: ...

    async def list_current(self, job_filter: JobFilter, *, after: tuple[datetime, str] | None, limit: int) -> Page:
        """As `list_page`, of jobs that are not terminal."""
        ...


class ReadyJobs(Protocol):
    async def heads(self, types: Sequence[str], *, limit: int) -> dict[tuple[str, str], Sequence[Entry]]:
        """The first ready jobs of each project, per type and project."""
        ...

    async def page(self, request: PageRequest) -> Sequence[Entry]: ...

    async def still_ready(self, job_ids: Sequence[str]) -> Sequence[Entry]: ...

    async def promote_due(self, *, limit: int) -> tuple[Sequence[Entry], timedelta | None]:
        """Makes delayed jobs ready whose time has come. Also the time until the next one is due."""
        ...


class ChangeLog(Protocol):
    async def position(self) -> int:
        """Where a reader that wants everything from now on begins."""
        ...

    async def oldest_position(self) -> int:
        """From where on the log is whole."""
        ...

    async def read(self, position: int, *, limit: int, foreign_only: bool = False) -> Changes:
        """Changes at or after `position`; with `foreign_only`, those of other replicas."""
        ...


class Statistics(Protocol):
    async def queues(self, types: Sequence[str], *, by_project: bool) -> Sequence[QueueStats]: ...

    async def durations(self, types: Sequence[str], *, window: timedelta) -> Sequence[DurationStats]: ...


class Controls(Protocol):
    async def steering(self) -> Steering: ...

    async def pause(self, job_type: str) -> None: ...

    async def resume(self, job_type: str) -> None: ...

    async def set_weight(self, project_id: str, weight: float) -> None: ...

    async def set_key_limit(self, limit_key: str, *, max_in_flight: int, max_per_second: float) -> None: ...


class Schedules(Protocol):
    async def put(self, schedule: Schedule) -> Schedule: ...

    async def list_page(self, *, after: str, limit: int) -> Sequence[Schedule]: ...

    async def delete(self, schedule_id: str) -> None: ...

    async def fire(self) -> Sequence[Entry]:
        """Carries out the firings that are due, each once however many replicas try."""
        ...


class Upkeep(Protocol):
    async def prepare_partitions(self) -> None: ...

    async def drop_old_partitions(self) -> Sequence[str]: ...

    async def trim_changes(self) -> int: ...
