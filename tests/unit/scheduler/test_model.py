"""The state machine, explored exhaustively and at random; and each guard shown to be needed."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.scheduler.domain import lifecycle
from tests.unit.scheduler import exploration, model


def test_every_order_of_events_of_one_job_keeps_the_invariants():
    assert exploration.explore(jobs=1, depth=9) > 5_000


def test_every_order_of_events_of_two_workers_and_three_jobs_keeps_the_invariants():
    assert exploration.explore(jobs=3, depth=5) > 3_000


GUARDS = {
    "is_waiting": lambda _job: True,
    "is_due": lambda _job, _now: True,
    "is_held": lambda _job: True,
    "token_matches": lambda _job, _lease: True,
    "lease_has_run_out": lambda _job, _now: True,
    "deadline_allows": lambda _job, _at: True,
    "attempts_left": lambda _job: True,
    "stalls_left": lambda _job: True,
    "is_revivable": lambda _job: True,
    "wants_to_end": lambda _job: False,
    "was_answered": lambda _job, _lease, _end: True,
}


def test_every_guard_of_the_module_is_in_the_list():
    predicates = {
        name
        for name, member in vars(lifecycle).items()
        if getattr(member, "__module__", "") == lifecycle.__name__
        and getattr(member, "__annotations__", {}).get("return") is bool
    }
    assert predicates == set(GUARDS)


@pytest.mark.parametrize("guard", GUARDS)
def test_without_any_one_guard_the_exploration_finds_a_broken_invariant(monkeypatch, guard):
    monkeypatch.setattr(lifecycle, guard, GUARDS[guard])

    with pytest.raises(model.InvariantBrokenError):
        exploration.explore(jobs=1, depth=8)


class Jobs(RuleBasedStateMachine):
    """Long random walks, far deeper than the exploration reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.world = model.start(3)

    @rule(index=st.integers(0, 2), worker=st.sampled_from(exploration.WORKERS))
    def lease(self, index, worker):
        self.world = model.lease(self.world, index, worker)

    @precondition(lambda self: any(self.world.grants))
    @rule(data=st.data(), how=st.sampled_from(exploration.WRITES))
    def write(self, data, how):
        given = [(index, *grant) for index, grants in enumerate(self.world.grants) for grant in sorted(grants)]
        index, worker, token = data.draw(st.sampled_from(given))
        self.world = model.write(self.world, index, worker, token, how)

    @rule(index=st.integers(0, 2), event=st.sampled_from([model.expire, model.cancel, model.retry]))
    def happen(self, index, event):
        self.world = event(self.world, index)

    @rule(seconds=st.sampled_from([-3, 1, 2, 5]))
    def step_clock(self, seconds):
        self.world = model.step_clock(self.world, seconds)

    @invariant()
    def holds(self):
        model.check(self.world)


TestJobs = Jobs.TestCase
TestJobs.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
