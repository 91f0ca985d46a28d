"""Entries for unit tests."""

from datetime import UTC, datetime, timedelta

from services.scheduler.domain.ready_index import Entry

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def entry(name: str, *, project: str = "p", rank: float = 0, key: str = "", job_type: str = "extract") -> Entry:
    return Entry(name, job_type, project, later(rank), key)
