"""Each guard of the scheduler, taken away alone, makes a check fail; with all in place, none does."""

from types import ModuleType

import pytest

from services.scheduler.domain import lifecycle, limits
from tests.model.scheduler.admission import Admission
from tests.model.scheduler.cell import Rules
from tests.model.scheduler.explore import BrokenInvariant, Counterexample, explore
from tests.model.scheduler.forms import check
from tests.model.scheduler.guards import LIFECYCLE_EFFECTS, LIFECYCLE_GUARDS, LIMIT_GUARDS, SQL_GUARDS, SqlGuard
from tests.model.scheduler.mutants import Effect, Guard, questions, without
from tests.model.scheduler.pair import Divergence, Pair
from tests.model.scheduler.scenarios import SCENARIOS
from tests.model.scheduler.store import Store
from tests.model.scheduler.world import Faults

_FAULTS = Faults(cancels=1, retries=1, writes=2)
_FORMS: tuple[dict[str, object], ...] = (
    {"jobs": 1, "faults": _FAULTS, "rules": Rules(total_deadline=4, lease=1)},
    {"jobs": 1, "faults": _FAULTS},
)


def _check_all_forms(mutant: ModuleType) -> None:
    for form in _FORMS:
        check(form, lifecycle=mutant)


def _check_all_rates(mutant: ModuleType) -> None:
    for rate in (0.0, 1.0):
        explore(Admission(rate=rate, limits=mutant))


@pytest.mark.parametrize(
    ("module", "guards"), [(lifecycle, LIFECYCLE_GUARDS), (limits, LIMIT_GUARDS)], ids=["lifecycle", "limits"]
)
def test_every_guard_of_the_domain_is_listed(module: ModuleType, guards: tuple[Guard, ...]) -> None:
    assert {(guard.function, guard.question) for guard in guards} == questions(module)


@pytest.mark.parametrize("removal", [*LIFECYCLE_GUARDS, *LIFECYCLE_EFFECTS], ids=str)
def test_model_check_misses_every_part_of_the_state_machine(removal: Guard | Effect) -> None:
    mutant = without(lifecycle, removal)

    with pytest.raises(Counterexample):
        _check_all_forms(mutant)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_admission_keeps_every_promise(rate: float) -> None:
    assert explore(Admission(rate=rate)).states > 10


@pytest.mark.parametrize("guard", LIMIT_GUARDS, ids=str)
def test_model_check_misses_every_limit(guard: Guard) -> None:
    mutant = without(limits, guard)

    with pytest.raises(Counterexample):
        _check_all_rates(mutant)


async def diverging(store: Store, *, stop_at_first: bool = False) -> list[str]:
    """The scenarios in which PostgreSQL does not do what the state machine does, or breaks a promise."""
    found: list[str] = []
    for name, scenario in SCENARIOS.items():
        pair = Pair(store)
        await pair.start()
        try:
            await scenario(pair)
        except (Divergence, BrokenInvariant):
            found.append(name)
        if found and stop_at_first:
            break
    return found


async def test_sql_does_what_the_state_machine_does_in_every_scenario(store: Store) -> None:
    assert await diverging(store) == []


@pytest.mark.parametrize("guard", SQL_GUARDS, ids=str)
async def test_scenarios_miss_every_guard_of_the_sql(
    store: Store, monkeypatch: pytest.MonkeyPatch, guard: SqlGuard
) -> None:
    monkeypatch.setattr(guard.module, guard.statement, guard.removed())

    assert await diverging(store, stop_at_first=True) != []
