"""Seeded schedules of faults: processes are killed, stopped and frozen, wires cut, stalled, muted and slowed.

The same seed gives the same schedule; what the machine makes of it differs from run to run.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial

from tests.chaos.scene import Scene, World
from tests.chaos.verdict import Verdict
from tests.support.machine import Machine, Unit
from tests.support.tcp_proxy import TcpProxy

PROCESSES = ("qdrant", "indexer", "extractor", "scheduler", "llm_gateway", "postgres", "valkey")
STRIKES = (2, 5)
PAUSE_SECONDS = (0.0, 1.5)
FAULT_SECONDS = (0.1, 4.0)
SLOW_SECONDS = 0.3

Change = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """A fault that begins after `pause` seconds and lasts for `length`."""

    fault: str
    target: str
    pause: float
    length: float

    def __str__(self) -> str:
        return f"{self.fault} {self.target} after {self.pause:.1f} s for {self.length:.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Strikes of a lane follow each other; lanes go on beside each other."""

    seed: str
    lanes: Sequence[Sequence[Strike]]

    def __str__(self) -> str:
        lanes = " | ".join(", ".join(map(str, lane)) for lane in self.lanes)
        return f"schedule {self.seed}: {lanes}"


@dataclass(slots=True, kw_only=True)
class Report:
    """How many of each kind all schedules together have left behind."""

    seed: int
    schedules: int = 0
    strikes: int = 0
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("lost", "duplicated", "orphaned", "resurrected", "untrue"), 0)
    )

    def add(self, schedule: Schedule, verdict: Verdict) -> None:
        self.schedules += 1
        self.strikes += sum(len(lane) for lane in schedule.lanes)
        for name, found in asdict(verdict).items():
            self.counts[name] += len(found)


def drawn(seed: str) -> Schedule:
    rng = random.Random(seed)
    wires = ("indexer to qdrant", "extractor to indexer", "extractor to scheduler")
    return Schedule(
        seed=seed,
        lanes=[
            _lane(rng, faults=("kill", "stop", "freeze"), targets=PROCESSES),
            _lane(rng, faults=("cut", "stall", "mute", "slow"), targets=wires),
        ],
    )


async def play(world: World, schedule: Schedule) -> Verdict:
    """All faults are over when it judges."""
    scene = await world.scene(f"schedule {schedule.seed}", seed=schedule.seed)
    async with scene.load(), asyncio.TaskGroup() as lanes:
        for lane in schedule.lanes:
            lanes.create_task(_play_lane(world.machine, lane))
    return await _rested(scene)


async def _rested(scene: Scene) -> Verdict:
    try:
        await scene.rest()
    except AssertionError as error:
        verdict = await scene.verdict()
        return replace(verdict, untrue=[*verdict.untrue, f"no rest: {error}"])
    return await scene.verdict()


async def _play_lane(machine: Machine, lane: Sequence[Strike]) -> None:
    for strike in lane:
        await asyncio.sleep(strike.pause)
        begin, end = _changes(machine, strike)
        await begin()
        try:
            await asyncio.sleep(strike.length)
        finally:
            await end()


def _lane(rng: random.Random, *, faults: Sequence[str], targets: Sequence[str]) -> list[Strike]:
    return [
        Strike(
            fault=rng.choice(faults),
            target=rng.choice(targets),
            pause=rng.uniform(*PAUSE_SECONDS),
            length=rng.uniform(*FAULT_SECONDS),
        )
        for _ in range(rng.randint(*STRIKES))
    ]


def _changes(machine: Machine, strike: Strike) -> tuple[Change, Change]:
    if strike.target in machine.wires:
        return _of_wire(machine.wires[strike.target], strike.fault)
    return _of_process(machine[strike.target], strike.fault)


def _of_process(unit: Unit, fault: str) -> tuple[Change, Change]:
    match fault:
        case "kill":
            return unit.kill, unit.start
        case "stop":
            return unit.stop, unit.start
        case _:
            return partial(_now, unit.freeze), partial(_now, unit.thaw)


def _of_wire(wire: TcpProxy, fault: str) -> tuple[Change, Change]:
    begin = partial(wire.delay, SLOW_SECONDS) if fault == "slow" else getattr(wire, fault)

    async def mend() -> None:
        if fault == "mute":
            wire.reset_connections()
        wire.resume()

    return partial(_now, begin), mend


async def _now(change: Callable[[], None]) -> None:
    change()
