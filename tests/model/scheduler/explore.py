"""A breadth-first model checker: visits every state that a model can reach, shortest walks first.

A model answers the successors of a state and raises `BrokenInvariant` where a step or a
state breaks a promise; the walk that leads there is the counterexample. States must be
hashable and equal when they are the same, so that each is visited once.
"""

from array import array
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, NamedTuple, Protocol, TypeVar

StateT = TypeVar("StateT", bound=Hashable)


class BrokenInvariant(AssertionError):
    """`promise` is what the system says always holds."""

    def __init__(self, promise: str) -> None:
        super().__init__(promise)
        self.promise = promise


class Counterexample(AssertionError):
    def __init__(self, promise: str, walk: Sequence[str]) -> None:
        steps = "\n".join(f"  {number}. {step}" for number, step in enumerate(walk, start=1))
        super().__init__(f"{promise}, but:\n{steps}")
        self.promise = promise
        self.walk = walk


class Successor(NamedTuple, Generic[StateT]):
    """`helps` tells that the step may be counted on: it is work, not a fault and not a wish of a client."""

    state: StateT
    label: str
    helps: bool = True


class Model(Protocol[StateT]):
    def initial(self) -> StateT: ...

    def successors(self, state: StateT) -> Iterable[Successor[StateT]]:
        """Every step from here. Raises `BrokenInvariant` with the label of the step in `__notes__`."""
        ...

    def is_goal(self, state: StateT) -> bool:
        """Whether all work is done here; some such state must be in reach of every other one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    states: int
    steps: int
    depth: int

    def __str__(self) -> str:
        return f"{self.states:,} states, {self.steps:,} steps, depth {self.depth}"


def explore(model: Model[StateT], *, most_states: int = 5_000_000) -> Exploration:
    """Visits all states. Raises `Counterexample` for the first promise that does not hold."""
    return _Search(model, most_states).run()


class _Search(Generic[StateT]):
    def __init__(self, model: Model[StateT], most_states: int) -> None:
        self._model = model
        self._most_states = most_states
        self._index: dict[StateT, int] = {}
        self._parents = array("q")
        self._helpers: tuple[array[int], array[int]] = (array("q"), array("q"))
        self._goals: list[int] = []
        self._steps = 0

    def run(self) -> Exploration:
        frontier = [self._visit(self._model.initial(), parent=-1)]
        depth = 0
        while frontier := self._expand(frontier):
            depth += 1
        self._require_goal_in_reach()
        return Exploration(states=len(self._index), steps=self._steps, depth=depth)

    def _expand(self, frontier: list[StateT]) -> list[StateT]:
        found: list[StateT] = []
        sources, targets = self._helpers
        for state in frontier:
            number = self._index[state]
            for successor, _, helps in self._successors(state):
                self._steps += 1
                target = self._index.get(successor)
                if target is None:
                    target = len(self._index)
                    found.append(self._visit(successor, parent=number))
                if helps:
                    sources.append(number)
                    targets.append(target)
        return found

    def _visit(self, state: StateT, *, parent: int) -> StateT:
        if len(self._index) >= self._most_states:
            raise AssertionError(f"the model has more than {self._most_states:,} states")
        if self._model.is_goal(state):
            self._goals.append(len(self._index))
        self._index[state] = len(self._index)
        self._parents.append(parent)
        return state

    def _successors(self, state: StateT) -> Iterator[Successor[StateT]]:
        try:
            yield from self._model.successors(state)
        except BrokenInvariant as broken:
            last = getattr(broken, "__notes__", [])
            raise Counterexample(broken.promise, [*self._walk(self._index[state]), *last]) from broken

    def _require_goal_in_reach(self) -> None:
        """Walks back from the goals over the steps that help; what is not met is stuck for ever."""
        sources, targets = self._helpers
        into: list[list[int]] = [[] for _ in self._index]
        for source, target in zip(sources, targets, strict=True):
            into[target].append(source)
        met = bytearray(len(self._index))
        pending = list(self._goals)
        while pending:
            number = pending.pop()
            if not met[number]:
                met[number] = 1
                pending += into[number]
        stuck = met.find(0)
        if stuck >= 0:
            raise Counterexample("every job can still reach an end", self._walk(stuck))

    def _walk(self, number: int) -> list[str]:
        """The labels of the shortest walk from the initial state."""
        states = list(self._index)
        path = [number]
        while (parent := self._parents[path[-1]]) >= 0:
            path.append(parent)
        path.reverse()
        return [
            next(step.label for step in self._model.successors(states[here]) if step.state == states[there])
            for here, there in pairwise(path)
        ]
