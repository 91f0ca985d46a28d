"""A key with a cap, a rate and a gate: every order in which jobs can be admitted, end and be held back.

One tick is one second. The key admits at most one job per second and has at most `CAP`
jobs running; a failure may shut its gate for a while.
"""

from collections.abc import Iterator
from datetime import timedelta
from types import ModuleType
from typing import Any, NamedTuple

from services.scheduler.domain import limits as production_limits
from services.scheduler.domain.limits import KeyLimit
from services.scheduler.domain.ready_index import Entry
from tests.model.scheduler.cell import NOW, TICK
from tests.model.scheduler.explore import BrokenInvariant, Successor

CAP = 2
JOBS = 3
GATE = 2

_KEY = "key"


class Key(NamedTuple):
    """`idle` are the seconds since the last start, up to one; `gate` those for which the gate stays shut."""

    waiting: int = JOBS
    running: int = 0
    tokens: float = 1.0
    idle: int = 1
    gate: int = 0


class Admission:
    """A model for `explore`. `rate` 0 means none."""

    def __init__(self, *, rate: float, limits: ModuleType = production_limits) -> None:
        self._rate = rate
        self._limits: Any = limits

    def initial(self) -> Key:
        return Key()

    def is_goal(self, state: Key) -> bool:
        return state.waiting == state.running == 0

    def successors(self, state: Key) -> Iterator[Successor[Key]]:
        for asked in range(1, state.waiting + 1):
            admitted = self._admit(state, asked)
            if admitted:
                yield Successor(self._started(state, admitted), f"{admitted} of {asked} jobs start")
        if state.running:
            yield Successor(state._replace(running=state.running - 1), "a job ends")
            yield Successor(state._replace(running=state.running - 1, gate=GATE), "a job ends and shuts the gate")
        tokens = self._limit(state).available(NOW + TICK) if self._rate else state.tokens
        yield Successor(state._replace(tokens=tokens, idle=1, gate=max(0, state.gate - 1)), "a second passes")

    def _admit(self, state: Key, asked: int) -> int:
        entries = [Entry(str(number), "t", "p", NOW, _KEY) for number in range(asked)]
        admission = self._limits.admit(
            entries, limits={_KEY: self._limit(state)}, running={_KEY: state.running}, now=NOW
        )
        if len(admission.admitted) + len(admission.refused) != asked:
            raise _broken("every job is admitted or refused", asked)
        if admission.refused and not admission.shut:
            raise _broken("whoever is refused hears until when the key is shut", asked)
        return len(admission.admitted)

    def _started(self, state: Key, count: int) -> Key:
        if state.gate:
            raise _broken("no job starts while the gate is shut", count)
        if state.running + count > CAP:
            raise _broken("a concurrency cap is never exceeded", count)
        if self._rate and (count > 1 or not state.idle):
            raise _broken("the rate is never exceeded", count)
        return state._replace(
            waiting=state.waiting - count, running=state.running + count, tokens=state.tokens - count, idle=0
        )

    def _limit(self, state: Key) -> KeyLimit:
        return KeyLimit(
            limit_key=_KEY,
            max_in_flight=CAP,
            max_per_second=self._rate,
            tokens=state.tokens,
            refill_time=NOW,
            gate_until_time=NOW + timedelta(seconds=state.gate) if state.gate else None,
        )


def _broken(promise: str, count: int) -> BrokenInvariant:
    broken = BrokenInvariant(promise)
    broken.add_note(f"{count} jobs start")
    return broken
