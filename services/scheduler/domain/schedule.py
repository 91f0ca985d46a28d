"""Periodic schedules: when they fire, and what becomes of firings that nobody was there for."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum

from cronsim import CronSim, CronSimError

from services.shared.errors import InvalidRequest

MOST_FIRINGS = 100

# A firing that is older than this was missed: the scheduler was away, not just late.
_LATENESS = timedelta(seconds=60)
_CRON_FIELDS = 5


class MissedFirePolicy(IntEnum):
    """Numbers as in the contract; they are persisted."""

    FIRE_ONCE = 1
    SKIP = 2
    FIRE_ALL = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`next_fire_time` is None in a schedule that is about to be put."""

    schedule_id: str
    cron: str
    type: str
    project_id: str
    priority: int
    payload: str
    limit_key: str
    max_attempts: int
    missed_fire_policy: MissedFirePolicy
    paused: bool
    next_fire_time: datetime | None = None
    last_fire_time: datetime | None = None


def first_after(cron: str, moment: datetime) -> datetime:
    """The next firing, in UTC. Raises `InvalidRequest` for an expression that is none, or never fires."""
    if len(cron.split()) != _CRON_FIELDS:
        raise InvalidRequest.of("schedule.cron", f"must have {_CRON_FIELDS} fields")
    try:
        return next(CronSim(cron, moment.astimezone(UTC)))
    except CronSimError as error:
        raise InvalidRequest.of("schedule.cron", f"is no cron expression: {error}") from error
    except StopIteration as error:
        raise InvalidRequest.of("schedule.cron", "never fires") from error


def due_firings(schedule: Schedule, now: datetime) -> list[datetime]:
    """Firings to carry out now, oldest first: what is due, as far as the policy wants it."""
    due = list(itertools.islice(_back_from(schedule, now), MOST_FIRINGS))
    if not due:
        return []
    match schedule.missed_fire_policy:
        case MissedFirePolicy.FIRE_ALL:
            return due[::-1]
        case MissedFirePolicy.FIRE_ONCE:
            return due[:1]
        case MissedFirePolicy.SKIP:
            return due[:1] if now - due[0] <= _LATENESS else []


def _back_from(schedule: Schedule, now: datetime) -> Iterator[datetime]:
    """Due firings, newest first."""
    start = now.astimezone(UTC).replace(microsecond=0) + timedelta(seconds=1)
    firings: Iterator[datetime] = CronSim(schedule.cron, start, reverse=True)
    return itertools.takewhile(
        lambda firing: schedule.next_fire_time is not None and firing >= schedule.next_fire_time, firings
    )
