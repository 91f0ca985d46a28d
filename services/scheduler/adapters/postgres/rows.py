"""Between rows and values: the column lists of the two job tables, and what a record of them means."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from services.scheduler.adapters.postgres.session import Row
from services.scheduler.domain.job import Failure, Job, JobState, LeaseEnd, Progress
from services.scheduler.domain.ready_index import Entry

SHARED_COLUMNS = (
    "job_id",
    "parent_job_id",
    "retry_request_id",
    "create_time",
    "update_time",
    "schedule_time",
    "start_time",
    "deadline_time",
    "spec_hash",
    "fencing_token",
    "progress_completed",
    "progress_total",
    "state",
    "priority",
    "attempt",
    "max_attempts",
    "stall_count",
    "max_stalls",
    "lease_end",
    "failure_reason",
    "failure_attempt",
    "failure_time",
    "cancel_requested",
    "type",
    "project_id",
    "limit_key",
    "traceparent",
    "payload",
    "checkpoint",
    "progress_message",
    "failure_message",
    "cancel_message",
)


def columns(alias: str, *, without: tuple[str, ...] = ()) -> str:
    return ", ".join(f"{alias}.{name}" for name in SHARED_COLUMNS if name not in without)


LIVE = f"{columns('j')}, j.lease_expire_time, j.worker_id, NULL::timestamptz AS end_time, '' AS result"
ENDED = f"{columns('e')}, NULL::timestamptz AS lease_expire_time, '' AS worker_id, e.end_time, e.result"

ENTRY = "j.job_id, j.type, j.project_id, j.rank_time, j.limit_key"


def to_entry(record: Row) -> Entry:
    return Entry(str(record[0]), record[1], record[2], record[3], record[4])


def to_job(row: Mapping[str, Any]) -> Job:
    return Job(
        job_id=str(row["job_id"]),
        type=row["type"],
        project_id=row["project_id"],
        state=JobState(row["state"]),
        priority=row["priority"],
        payload=row["payload"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        schedule_time=row["schedule_time"],
        max_attempts=row["max_attempts"],
        max_stalls=row["max_stalls"],
        attempt=row["attempt"],
        stall_count=row["stall_count"],
        fencing_token=row["fencing_token"],
        lease_end=LeaseEnd(row["lease_end"]),
        worker_id=row["worker_id"],
        limit_key=row["limit_key"],
        parent_job_id=str(row["parent_job_id"]) if row["parent_job_id"] else "",
        cancel_requested=row["cancel_requested"],
        traceparent=row["traceparent"],
        checkpoint=row["checkpoint"],
        result=row["result"],
        progress=_progress(row),
        last_failure=_failure(row),
        start_time=row["start_time"],
        end_time=row["end_time"],
        lease_expire_time=row["lease_expire_time"],
        deadline_time=row["deadline_time"],
    )


def _progress(row: Mapping[str, Any]) -> Progress | None:
    if row["progress_completed"] is None:
        return None
    return Progress(
        completed_count=row["progress_completed"],
        total_count=row["progress_total"],
        message=row["progress_message"] or "",
    )


def _failure(row: Mapping[str, Any]) -> Failure | None:
    if row["failure_reason"] is None:
        return None
    fail_time: datetime | None = row["failure_time"]
    return Failure(
        reason=row["failure_reason"],
        message=row["failure_message"] or "",
        attempt=row["failure_attempt"] or 0,
        fail_time=fail_time,
    )
