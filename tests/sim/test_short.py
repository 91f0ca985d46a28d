"""The short form of `make sim`: a storm with all guards, and a storm without each of them."""

import pytest

from tests.sim.guards import GUARDS, RARE, catch
from tests.sim.rounds import quiet, rounds, run_round

SEED = 8
STEPS = 15_000
STEPS_WITHOUT_A_GUARD = 120_000


def test_no_invariant_breaks() -> None:
    results = list(rounds(seed=SEED, steps=STEPS))

    assert [(result.seed, result.violation, result.trace) for result in results if result.violation] == []
    assert sum(result.steps for result in results) >= STEPS


def test_a_seed_gives_the_same_round() -> None:
    with quiet():
        first, second = run_round("1:1"), run_round("1:1")

    assert first == second


@pytest.mark.parametrize("guard", [guard for guard in GUARDS if guard not in RARE])
def test_removed_guard_breaks_an_invariant(guard: str) -> None:
    _, violation = catch(guard, seed=SEED, steps=STEPS_WITHOUT_A_GUARD)

    assert violation
