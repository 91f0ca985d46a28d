"""Rounds: storms of so many steps, each followed by calm, until the steps asked for are done."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from tests.sim.actors import Actors
from tests.sim.loop import Stuck
from tests.sim.system import System
from tests.sim.world import Focus, World

TRACE_SHOWN = 60
ANYTHING = Focus()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    seed: str
    steps: int
    violation: str
    trace: list[str]
    counts: dict[str, int]


def run_round(seed: str, *, removed: str = "", focus: Focus = ANYTHING) -> Round:
    """One life of the system. The same seed gives the same round."""
    world = World(seed=seed, steps=focus.steps, removed=removed, focus=focus)
    asyncio.set_event_loop(world.loop)
    try:
        world.loop.run_until_complete(_live(world))
    except Stuck:
        world.broken("everybody waits for somebody")
    finally:
        _close(world)
    return Round(
        seed=seed, steps=world.steps, violation=world.violation, trace=_trace(world), counts=dict(world.counts)
    )


async def _live(world: World) -> None:
    system = System(world)
    actors = Actors(system)
    actors.start()
    await world.ended()
    actors.stop()
    if not world.violation:
        await system.come_to_rest()


def _close(world: World) -> None:
    tasks = asyncio.all_tasks(world.loop)
    for task in tasks:
        task.cancel()
    world.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    world.loop.close()
    asyncio.set_event_loop(None)


def _trace(world: World) -> list[str]:
    """The last events, those about the fact in question first of all."""
    if not world.violation:
        return []
    lines = [f"{at:10.4f} {actor:>14} {event}: {subject}" for at, actor, event, subject in world.trace]
    names = [word.strip("(')\",[]")[:8] for word in world.violation.split() if word.count("-") == 4]
    wide = ("restore", "damage", "epoch", "catalogue", "VIOLATION", "freeze", "crash", "alias")
    about = [line for line in lines if any(name in line for name in names) or any(word in line for word in wide)]
    return (about if names else lines)[-TRACE_SHOWN:]


def rounds(*, seed: int, steps: int, removed: str = "", focus: Focus = ANYTHING) -> Iterator[Round]:
    """Ends with the first violation."""
    done = number = 0
    with quiet():
        while done < steps:
            result = run_round(f"{seed}:{number}", removed=removed, focus=focus)
            done += result.steps
            number += 1
            yield result
            if result.violation:
                return


@contextmanager
def quiet() -> Iterator[None]:
    """The services log thousands of things that were done to them on purpose."""
    known = structlog.get_config()
    collecting = gc.isenabled()
    structlog.configure(processors=[_drop], cache_logger_on_first_use=False)
    gc.disable()
    try:
        yield
    finally:
        structlog.configure(**known)
        if collecting:
            gc.enable()


def _drop(*_: object) -> dict[str, object]:
    raise structlog.DropEvent
