"""Two workers, some jobs, a network and a clock: all interleavings of them.

The state is one cell per job and what is left of the faults. Jobs and workers are
interchangeable, so that states which differ by their names alone count once. Cells are
numbered and their moves remembered: however many states there are, the production code
runs once per cell.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from services.scheduler.domain import lifecycle as production_lifecycle
from services.scheduler.domain import limits as production_limits
from services.scheduler.domain.job import JobState
from services.scheduler.domain.limits import KeyLimit
from tests.model.scheduler.cell import NOW, WORKER_NAMES, WORKERS, Cell, JobModel, Move, Rules, swapped
from tests.model.scheduler.explore import BrokenInvariant, Successor
from tests.model.scheduler.invariants import Command

_KEY = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often each may happen in one walk. Stalls need no count: a worker may always do nothing.

    `writes` are those that workers send to end a lease; each may arrive at any time, twice or never.
    """

    crashes: int = 0
    cancels: int = 0
    retries: int = 0
    writes: int = 0
    clock_steps: int = 0

    @property
    def budget(self) -> "Budget":
        return (self.crashes, self.cancels, self.retries, self.writes, self.clock_steps)


Budget = tuple[int, int, int, int, int]
CRASH, CANCEL, RETRY, WRITE, CLOCK_STEP = range(5)
State = tuple[tuple[int, ...], Budget]

# A clock is set forward by a step that outlasts every lease, and back by less than one.
_FORWARD = 10
_BACK = -1


_COSTS: dict[Command | None, int] = {Command.CANCEL: CANCEL, Command.RETRY: RETRY}
_MOST_JOBS = 3


@dataclass(frozen=True, slots=True)
class _Step:
    labels: tuple[str, ...]
    target: int
    command: Command | None
    kind: int | None
    helps: bool


@dataclass(slots=True)
class _Numbered:
    """Cells by number, and what follows from each."""

    model: JobModel
    numbers: dict[Cell, int] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    steps: dict[int, list[_Step]] = field(default_factory=dict)
    ticked: dict[tuple[int, int], int] = field(default_factory=dict)
    crashed: dict[tuple[int, int], int] = field(default_factory=dict)
    swaps: dict[int, int] = field(default_factory=dict)

    def number(self, cell: Cell) -> int:
        known = self.numbers.get(cell)
        if known is None:
            known = self.numbers[cell] = len(self.cells)
            self.cells.append(cell)
        return known

    def steps_of(self, number: int) -> list[_Step]:
        known = self.steps.get(number)
        if known is None:
            before = self.cells[number]
            moves = self.model.moves(before)
            known = self.steps[number] = [self._step(before, move) for move in moves if move.cell != before]
        return known

    def _step(self, before: Cell, move: Move) -> _Step:
        sends = move.cell.sent is not None and before.sent is None
        kind = _COSTS.get(move.command, WRITE if sends else None)
        labels = tuple(f"job {position}: {move.label}" for position in range(_MOST_JOBS))
        return _Step(labels, self.number(move.cell), move.command, kind, helps=move.command not in _COSTS)

    def tick(self, number: int, ticks: int) -> int:
        key = (number, ticks)
        if key not in self.ticked:
            self.ticked[key] = self.number(self.model.tick(self.cells[number], ticks))
        return self.ticked[key]

    def crash(self, number: int, worker: int) -> int:
        key = (number, worker)
        if key not in self.crashed:
            self.crashed[key] = self.number(self.model.crash(self.cells[number], worker))
        return self.crashed[key]

    def swap(self, number: int) -> int:
        if number not in self.swaps:
            self.swaps[number] = self.number(swapped(self.cells[number]))
        return self.swaps[number]


class World:
    """A model for `explore`. `cap` is the concurrency cap of the key that all jobs share, 0 for none."""

    def __init__(
        self,
        *,
        jobs: int,
        faults: Faults,
        rules: Rules = Rules(),  # noqa: B008 - frozen
        cap: int = 0,
        lifecycle: ModuleType = production_lifecycle,
        limits: ModuleType = production_limits,
    ) -> None:
        model = JobModel(rules, lifecycle)
        self._cells = _Numbered(model)
        self._first = self._cells.number(model.new())
        self._jobs = jobs
        self._faults = faults
        self._cap = cap
        self._limits: Any = limits

    def initial(self) -> State:
        return (self._first,) * self._jobs, self._faults.budget

    def is_goal(self, state: State) -> bool:
        return all(self._cells.cells[number].job.state.terminal for number in state[0])

    def successors(self, state: State) -> Iterator[Successor[State]]:
        numbers, budget = state
        for position, number in enumerate(numbers):
            if position and number == numbers[position - 1]:
                continue
            for step in self._cells.steps_of(number):
                left = budget
                if step.kind is not None:
                    if not budget[step.kind]:
                        continue
                    left = _less(budget, step.kind)
                moved = (*numbers[:position], step.target, *numbers[position + 1 :])
                if step.command is Command.LEASE:
                    if not self._may_lease(numbers):
                        continue
                    self._check_cap(moved, step.labels[position])
                yield Successor(self._same(moved, left), step.labels[position], step.helps)
        yield from self._common(numbers, budget)

    def _common(self, numbers: tuple[int, ...], budget: Budget) -> Iterator[Successor[State]]:
        """What befalls all jobs at once."""
        cells = self._cells
        later = tuple(cells.tick(number, 1) for number in numbers)
        yield Successor(self._same(later, budget), "time passes")
        if budget[CRASH]:
            left = _less(budget, CRASH)
            for worker in WORKERS:
                crashed = tuple(cells.crash(number, worker) for number in numbers)
                yield Successor(self._same(crashed, left), f"{WORKER_NAMES[worker]} crashes", helps=False)
        if budget[CLOCK_STEP]:
            left = _less(budget, CLOCK_STEP)
            for ticks in (_FORWARD, _BACK):
                stepped = tuple(cells.tick(number, ticks) for number in numbers)
                yield Successor(self._same(stepped, left), f"the clock is set by {ticks:+}", helps=False)

    def _may_lease(self, numbers: tuple[int, ...]) -> bool:
        if not self._cap:
            return True
        limit = KeyLimit(
            limit_key=_KEY, max_in_flight=self._cap, max_per_second=0, tokens=0, refill_time=NOW, gate_until_time=None
        )
        return self._limits.judge(limit, running=self._running(numbers), started=0, now=NOW) is None

    def _check_cap(self, numbers: tuple[int, ...], label: str) -> None:
        if self._cap and self._running(numbers) > self._cap:
            broken = BrokenInvariant("a concurrency cap is never exceeded")
            broken.add_note(label)
            raise broken

    def _running(self, numbers: tuple[int, ...]) -> int:
        return sum(self._cells.cells[number].job.state is JobState.RUNNING for number in numbers)

    def _same(self, numbers: tuple[int, ...], budget: Budget) -> State:
        """One name for all states that differ only by which job and which worker is which."""
        swap = self._cells.swap
        straight = tuple(sorted(numbers))
        crossed = tuple(sorted([swap(number) for number in numbers]))
        return min(straight, crossed), budget


def _less(budget: Budget, kind: int) -> Budget:
    counts = list(budget)
    counts[kind] -= 1
    return tuple(counts)  # type: ignore[return-value]
