"""What all parts of a round share: the clock, the dice, the faults that are on, the record of what happened.

A round is one life of the system: so many steps of work under faults, then calm, then the
comparison. Everything random comes from one generator that is seeded by the round.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Self

from tests.sim.loop import VirtualLoop

TRACE = 4000

START = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Probabilities per event, or per visit of the nemesis. All zero is a calm world."""

    slow: float = 0.0
    unknown_write: float = 0.0
    late_write: float = 0.0
    duplicate_write: float = 0.0
    qdrant_away: float = 0.0
    statement_fails: float = 0.0
    commit_unknown: float = 0.0
    postgres_away: float = 0.0
    old_snapshot: float = 0.0
    cut_stream: float = 0.0
    duplicate_frame: float = 0.0
    reordered_frame: float = 0.0
    embed_fails: float = 0.0
    poison: float = 0.0
    crash: float = 0.0
    freeze: float = 0.0
    restore_qdrant: float = 0.0
    restore_postgres: float = 0.0
    damage: float = 0.0

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        """A random part of the faults at random strength, so that none always hides another."""
        return cls(**{each.name: _strength(each.name, rng) for each in fields(cls)})

    def without_restores(self) -> Self:
        return replace(self, restore_qdrant=0.0, restore_postgres=0.0, damage=0.0)


_STRONGEST = {
    "slow": 0.2,
    "unknown_write": 0.15,
    "late_write": 0.15,
    "duplicate_write": 0.15,
    "qdrant_away": 0.3,
    "statement_fails": 0.02,
    "commit_unknown": 0.05,
    "postgres_away": 0.2,
    "old_snapshot": 0.3,
    "cut_stream": 0.03,
    "duplicate_frame": 0.1,
    "reordered_frame": 0.2,
    "embed_fails": 0.05,
    "poison": 0.1,
    "crash": 0.7,
    "freeze": 0.9,
    "restore_qdrant": 0.3,
    "restore_postgres": 0.3,
    "damage": 0.6,
}


def _strength(name: str, rng: Random) -> float:
    return rng.random() * _STRONGEST[name] if rng.random() < 0.6 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large and how busy the world is. Few facts collide often, many fill batches and pages."""

    sources: int = 6
    keys: int = 6
    publish_seconds: float = 0.6
    look_seconds: float = 10.0
    period_seconds: float = 40.0
    operator_seconds: float = 6.0
    scan_seconds: float = 0.001
    statement_seconds: float = 0.002
    embed_seconds: float = 0.01
    tokens: float = 0.3
    """How many of the searches come with a consistency token."""
    send_vectors: bool = True
    """Whether relays send the vectors that are kept, so that most facts that come again are not embedded."""
    birth: float = 0.7
    """How likely a fact that is not there appears when its source is published."""

    @classmethod
    def drawn(cls, rng: Random) -> Self:
        return cls(
            sources=rng.randint(1, 6),
            keys=rng.randint(1, 6),
            publish_seconds=rng.choice([0.15, 0.6, 1.5]),
            look_seconds=rng.choice([2.0, 10.0]),
            period_seconds=rng.choice([4.0, 40.0, 3600.0]),
            operator_seconds=rng.choice([1.0, 6.0]),
            birth=rng.choice([0.05, 0.7]),
            tokens=rng.choice([0.0, 0.3]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Focus:
    """What is not left to chance: the circumstances in which a certain guard is needed."""

    faults: Mapping[str, float] = field(default_factory=dict)
    shape: Mapping[str, float] = field(default_factory=dict)
    steps: int = 2500


class Clock:
    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        return self._loop.time()


class World:
    """`removed` names the one guard that is taken out, if any."""

    def __init__(self, *, seed: str, steps: int, removed: str = "", focus: Focus) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.loop = VirtualLoop()
        self.clock = Clock(self.loop)
        self.removed = removed
        faults = Faults.drawn(self.rng)
        if self.rng.random() < 0.5:
            faults = faults.without_restores()
        self.faults = replace(faults, **focus.faults)
        self.shape = replace(Shape.drawn(self.rng), **focus.shape)
        self.limit = steps
        self.steps = 0
        self.trace: deque[tuple[float, str, str, object]] = deque(maxlen=TRACE)
        self.violation = ""
        self.counts: dict[str, int] = {}
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    def on(self, guard: str) -> bool:
        return guard != self.removed

    def step(self, actor: str, event: str, subject: object = "") -> None:
        self.steps += 1
        self.counts[event] = self.counts.get(event, 0) + 1
        self.trace.append((self.loop.time(), actor, event, subject))
        if self.steps >= self.limit:
            self._ended.set()

    def broken(self, invariant: str, subject: object = "") -> None:
        """Notes the first violation; what follows from it is of no interest."""
        if not self.violation:
            self.step("world", "VIOLATION", f"{invariant}: {subject}")
            self.violation = f"{invariant}: {subject}"
            self._ended.set()

    def happens(self, probability: float) -> bool:
        return probability > 0.0 and self.rng.random() < probability

    def delay(self, mean: float) -> float:
        """Seconds; a slow world is ten times slower now and then."""
        seconds = self.rng.expovariate(1 / mean)
        return seconds * 10 if self.happens(self.faults.slow) else seconds

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = self.loop.create_task(self._watched(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def ended(self) -> None:
        await self._ended.wait()

    def extend(self, steps: int) -> None:
        """More steps for the calm after the storm; a violation stays the end."""
        self.limit = self.steps + steps
        if not self.violation:
            self._ended.clear()

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watched(self, work: Coroutine[Any, Any, None]) -> None:
        """Code of the suite that raises what it must not is a violation like any other."""
        try:
            await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends the round and is reported
            self.broken("unexpected exception", repr(error))
