from datetime import timedelta

import pytest
from pydantic import ValidationError

from services.scheduler.domain.policy import TypePolicy
from services.scheduler.settings import SchedulerSettings


def settings(monkeypatch, policies: str) -> SchedulerSettings:
    monkeypatch.setenv("SCHEDULER_DATABASE_URL", "postgresql://u:secret@h/d")
    monkeypatch.setenv("SCHEDULER_TYPE_POLICIES", policies)
    return SchedulerSettings()


@pytest.mark.parametrize(("name", "minutes"), [("scrape", 2), ("extract", 10), ("crawl", 30), ("anything", 5)])
def test_stale_thresholds_are_those_of_the_review(monkeypatch, name, minutes):
    assert settings(monkeypatch, "{}").policies.of(name).lease_duration == timedelta(minutes=minutes)


def test_a_type_keeps_what_is_not_overridden(monkeypatch):
    policies = settings(monkeypatch, '{"extract": {"max_attempts": 2}, "*": {"lease": 7}}').policies

    assert policies.of("extract").max_attempts == 2
    assert policies.of("extract").lease_duration == timedelta(minutes=10)
    assert policies.of("unknown").lease_duration == timedelta(seconds=7)
    assert policies.shortest_lease == timedelta(seconds=7)


@pytest.mark.parametrize("policies", ['{"a": {"leese": 1}}', '{"a": {"lease": 0}}', '{"a": 3}', "[]"])
def test_bad_policies_end_the_start(monkeypatch, policies):
    with pytest.raises(ValidationError):
        settings(monkeypatch, policies)


def test_heartbeat_is_a_third_of_the_lease_at_most():
    assert TypePolicy(lease_duration=timedelta(minutes=30)).heartbeat == timedelta(seconds=15)
    assert TypePolicy(lease_duration=timedelta(seconds=30)).heartbeat == timedelta(seconds=10)
    slow = TypePolicy(lease_duration=timedelta(seconds=90), heartbeat_interval=timedelta(seconds=60))
    assert slow.heartbeat == timedelta(seconds=30)
    quick = TypePolicy(lease_duration=timedelta(seconds=90), heartbeat_interval=timedelta(seconds=10))
    assert quick.heartbeat == timedelta(seconds=10)


def test_backoff_doubles_up_to_its_cap_and_is_spread_by_jitter():
    policy = TypePolicy(backoff_base=timedelta(seconds=1), backoff_cap=timedelta(seconds=10))
    waits = [policy.backoff(attempt=attempt, jitter=0.5).total_seconds() for attempt in (1, 2, 3, 4, 5, 60)]

    assert waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
