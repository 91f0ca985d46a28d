from datetime import UTC, datetime

import pytest

from services.scheduler.domain.schedule import MissedFirePolicy, Schedule, due_firings, first_after
from services.shared.errors import InvalidRequest


def at(hour: int, minute: int, second: int = 0) -> datetime:
    return datetime(2026, 3, 1, hour, minute, second, tzinfo=UTC)


def schedule(policy: MissedFirePolicy, *, cron: str = "*/10 * * * *", following: datetime) -> Schedule:
    return Schedule(
        schedule_id="s",
        cron=cron,
        type="t",
        project_id="p",
        priority=5,
        payload="{}",
        limit_key="",
        max_attempts=0,
        missed_fire_policy=policy,
        paused=False,
        next_fire_time=following,
    )


def test_next_firing_is_in_utc_and_after_the_moment():
    assert first_after("*/10 * * * *", at(3, 10)) == at(3, 20)
    assert first_after("0 3 * * *", at(2, 59)) == at(3, 0)


@pytest.mark.parametrize("cron", ["nonsense", "* * * *", "* * * * * *", "61 * * * *", "0 0 30 2 *"])
def test_bad_expressions_are_refused(cron):
    with pytest.raises(InvalidRequest):
        first_after(cron, at(0, 0))


@pytest.mark.parametrize("policy", MissedFirePolicy)
def test_nothing_fires_before_its_time(policy):
    assert due_firings(schedule(policy, following=at(3, 10)), at(3, 9, 59)) == []


@pytest.mark.parametrize("policy", MissedFirePolicy)
def test_firing_that_is_on_time_is_carried_out_under_every_policy(policy):
    assert due_firings(schedule(policy, following=at(3, 10)), at(3, 10, 1)) == [at(3, 10)]


@pytest.mark.parametrize(
    ("policy", "firings"),
    [
        (MissedFirePolicy.FIRE_ONCE, [at(3, 30)]),
        (MissedFirePolicy.SKIP, []),
        (MissedFirePolicy.FIRE_ALL, [at(3, 10), at(3, 20), at(3, 30)]),
    ],
)
def test_missed_firings_go_by_policy(policy, firings):
    assert due_firings(schedule(policy, following=at(3, 10)), at(3, 35)) == firings


def test_firings_of_a_long_absence_are_bounded_to_the_newest():
    missed = schedule(MissedFirePolicy.FIRE_ALL, cron="* * * * *", following=datetime(2025, 1, 1, tzinfo=UTC))
    firings = due_firings(missed, at(3, 0))

    assert len(firings) == 100
    assert firings[-1] == at(3, 0)
