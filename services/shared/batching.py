"""The one micro-batcher: many callers, few calls.

Items that arrive within `linger` of each other, while earlier batches are under way, or
within `spacing` of the last batch's start, go together, and each caller gets the result
of its own item. A caller that gives up takes its item out unless its batch has started;
a batch is never cancelled by a caller.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Generic, Self, TypeVar

from services.shared.errors import ServerDraining

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(slots=True, kw_only=True, eq=False)
class _Entry(Generic[ItemT, ResultT]):
    item: ItemT
    weight: int
    due: float
    result: asyncio.Future[ResultT]


class Batcher(Generic[ItemT, ResultT]):
    """`async with Batcher(apply, name=…, max_weight=…) as batcher: result = await batcher.submit(item)`.

    `apply` gets items of `max_weight` together at most (an item weighs 1, or what `weigh`
    says; one that is heavier goes alone) and returns a result per item, in order. An
    exception in place of a result is raised for that item's caller alone; an exception
    raised by `apply` is raised for every caller of the batch.

    Up to `concurrency` batches run at once. At most `max_pending` items wait, and
    `submit` waits for room beyond that. With a linger of zero a batch leaves as soon as
    a slot is free: nothing is delayed when idle, and batches form by themselves under
    load. `spacing` lets them grow where a batch costs more than a wait: after a batch of
    several items, one that is not full starts no sooner than that. Leaving the block
    sends what is left and waits for it; when that is cancelled, the callers get
    `ServerDraining`.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[ItemT]], Awaitable[Sequence[ResultT | Exception]]],
        *,
        name: str,
        max_weight: int,
        linger: timedelta = timedelta(),
        spacing: timedelta = timedelta(),
        concurrency: int = 1,
        max_pending: int = 10_000,
        weigh: Callable[[ItemT], int] | None = None,
    ) -> None:
        self._apply = apply
        self._name = name
        self._max_weight = max_weight
        self._linger = linger.total_seconds()
        self._spacing = spacing.total_seconds()
        self._next_start = 0.0
        self._weigh = weigh
        self._room = asyncio.Semaphore(max_pending)
        self._slots = asyncio.Semaphore(concurrency)
        self._waiting: deque[_Entry[ItemT, ResultT]] = deque()
        self._weight = 0
        self._changed = asyncio.Event()
        self._closed = False
        self._dispatcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._dispatcher = asyncio.create_task(self._dispatch(), name=f"batcher:{self._name}")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._closed = True
        self._changed.set()
        if self._dispatcher is not None:
            await self._dispatcher

    async def submit(self, item: ItemT) -> ResultT:
        """Waits for the result of the item. Raises `ServerDraining` once the batcher is closed."""
        weight = self._weigh(item) if self._weigh else 1
        await self._room.acquire()
        if self._closed or self._dispatcher is None:
            self._room.release()
            raise ServerDraining
        loop = asyncio.get_running_loop()
        entry: _Entry[ItemT, ResultT] = _Entry(
            item=item, weight=weight, due=loop.time() + self._linger, result=loop.create_future()
        )
        self._waiting.append(entry)
        self._weight += weight
        if len(self._waiting) == 1 or self._weight >= self._max_weight:
            self._changed.set()
        return await entry.result

    async def _dispatch(self) -> None:
        try:
            async with asyncio.TaskGroup() as batches:
                while await self._gathered():
                    await self._slots.acquire()
                    batch = self._take()
                    if batch:
                        self._space(batch)
                        batches.create_task(self._run(batch), name=f"batch:{self._name}")
                    else:
                        self._slots.release()
        finally:
            self._closed = True
            _abandon(self._waiting)

    def _space(self, batch: list[_Entry[ItemT, ResultT]]) -> None:
        """One caller that sends an item after the other has nobody to wait for."""
        alone = len(batch) == 1
        self._next_start = 0.0 if alone else asyncio.get_running_loop().time() + self._spacing

    async def _gathered(self) -> bool:
        """Waits until there is a batch worth sending; False when closed and empty."""
        loop = asyncio.get_running_loop()
        while True:
            self._changed.clear()
            if self._waiting:
                patience = max(self._waiting[0].due, self._next_start) - loop.time()
                if patience <= 0 or self._weight >= self._max_weight or self._closed:
                    return True
            elif self._closed:
                return False
            else:
                patience = None
            try:
                async with asyncio.timeout(patience):
                    await self._changed.wait()
            except TimeoutError:
                return True

    def _take(self) -> list[_Entry[ItemT, ResultT]]:
        batch: list[_Entry[ItemT, ResultT]] = []
        weight = 0
        while self._waiting:
            entry = self._waiting[0]
            abandoned = entry.result.done()
            if batch and not abandoned and weight + entry.weight > self._max_weight:
                break
            self._waiting.popleft()
            self._weight -= entry.weight
            self._room.release()
            if not abandoned:
                batch.append(entry)
                weight += entry.weight
        return batch

    async def _run(self, batch: list[_Entry[ItemT, ResultT]]) -> None:
        try:
            results = await self._apply([entry.item for entry in batch])
            for entry, result in zip(batch, results, strict=True):
                _resolve(entry.result, result)
        except Exception as error:  # noqa: BLE001 - it is raised again by every waiting `submit`
            for entry in batch:
                _resolve(entry.result, error)
        finally:
            _abandon(batch)
            self._slots.release()


def _abandon(entries: Iterable[_Entry[ItemT, ResultT]]) -> None:
    """Answers whoever still waits when the batcher is cancelled."""
    for entry in entries:
        _resolve(entry.result, ServerDraining())


def _resolve(future: asyncio.Future[ResultT], result: ResultT | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
