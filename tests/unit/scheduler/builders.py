"""Jobs and entries for unit tests."""

from datetime import UTC, datetime, timedelta

from services.scheduler.domain.job import FailedAttempt, Failure, Job, JobState, LeaseRef
from services.scheduler.domain.ready_index import Entry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def job(**fields) -> Job:
    return Job(
        **{
            "job_id": "j",
            "type": "extract",
            "project_id": "p",
            "state": JobState.PENDING,
            "priority": 5,
            "payload": "{}",
            "create_time": NOW,
            "update_time": NOW,
            "schedule_time": NOW,
            "max_attempts": 2,
            "max_stalls": 2,
            **fields,
        }
    )


def failed(lease: LeaseRef, **fields) -> FailedAttempt:
    return FailedAttempt(
        **{
            "lease": lease,
            "failure": Failure(reason=8, message="boom"),
            "permanent": False,
            "retry_delay": None,
            "gate_until_time": None,
            **fields,
        }
    )


def entry(name: str, *, project: str = "p", rank: float = 0, key: str = "", job_type: str = "extract") -> Entry:
    return Entry(name, job_type, project, later(rank), key)
