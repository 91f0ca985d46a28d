"""Identifiers: UUIDv7 for new rows (sorted by creation), UUIDv5 for ids derived from others."""

import os
import threading
import time
from uuid import UUID, uuid5

_NAMESPACE = UUID("6f1d6a1e-52c3-5b0e-9d0b-6b3c8f4a7d10")

_RANDOM_BITS = 74


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

    def __call__(self) -> UUID:
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._milliseconds:
                self._milliseconds = now
                self._tail = int.from_bytes(os.urandom(10)) >> 7  # 73 bits: room to count up
            else:
                self._tail += 1 + int.from_bytes(os.urandom(4))
                if self._tail >> _RANDOM_BITS:
                    self._milliseconds += 1
                    self._tail = int.from_bytes(os.urandom(10)) >> 7
            milliseconds, tail = self._milliseconds, self._tail
        rand_a, rand_b = tail >> 62, tail & ((1 << 62) - 1)
        return UUID(int=milliseconds << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b)


def namespace(name: str) -> UUID:
    """The UUIDv5 namespace of one kind of derived id, for example `namespace("embedding")`."""
    return uuid5(_NAMESPACE, name)


def derived(space: UUID, *parts: object) -> UUID:
    """A stable id of `parts` in a namespace; parts are joined by a unit separator, so `a|b` differs from `a`, `b`."""
    return uuid5(space, "\x1f".join(str(part) for part in parts))
