"""Flow control by counting: a stream is read only while its intents, and those of all streams, are few enough."""

import asyncio

from prometheus_client import Gauge


class Credit:
    """At most `limit` units are held, plus what the last `take` asked for beyond it."""

    def __init__(self, limit: int, *, parent: "Credit | None" = None, gauge: Gauge | None = None) -> None:
        self._limit = limit
        self._parent = parent
        self._gauge = gauge
        self._room = asyncio.Event()
        self._room.set()
        self.held = 0

    async def available(self) -> None:
        """Waits until less than the limit is held, here and in the parent."""
        if self._parent is not None:
            await self._parent.available()
        while self.held >= self._limit:
            self._room.clear()
            await self._room.wait()

    def take(self, count: int) -> None:
        self._change(count)

    def give(self, count: int) -> None:
        self._change(-count)
        self._room.set()

    def _change(self, count: int) -> None:
        self.held += count
        if self._gauge is not None:
            self._gauge.inc(count)
        if self._parent is not None:
            self._parent.take(count) if count > 0 else self._parent.give(-count)
