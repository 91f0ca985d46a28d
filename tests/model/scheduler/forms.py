"""How much of the model is explored: a short form for every run of the suite, a long one for the night.

MODEL_CHECK=long python -m pytest tests/model/scheduler
python -m tests.model.scheduler.forms --long
"""

import argparse
import os
import time
from collections.abc import Mapping
from types import ModuleType

from services.scheduler.domain import lifecycle as production_lifecycle
from services.scheduler.domain import limits as production_limits
from tests.model.scheduler.cell import Rules
from tests.model.scheduler.explore import Exploration, explore
from tests.model.scheduler.world import Faults, World

LONG = os.environ.get("MODEL_CHECK") == "long"

# One attempt and two stalls; a lease is over at the next tick. What is left is what three jobs can do to each other.
_BRIEF = Rules(lease=0, accept=0, max_attempts=1, max_stalls=2)
_BRIEFEST = Rules(lease=0, accept=0, max_attempts=1, max_stalls=1)
_EVERYTHING = Faults(crashes=1, cancels=1, retries=1, writes=2, clock_steps=1)
_EACH_ONCE = Faults(crashes=1, cancels=1, writes=1, clock_steps=1)

SHORT_FORMS: dict[str, dict[str, object]] = {
    "one job, every fault": {"jobs": 1, "faults": _EVERYTHING},
    "one job with a total deadline": {"jobs": 1, "faults": _EACH_ONCE, "rules": Rules(total_deadline=3)},
    "three jobs, a cap of two, each fault once": {"jobs": 3, "faults": _EACH_ONCE, "rules": _BRIEFEST, "cap": 2},
    "three jobs, a cap of two, stalls": {"jobs": 3, "faults": Faults(writes=1), "rules": _BRIEF, "cap": 2},
}

LONG_FORMS: dict[str, dict[str, object]] = {
    "one job, three writes, every fault": {
        "jobs": 1,
        "faults": Faults(crashes=2, cancels=1, retries=1, writes=3, clock_steps=2),
    },
    "one job with a total deadline, every fault": {
        "jobs": 1,
        "faults": _EVERYTHING,
        "rules": Rules(total_deadline=4),
    },
    "two jobs, each fault once": {"jobs": 2, "faults": _EACH_ONCE},
    "three jobs, a cap of two, stalls and each fault once": {
        "jobs": 3,
        "faults": _EACH_ONCE,
        "rules": _BRIEF,
        "cap": 2,
    },
}


def check(
    form: Mapping[str, object], *, lifecycle: ModuleType = production_lifecycle, limits: ModuleType = production_limits
) -> Exploration:
    return explore(World(**form, lifecycle=lifecycle, limits=limits))  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description="Explores every state of the scheduler's model.")
    parser.add_argument("--long", action="store_true", help="also the forms that take minutes")
    forms = {**SHORT_FORMS, **(LONG_FORMS if parser.parse_args().long else {})}
    for name, form in forms.items():
        started = time.perf_counter()
        explored = check(form)
        print(f"{name}: {explored}, {time.perf_counter() - started:.1f} s", flush=True)


if __name__ == "__main__":
    main()
