"""Identifiers: UUIDv7 for new rows (sorted by creation), UUIDv5 for ids derived from others."""

import os
import threading
import time
from uuid import UUID, uuid5

_NAMESPACE = UUID("6f1d6a1e-52c3-5b0e-9d0b-6b3c8f4a7d10")

_RANDOM_BITS = 74
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
        return UUID(int=self._next())

    def text(self) -> str:
        """The next value as its canonical text, for those who make ids by the thousand."""
        digits = f"{self._next():032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def _next(self) -> int:
        with self._lock:
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
        rand_a, rand_b = tail >> 62, tail & ((1 << 62) - 1)
        return milliseconds << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b

    def _step(self) -> int:
        """32 random bits, drawn from the system a page at a time."""
        if self._drawn >= len(self._entropy):
            self._entropy, self._drawn = os.urandom(_ENTROPY_BYTES), 0
        start, self._drawn = self._drawn, self._drawn + 4
        return int.from_bytes(self._entropy[start : self._drawn])


def namespace(name: str) -> UUID:
    """The UUIDv5 namespace of one kind of derived id, for example `namespace("embedding")`."""
    return uuid5(_NAMESPACE, name)


def derived(space: UUID, *parts: object) -> UUID:
    """A stable id of `parts` in a namespace; parts are joined by a unit separator, so `a|b` differs from `a`, `b`."""
    return uuid5(space, "\x1f".join(str(part) for part in parts))
