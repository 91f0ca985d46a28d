"""A process as its peers see it: it runs, stands still, or is gone at once.

Every call to a store or a peer goes through `proceed`. A host that was killed has no effect on
the world from then on, however much of its code still unwinds; one that stands still takes up
its work where it left it, with whatever it believed then: a zombie.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from tests.sim.world import World

REST_AFTER_FREEZE = 12.0


class Host:
    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.frozen_until = -REST_AFTER_FREEZE
        self._tasks: set[asyncio.Task[None]] = set()

    async def proceed(self) -> None:
        if self.dead:
            raise asyncio.CancelledError
        while self.frozen_until > self.world.loop.time():
            await asyncio.sleep(self.frozen_until - self.world.loop.time())
            if self.dead:
                raise asyncio.CancelledError

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.proceed()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = self.world.spawn(work, name=f"{self.name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def freeze(self, seconds: float) -> None:
        """Not again at once: a tombstone outlives what was held back, but not for ever."""
        if self.world.loop.time() < self.frozen_until + REST_AFTER_FREEZE:
            return
        self.world.step(self.name, "freeze", round(seconds, 2))
        self.frozen_until = self.world.loop.time() + seconds

    def kill(self) -> None:
        self.world.step(self.name, "crash")
        self.dead = True
        for task in list(self._tasks):
            task.cancel()
