"""Every state that jobs, workers, network and clock can reach keeps every promise, and none is a dead end."""

import pytest

from services.scheduler.domain import lifecycle
from tests.model.scheduler.explore import BrokenInvariant, Counterexample, Successor, explore
from tests.model.scheduler.forms import LONG, LONG_FORMS, SHORT_FORMS, check
from tests.model.scheduler.mutants import Guard, without


@pytest.mark.parametrize("form", SHORT_FORMS)
def test_every_reachable_state_keeps_every_promise(form: str) -> None:
    explored = check(SHORT_FORMS[form])

    print(f"{form}: {explored}")
    assert explored.states > 5_000


@pytest.mark.skipif(not LONG, reason="minutes and gigabytes; MODEL_CHECK=long runs it")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("form", LONG_FORMS)
def test_every_state_of_the_long_forms_keeps_every_promise(form: str) -> None:
    print(f"{form}: {check(LONG_FORMS[form])}")


def test_counterexample_is_the_shortest_walk() -> None:
    mutant = without(lifecycle, Guard("require_held", "token_matches"))

    with pytest.raises(Counterexample) as caught:
        check(SHORT_FORMS["one job, every fault"], lifecycle=mutant)

    walk = caught.value.walk
    assert walk[0].startswith("job 0: lease to")
    assert walk[-1].endswith("arrives")
    assert sum("lease to" in step for step in walk) == 2


class _Counter:
    """Counts to five; cannot come back from `trap`."""

    def __init__(self, *, trap: int | None = None) -> None:
        self._trap = trap

    def initial(self) -> int:
        return 0

    def successors(self, state: int) -> list[Successor[int]]:
        if state == 3 and self._trap is None:
            raise BrokenInvariant("counts to two")
        if state == self._trap:
            return []
        return [Successor((state + 1) % 6, f"to {(state + 1) % 6}")]

    def is_goal(self, state: int) -> bool:
        return state == 5


def test_checker_finds_a_broken_promise() -> None:
    with pytest.raises(Counterexample, match=r"counts to two, but:\n  1. to 1\n  2. to 2\n  3. to 3$"):
        explore(_Counter())


def test_checker_finds_a_state_without_a_way_on() -> None:
    with pytest.raises(Counterexample, match="every job can still reach an end"):
        explore(_Counter(trap=2))
