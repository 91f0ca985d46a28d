import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.shared.batching import Batcher
from services.shared.errors import ServerDraining
from tests.support.waiting import eventually


class Recorder:
    """Doubles each number, and remembers the batches and how many ran at once."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.release = asyncio.Event()
        self.release.set()
        self.running = self.most_running = 0

    async def __call__(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self.release.wait()
        finally:
            self.running -= 1
        return [ValueError(item) if item < 0 else item * 2 for item in items]


@pytest.fixture
def apply() -> Recorder:
    return Recorder()


async def test_lone_item_goes_at_once(apply: Recorder):
    async with Batcher(apply, name="test", max_weight=100) as batcher:
        assert await batcher.submit(21) == 42

    assert apply.batches == [[21]]


async def test_items_that_arrive_while_a_batch_runs_go_together(apply: Recorder):
    apply.release.clear()
    async with Batcher(apply, name="test", max_weight=100) as batcher, asyncio.TaskGroup() as tasks:
        tasks.create_task(batcher.submit(0))
        await eventually(lambda: apply.batches)
        for item in range(1, 6):
            tasks.create_task(batcher.submit(item))
        await asyncio.sleep(0)
        apply.release.set()

    assert apply.batches == [[0], [1, 2, 3, 4, 5]]


async def test_linger_gathers_items_that_come_one_after_the_other(apply: Recorder):
    async with (
        Batcher(apply, name="test", max_weight=3, linger=timedelta(seconds=30)) as batcher,
        asyncio.TaskGroup() as tasks,
    ):
        for item in range(3):
            tasks.create_task(batcher.submit(item))
            await asyncio.sleep(0.01)
        await eventually(lambda: apply.batches)

    assert apply.batches == [[0, 1, 2]]


async def test_linger_ends_without_more_items(apply: Recorder):
    async with Batcher(apply, name="test", max_weight=100, linger=timedelta(milliseconds=20)) as batcher:
        assert await asyncio.gather(batcher.submit(1), batcher.submit(2)) == [2, 4]

    assert apply.batches == [[1, 2]]


async def test_spacing_gathers_items_after_a_batch_of_several(apply: Recorder):
    async with (
        Batcher(apply, name="test", max_weight=3, spacing=timedelta(hours=1)) as batcher,
        asyncio.TaskGroup() as tasks,
    ):
        assert await asyncio.gather(batcher.submit(1), batcher.submit(2)) == [2, 4]
        for item in range(3, 6):
            tasks.create_task(batcher.submit(item))
            await asyncio.sleep(0.01)
        await eventually(lambda: len(apply.batches) > 1)

    assert apply.batches == [[1, 2], [3, 4, 5]]


async def test_spacing_does_not_hold_up_one_caller_after_the_other(apply: Recorder):
    async with Batcher(apply, name="test", max_weight=3, spacing=timedelta(hours=1)) as batcher:
        assert [await batcher.submit(item) for item in range(3)] == [0, 2, 4]

    assert apply.batches == [[0], [1], [2]]


async def test_leaving_sends_what_lingers(apply: Recorder):
    async with Batcher(apply, name="test", max_weight=100, linger=timedelta(hours=1)) as batcher:
        waiting = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)

    assert await waiting == 2


async def test_submit_after_the_end_is_refused(apply: Recorder):
    async with Batcher(apply, name="test", max_weight=100) as batcher:
        pass
    with pytest.raises(ServerDraining):
        await batcher.submit(1)


async def test_callers_are_answered_when_leaving_is_cancelled(apply: Recorder):
    apply.release.clear()
    callers: list[asyncio.Task[int]] = []

    async def use() -> None:
        async with Batcher(apply, name="test", max_weight=1) as batcher:
            callers.extend(asyncio.create_task(batcher.submit(item)) for item in range(3))
            await eventually(lambda: apply.batches)
            leaving.set()

    leaving = asyncio.Event()
    using = asyncio.create_task(use())
    await leaving.wait()
    await asyncio.sleep(0)
    using.cancel()
    async with asyncio.timeout(5):
        results = await asyncio.gather(*callers, return_exceptions=True)

    assert [type(result) for result in results] == [ServerDraining] * 3


async def test_failure_of_one_item_is_its_own(apply: Recorder):
    async with Batcher(apply, name="test", max_weight=100, linger=timedelta(milliseconds=10)) as batcher:
        results = await asyncio.gather(batcher.submit(1), batcher.submit(-1), return_exceptions=True)

    assert results[0] == 2
    assert isinstance(results[1], ValueError)


async def test_failure_of_the_batch_reaches_every_caller_and_the_next_batch_runs():
    calls = []

    async def fail_once(items: Sequence[int]) -> Sequence[int]:
        calls.append(list(items))
        if len(calls) == 1:
            raise ConnectionError("away")
        return items

    async with Batcher(fail_once, name="test", max_weight=2, linger=timedelta(milliseconds=10)) as batcher:
        first = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)
        assert [type(error) for error in first] == [ConnectionError, ConnectionError]
        assert await batcher.submit(3) == 3


async def test_missing_result_is_an_error_for_everyone_instead_of_a_hang():
    async def forget(items: Sequence[int]) -> Sequence[int]:
        return items[:-1]

    async with Batcher(forget, name="test", max_weight=2, linger=timedelta(milliseconds=10)) as batcher:
        results = await asyncio.gather(batcher.submit(1), batcher.submit(2), return_exceptions=True)

    assert results[0] == 1
    assert isinstance(results[1], ValueError)


async def test_caller_that_gives_up_takes_its_waiting_item_out(apply: Recorder):
    apply.release.clear()
    async with Batcher(apply, name="test", max_weight=100) as batcher:
        first = asyncio.create_task(batcher.submit(1))
        await eventually(lambda: apply.batches)
        given_up = asyncio.create_task(batcher.submit(2))
        third = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.sleep(0)
        apply.release.set()
        assert await asyncio.gather(first, third) == [2, 6]

    assert apply.batches == [[1], [3]]


async def test_caller_that_gives_up_does_not_cancel_the_batch_of_the_others(apply: Recorder):
    apply.release.clear()
    async with Batcher(apply, name="test", max_weight=2, linger=timedelta(seconds=30)) as batcher:
        given_up, other = asyncio.create_task(batcher.submit(1)), asyncio.create_task(batcher.submit(2))
        await eventually(lambda: apply.batches)
        given_up.cancel()
        apply.release.set()
        assert await other == 4


async def test_more_than_may_wait_waits_outside(apply: Recorder):
    apply.release.clear()
    async with Batcher(apply, name="test", max_weight=1, max_pending=2) as batcher, asyncio.TaskGroup() as tasks:
        for item in range(6):
            tasks.create_task(batcher.submit(item))
        await eventually(lambda: apply.batches)
        assert len(batcher._waiting) <= 2
        apply.release.set()

    assert sorted(item for batch in apply.batches for item in batch) == list(range(6))


async def test_item_heavier_than_a_batch_goes_alone(apply: Recorder):
    async with Batcher(apply, name="test", max_weight=10, weigh=lambda item: item) as batcher:
        results = await asyncio.gather(*(batcher.submit(item) for item in (3, 50, 4, 5)))

    assert results == [6, 100, 8, 10]
    assert apply.batches == [[3], [50], [4, 5]]


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.integers(-3, 30), max_size=40),
    max_weight=st.integers(1, 8),
    concurrency=st.integers(1, 3),
    max_pending=st.integers(1, 10),
    linger=st.sampled_from([0, 1]),
)
def test_every_item_is_applied_once_in_bounds_and_answered_with_its_own_result(
    items, max_weight, concurrency, max_pending, linger
):
    async def scenario() -> None:
        apply = Recorder()
        async with Batcher(
            apply,
            name="test",
            max_weight=max_weight,
            concurrency=concurrency,
            max_pending=max_pending,
            linger=timedelta(milliseconds=linger),
        ) as batcher:
            results = await asyncio.gather(*(batcher.submit(item) for item in items), return_exceptions=True)

        for item, result in zip(items, results, strict=True):
            assert isinstance(result, ValueError) if item < 0 else result == item * 2
        assert sorted(item for batch in apply.batches for item in batch) == sorted(items)
        assert all(1 <= len(batch) <= max_weight for batch in apply.batches)
        assert apply.most_running <= concurrency

    asyncio.run(scenario())
