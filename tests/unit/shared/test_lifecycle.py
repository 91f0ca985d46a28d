import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

from services.shared.lifecycle import Drain, Loop, LoopSupervisor, wait_for_event
from tests.support.waiting import eventually


class Source:
    """An endless source that tells whether it was closed."""

    def __init__(self, ready: int) -> None:
        self.ready = ready
        self.closed = False

    async def items(self) -> AsyncIterator[int]:
        try:
            for number in range(self.ready):
                yield number
            await asyncio.Event().wait()
        finally:
            self.closed = True


async def test_guarded_items_end_with_their_source():
    async def three() -> AsyncIterator[int]:
        for number in range(3):
            yield number

    assert [number async for number in Drain().guard(three())] == [0, 1, 2]


async def test_drain_ends_a_guarded_wait_and_closes_the_source():
    drain, source, seen = Drain(), Source(ready=2), []

    async def consume() -> None:
        async with aclosing(drain.guard(source.items())) as items:
            async for item in items:
                seen.append(item)  # noqa: PERF401 - read while it runs

    consuming = asyncio.create_task(consume())
    await eventually(lambda: seen == [0, 1])
    drain.start()
    await consuming

    assert source.closed


async def test_drain_ends_a_source_that_is_always_ready():
    drain = Drain()

    async def always() -> AsyncIterator[int]:
        number = 0
        while True:
            yield (number := number + 1)

    seen = []
    async for item in drain.guard(always()):
        seen.append(item)
        if item == 5:
            drain.start()

    assert len(seen) <= 6


async def test_consumer_that_leaves_early_closes_the_source():
    source = Source(ready=2)
    async with aclosing(Drain().guard(source.items())) as items:
        await anext(items)

    assert source.closed


async def test_cancelled_consumer_is_cancelled_and_the_source_closed():
    source = Source(ready=0)
    consuming = asyncio.create_task(anext(Drain().guard(source.items())))
    await asyncio.sleep(0.01)
    consuming.cancel()
    await asyncio.wait({consuming})

    assert consuming.cancelled()
    await eventually(lambda: source.closed)


async def test_sleep_ends_early_when_the_drain_starts():
    drain = Drain()
    sleeping = asyncio.create_task(drain.sleep(timedelta(hours=1)))
    assert not await drain.sleep(0)
    drain.start()

    assert await sleeping


async def test_event_that_is_set_needs_no_wait():
    event = asyncio.Event()
    assert not await wait_for_event(event, 0)
    event.set()
    assert await wait_for_event(event, 0)


async def run_until_stop(stop: asyncio.Event) -> None:
    await stop.wait()


async def test_loop_stops_when_told():
    loops = LoopSupervisor([Loop(name="good", run=run_until_stop)])
    loops.start()
    await loops.stop(patience=10)

    assert not loops.crashed.is_set()


async def test_crash_of_a_loop_is_noticed():
    async def crash(_stop: asyncio.Event) -> None:
        raise ValueError("broken")

    loops = LoopSupervisor([Loop(name="good", run=run_until_stop), Loop(name="bad", run=crash)])
    loops.start()
    async with asyncio.timeout(5):
        await loops.crashed.wait()
    await loops.stop(patience=10)


async def test_loop_that_ends_by_itself_counts_as_crashed():
    async def end(_stop: asyncio.Event) -> None:
        return

    loops = LoopSupervisor([Loop(name="short", run=end)])
    loops.start()
    async with asyncio.timeout(5):
        await loops.crashed.wait()
    await loops.stop(patience=10)


async def test_restartable_loop_is_started_again():
    runs = []

    async def crash_twice(stop: asyncio.Event) -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("broken")
        await stop.wait()

    loops = LoopSupervisor([Loop(name="bad", run=crash_twice, restart_after=timedelta(0))])
    loops.start()
    await eventually(lambda: len(runs) == 3)
    await loops.stop(patience=10)

    assert not loops.crashed.is_set()


async def test_loop_that_does_not_stop_is_cancelled_when_patience_ends():
    cancelled = asyncio.Event()

    async def deaf(_stop: asyncio.Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    loops = LoopSupervisor([Loop(name="deaf", run=deaf)])
    loops.start()
    await asyncio.sleep(0)
    await loops.stop(patience=0.01)

    assert cancelled.is_set()


async def test_stop_without_start_returns():
    await LoopSupervisor([Loop(name="never", run=run_until_stop)]).stop(patience=1)
