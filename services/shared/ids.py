"""Identifiers: UUIDv7 for new rows (sorted by creation), UUIDv5 for ids derived from others."""

import os
import threading
import time
from array import array
from itertools import accumulate
from uuid import UUID, uuid5

_NAMESPACE = UUID("6f1d6a1e-52c3-5b0e-9d0b-6b3c8f4a7d10")

_RANDOM_BITS = 74
_LOW_BITS = 62
_LOW = (1 << _LOW_BITS) - 1
_VARIANT = 0b10 << _LOW_BITS
_ENTROPY_BYTES = 4096


class Uuid7:
    """Generates UUIDv7 values that grow strictly within the process, also inside one millisecond.

    The 74 bits after the time are random for the first id of a millisecond and are
    counted up by a random step after that, so that ids stay unguessable and ordered.
    Safe to call from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._tail = 0
        self._entropy = b""
        self._drawn = 0

    def __call__(self) -> UUID:
        with self._lock:
            return UUID(int=self._next())

    def texts(self, count: int) -> list[str]:
        """The next `count` values, at least one, as canonical texts: for those who make ids by the thousand."""
        steps = array("I", os.urandom(4 * (count - 1)))
        with self._lock:
            first = self._next()
            tails = list(accumulate(steps, _step_on, initial=self._tail))
            if tails[-1] >> _LOW_BITS != self._tail >> _LOW_BITS:
                # The count runs over into the digits that the others share: one in hundreds of thousands of calls.
                return [str(UUID(int=value)) for value in (first, *(self._next() for _ in steps))]
            self._tail = tails[-1]
        head = str(UUID(int=first))[: len("00000000-0000-0000-")]
        lows = [f"{_VARIANT | tail & _LOW:016x}" for tail in tails]
        return [f"{head}{low[:4]}-{low[4:]}" for low in lows]

    def _next(self) -> int:
        """Of a caller who holds the lock."""
        now = time.time_ns() // 1_000_000
        if now > self._milliseconds:
            self._milliseconds = now
            self._tail = int.from_bytes(os.urandom(10)) >> 7  # 73 bits: room to count up
        else:
            self._tail += 1 + self._step()
            if self._tail >> _RANDOM_BITS:
                self._milliseconds += 1
                self._tail = int.from_bytes(os.urandom(10)) >> 7
        milliseconds, tail = self._milliseconds, self._tail
        return milliseconds << 80 | 0x7 << 76 | (tail >> _LOW_BITS) << 64 | _VARIANT | tail & _LOW

    def _step(self) -> int:
        """32 random bits, drawn from the system a page at a time."""
        if self._drawn >= len(self._entropy):
            self._entropy, self._drawn = os.urandom(_ENTROPY_BYTES), 0
        start, self._drawn = self._drawn, self._drawn + 4
        return int.from_bytes(self._entropy[start : self._drawn])


def _step_on(tail: int, step: int) -> int:
    return tail + 1 + step


def namespace(name: str) -> UUID:
    """The UUIDv5 namespace of one kind of derived id, for example `namespace("embedding")`."""
    return uuid5(_NAMESPACE, name)


def derived(space: UUID, *parts: object) -> UUID:
    """A stable id of `parts` in a namespace; parts are joined by a unit separator, so `a|b` differs from `a`, `b`."""
    return uuid5(space, "\x1f".join(str(part) for part in parts))
