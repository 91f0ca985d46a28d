"""How loops go on when their work fails."""

import asyncio

import structlog

from services.scheduler.application.ports import StoreAway
from services.scheduler.application.rounds import Failures, rounds
from services.shared.errors import Unavailable

AWAY = StoreAway.of("postgresql")


def test_pauses_grow_to_a_limit_and_begin_anew_after_a_success() -> None:
    failures = Failures("work")

    pauses = [failures.add(AWAY) for _ in range(6)]
    failures.end()

    assert pauses == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert failures.add(AWAY) == 0.2


def test_each_failure_is_logged_as_what_it_is() -> None:
    with structlog.testing.capture_logs() as lines:
        failures = Failures("work")
        failures.add(AWAY)
        failures.add(Unavailable("given up by the server"))
        failures.add(ValueError("ours"))

    assert [(line["log_level"], line["failures"], "exc_info" in line) for line in lines] == [
        ("warning", 2, False),
        ("error", 3, True),
    ]


async def test_a_loop_outlives_its_failures_and_wakes_early_when_asked() -> None:
    stop, wake = asyncio.Event(), asyncio.Event()
    answers = iter([AWAY, 3600.0, 3600.0])
    seen: list[object] = []

    async def work() -> float:
        answer = next(answers)
        seen.append(answer)
        if answer is AWAY:
            raise AWAY
        (stop if len(seen) == 3 else wake).set()
        return 3600.0

    async with asyncio.timeout(30):
        await rounds(work, name="work", stop=stop, wake=wake)

    assert len(seen) == 3
    assert wake.is_set() is False
