"""An asyncio event loop whose time is a number: nothing sleeps, and a run depends on its seed alone.

The clock jumps to the next timer as soon as nothing is ready. Tasks are numbered and hash by
their number, so that the sets of tasks inside asyncio iterate in the same order in each run.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Stuck(Exception):
    """Everybody waits for somebody: no timer is set and nothing is ready."""


class _NumberedTask(asyncio.Task):
    number = 0

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.BaseEventLoop):
    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._tasks = 0
        self._selector = self
        self.set_task_factory(self._numbered)
        self.set_exception_handler(lambda *_: None)

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> tuple[()]:
        """Stands in for the selector: instead of waiting, it moves the clock on."""
        if timeout is None:
            raise Stuck
        self._now += timeout
        return ()

    def _process_events(self, _: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """There is no other thread to wake this one."""

    def _numbered(
        self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        self._tasks += 1
        task = _NumberedTask.__new__(_NumberedTask)
        task.number = self._tasks
        task.__init__(work, loop=loop, **options)
        return task
