"""A seeded schedule of several faults at once; `python -m tests.chaos` plays many."""

import os
from random import SystemRandom

import pytest

from tests.chaos.scene import World
from tests.chaos.schedules import drawn, play

# The one of `make test` is always the same; the long form draws others each time, and names them.
SEED = str(SystemRandom().randrange(1 << 32)) if os.environ.get("CHAOS") == "long" else "7"


@pytest.mark.timeout(900)
async def test_processes_and_wires_fail_together(world: World) -> None:
    schedule = drawn(f"{SEED}:0")

    verdict = await play(world, schedule)

    assert verdict.holds, f"{schedule}\n{verdict}"


def test_the_same_seed_draws_the_same_schedule() -> None:
    assert drawn("1:2") == drawn("1:2") != drawn("1:3")
