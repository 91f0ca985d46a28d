from collections import Counter

import pytest

from services.scheduler.domain import limits
from services.scheduler.domain.limits import KeyLimit, admit
from tests.unit.scheduler.builders import NOW, entry, later


def limit(**fields) -> KeyLimit:
    return KeyLimit(
        **{
            "limit_key": "k",
            "max_in_flight": 0,
            "max_per_second": 0.0,
            "tokens": 0.0,
            "refill_time": NOW,
            "gate_until_time": None,
            **fields,
        }
    )


def jobs(count: int, key: str = "k"):
    return [entry(f"{key}{number}", key=key) for number in range(count)]


def decide(entries, one: KeyLimit, *, running: int = 0, now=NOW):
    return admit(entries, limits={one.limit_key: one}, running={one.limit_key: running}, now=now)


def test_key_without_limits_admits_all():
    assert len(decide(jobs(5), limit()).admitted) == 5


def test_cap_counts_what_runs_and_what_starts_now():
    admission = decide(jobs(5), limit(max_in_flight=4), running=2)

    assert (len(admission.admitted), len(admission.refused)) == (2, 3)
    [shut] = admission.shut
    assert shut.or_freed


def test_shut_gate_admits_none_until_its_time():
    gated = limit(gate_until_time=later(10))

    assert decide(jobs(2), gated).admitted == []
    assert decide(jobs(2), gated).shut[0].until == later(10)
    assert len(decide(jobs(2), gated, now=later(10)).admitted) == 2


def test_slow_rate_starts_one_job_at_a_time():
    slow = limit(max_per_second=2, tokens=1)
    first = decide(jobs(3), slow)

    assert len(first.admitted) == 1
    assert first.shut[0].until == later(0.5)


def test_no_second_sees_more_starts_than_the_rate():
    one = limit(max_per_second=50, tokens=5)
    starts: list[float] = []
    for step in range(400):
        now = later(step / 100)
        admitted = len(decide(jobs(60), one, now=now).admitted)
        starts += [step / 100] * admitted
        one = limit(max_per_second=50, tokens=one.available(now) - admitted, refill_time=now)

    windows = Counter(int(start * 100) for start in starts)
    assert max(sum(windows[tick + offset] for offset in range(100)) for tick in range(300)) <= 50
    assert len(starts) >= 170


def test_keys_are_judged_apart():
    limits = {"k": limit(max_in_flight=1), "other": limit(limit_key="other")}
    admission = admit([*jobs(3), *jobs(3, "other")], limits=limits, running={}, now=NOW)

    assert Counter(each.limit_key for each in admission.admitted) == {"k": 1, "other": 3}


@pytest.mark.parametrize("guard", ["is_gated", "is_at_cap", "is_over_rate"])
def test_each_limit_is_needed(monkeypatch, guard):
    """The three cases above hold by one guard each."""
    one = {
        "is_gated": limit(gate_until_time=later(10)),
        "is_at_cap": limit(max_in_flight=1),
        "is_over_rate": limit(max_per_second=1, tokens=1),
    }[guard]
    assert decide(jobs(3), one).refused
    monkeypatch.setattr(limits, guard, lambda *_: False)

    assert not decide(jobs(3), one).refused
