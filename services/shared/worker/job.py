"""A job as its handler sees it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any

import orjson
from google.protobuf import timestamp_pb2
from scristill.scheduler.v1 import job_pb2

from services.shared import ids

_CHILDREN = ids.namespace("worker-child-job")


class Interruption(StrEnum):
    """Why a handler's task was cancelled."""

    CANCELLED = "cancelled"
    LOST = "lost"
    DRAINED = "drained"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildJob:
    """A job that follows from this one. `key` tells it from its siblings, so that a retry creates it once."""

    key: str
    type: str
    payload: Mapping[str, Any]
    project_id: str = ""
    priority: int = 5
    limit_key: str = ""
    max_attempts: int = 0
    delay: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """`children` are created in the transaction that completes the job, or not at all."""

    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
    children: Sequence[ChildJob] = ()


class Job:
    """A leased job. Everything a handler reports goes out with the next heartbeat."""

    def __init__(
        self,
        leased: job_pb2.LeasedJob,
        *,
        create: Callable[["Job", Sequence[job_pb2.JobSpec]], Awaitable[None]],
    ) -> None:
        self._leased = leased
        self._create = create
        self.lease = leased.lease
        self.job_id = leased.lease.job_id
        self.type = leased.type
        self.project_id = leased.project_id
        self.attempt = leased.attempt
        self.stall_count = leased.stall_count
        self.traceparent = leased.traceparent
        self.parent_job_id = leased.parent_job_id
        self.limit_key = leased.limit_key
        self.interruption: Interruption | None = None
        self.task: asyncio.Task[None] | None = None
        self.progress: job_pb2.JobProgress | None = None
        self.unsaved_checkpoint = ""
        self.renewed_at = time.monotonic()
        self.finished = False

    @cached_property
    def payload(self) -> Any:
        return orjson.loads(self._leased.payload or "{}")

    @cached_property
    def checkpoint(self) -> Any:
        """What an earlier attempt saved; None when there is nothing."""
        return orjson.loads(self._leased.checkpoint) if self._leased.checkpoint else None

    @cached_property
    def lease_seconds(self) -> float:
        return self._leased.lease_duration.ToTimedelta().total_seconds()

    @cached_property
    def heartbeat_seconds(self) -> float:
        return self._leased.heartbeat_interval.ToTimedelta().total_seconds()

    @property
    def deadline_seconds(self) -> float | None:
        """Time left until the total deadline; None without one."""
        if not self._leased.HasField("deadline_time"):
            return None
        return (self._leased.deadline_time.ToDatetime(tzinfo=UTC) - datetime.now(UTC)).total_seconds()

    def report(self, *, completed: int, total: int = 0, message: str = "") -> None:
        """Progress for watchers. Cheap: the latest report goes with the next heartbeat, at most a second later."""
        self.progress = job_pb2.JobProgress(
            completed_count=completed,
            total_count=total,
            message=message.encode()[:200].decode(errors="ignore"),
        )

    def save(self, checkpoint: Any) -> None:
        """State from which a later attempt goes on; durable within a second, and in any case on a drain."""
        self.unsaved_checkpoint = orjson.dumps(checkpoint).decode()

    async def create(self, children: Sequence[ChildJob]) -> None:
        """Creates children now, under this job's fence. Raises `LeaseIsLost` when it no longer holds."""
        await self._create(self, [self.child_spec(child) for child in children])

    def child_spec(self, child: ChildJob) -> job_pb2.JobSpec:
        return job_pb2.JobSpec(
            job_id=str(ids.derived(_CHILDREN, self.job_id, child.key)),
            type=child.type,
            project_id=child.project_id or self.project_id,
            priority=child.priority,
            payload=orjson.dumps(child.payload).decode(),
            limit_key=child.limit_key,
            max_attempts=child.max_attempts,
            schedule_time=_after(child.delay) if child.delay else None,
        )

    @property
    def unreported(self) -> bool:
        """Whether progress or a checkpoint waits for a heartbeat."""
        return self.progress is not None or bool(self.unsaved_checkpoint)

    def interrupt(self, interruption: Interruption) -> None:
        """Cancels the handler, once, and never what is reported after it."""
        if self.interruption is None and self.task is not None and not self.finished:
            self.interruption = interruption
            self.task.cancel(str(interruption))


def _after(delay: timedelta) -> timestamp_pb2.Timestamp:
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(datetime.now(UTC) + delay)
    return timestamp
