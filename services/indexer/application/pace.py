"""Holds a loop to so many items per second."""

import asyncio

from services.shared.clock import Clock


class Pace:
    """`per_second` 0 means no limit."""

    def __init__(self, clock: Clock, *, per_second: int) -> None:
        self._clock = clock
        self._per_second = per_second
        self._started = clock.monotonic()
        self._spent = 0

    async def spent(self, count: int) -> None:
        """Notes work done and waits until the average is within the limit again."""
        self._spent += count
        if self._per_second:
            due = self._started + self._spent / self._per_second
            await asyncio.sleep(max(0.0, due - self._clock.monotonic()))
