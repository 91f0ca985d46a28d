"""How a process ends: the drain signal that streams select on, and supervised background loops.

`Drain` is set once, when the process has been told to stop. Whoever holds a stream or
waits for work selects on it and ends early; whoever ignores it is cut off when the
grace is over. Background loops run until their `stop` event is set, which happens
after the server has answered its last call.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog

T = TypeVar("T")

logger = structlog.stdlib.get_logger(__name__)


class Drain:
    """The one-way signal that this process takes no new work."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    @property
    def started(self) -> bool:
        return self._event.is_set()

    def start(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()

    async def sleep(self, delay: timedelta | float) -> bool:
        """Sleeps, but no longer than until the drain starts. Returns whether it has started."""
        seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
        return await wait_for_event(self._event, seconds)

    async def guard(self, items: AsyncIterable[T]) -> AsyncIterator[T]:
        """Yields from `items` until they end or the drain starts; the pending step is cancelled then.

        An item that is ready when the drain starts is still yielded. The source is
        closed if it is an async generator. Costs one task per step, so batch above it
        rather than below.
        """
        iterator = aiter(items)
        draining = asyncio.ensure_future(self._event.wait())
        step: asyncio.Task[T] | None = None
        try:
            while not self.started:
                step = asyncio.ensure_future(_next(iterator))
                await asyncio.wait({step, draining}, return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    return
                try:
                    item = step.result()
                except StopAsyncIteration:
                    return
                yield item
        finally:
            draining.cancel()
            if step is not None and not step.done():
                step.cancel()
                await asyncio.wait({step})
            aclose = getattr(iterator, "aclose", None)
            if aclose is not None:
                await aclose()


async def _next(iterator: AsyncIterator[T]) -> T:
    return await anext(iterator)


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, at most so long. Returns whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """A background loop: `run(stop)` works until `stop` is set, then returns soon.

    A crash, or a return before `stop`, ends the process with a non-zero status, so
    that its supervisor starts a clean one; with `restart_after` the loop alone is
    started again, which suits loops that hold no state of their own.
    """

    name: str
    run: Callable[[asyncio.Event], Awaitable[None]]
    restart_after: timedelta | None = None


class LoopSupervisor:
    """Runs loops as named tasks. `crashed` is set once one of them has failed for good."""

    def __init__(self, loops: Sequence[Loop]) -> None:
        self._loops = tuple(loops)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.crashed = asyncio.Event()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._supervise(loop), name=f"loop:{loop.name}") for loop in self._loops]

    async def stop(self, *, patience: float) -> None:
        """Sets the stop event, waits so many seconds, then cancels what is left and waits for that."""
        self._stop.set()
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=patience)
        for task in late:
            logger.warning("loop_cancelled", loop=task.get_name(), patience_seconds=patience)
            task.cancel()
        if late:
            await asyncio.wait(late)

    async def _supervise(self, loop: Loop) -> None:
        while True:
            await self._run_once(loop)
            if self._stop.is_set():
                return
            if loop.restart_after is None:
                self.crashed.set()
                return
            if await wait_for_event(self._stop, loop.restart_after.total_seconds()):
                return

    async def _run_once(self, loop: Loop) -> None:
        try:
            await loop.run(self._stop)
        except Exception:
            logger.exception("loop_crashed", loop=loop.name, restarts=loop.restart_after is not None)
        else:
            if not self._stop.is_set():
                logger.error("loop_ended_early", loop=loop.name, restarts=loop.restart_after is not None)
