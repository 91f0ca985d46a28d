"""Writes the records of a running generation behind its back, in order, under its fence.

Callers in this process never wait for the store: frames reach them from memory, and the
store gets them in batches, one write in flight at a time. Only the end waits, because
`Done` promises that the result is stored. Silence is broken by a renewal of the lease,
which followers on other replicas see too. A short answer is one write and no task.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import structlog

from services.llm_gateway.application.ports import Failed, Record, ResultStore
from services.llm_gateway.domain.frames import Done
from services.shared.errors import Unavailable

# Short answers end within it; followers elsewhere lag by it at most.
_LINGER_SECONDS = 0.01
_STORE_RETRY_SECONDS = 0.25

logger = structlog.stdlib.get_logger(__name__)


class FenceLost(Exception):
    """Another replica has taken the call over."""


class Recorder:
    """`async with Recorder(…) as recorder`.

    When a write in the background has failed for good, `problem` says why, `FenceLost` or
    `Unavailable`, and the block of `interrupting` is ended by its time-out.
    """

    def __init__(self, store: ResultStore, *, request_id: str, fence: int) -> None:
        self._store = store
        self._request_id = request_id
        self._fence = fence
        self._loop = asyncio.get_running_loop()
        self._pending: list[Record] = []
        self._writes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._bound: asyncio.Timeout | None = None
        self.problem: Exception | None = None

    async def __aenter__(self) -> Self:
        self._write_in(self._store.lease_seconds / 3)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self._stop_timer()
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait({self._writing})

    @contextmanager
    def interrupting(self, bound: asyncio.Timeout) -> Generator[None]:
        self._bound = bound
        try:
            yield
        finally:
            self._bound = None

    def add(self, record: Record) -> None:
        if not self._pending and self._writing is None:
            self._write_in(_LINGER_SECONDS)
        self._pending.append(record)

    async def finish(self, record: Done | Failed) -> None:
        """Returns when everything is stored. Raises `FenceLost`, or `Unavailable` when the store stays away."""
        self._stop_timer()
        if self._writing is not None:
            await asyncio.wait({self._writing})
            self._stop_timer()
        if self.problem is not None:
            raise self.problem
        self._pending.append(record)
        await self._write()

    def _write_in(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self._loop.call_later(seconds, self._begin_write)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _begin_write(self) -> None:
        self._timer = None
        self._writing = self._loop.create_task(self._write_behind(), name="recorder")

    async def _write_behind(self) -> None:
        try:
            await self._write()
        except Exception as error:  # noqa: BLE001 - raised again by whoever looks at `problem`
            self.problem = error
            if self._bound is not None and not self._bound.expired():
                self._bound.reschedule(0.0)
        else:
            self._write_in(_LINGER_SECONDS if self._pending else self._store.lease_seconds / 3)
        finally:
            self._writing = None

    async def _write(self) -> None:
        records, self._pending = self._pending, []
        self._writes += 1
        deadline = self._loop.time() + self._store.lease_seconds
        while True:
            try:
                stored = await self._store.append(
                    self._request_id, fence=self._fence, number=self._writes, records=records
                )
            except Unavailable:
                if self._loop.time() > deadline:
                    raise
                logger.warning("store_away", request_id=self._request_id)
                await asyncio.sleep(_STORE_RETRY_SECONDS)
            else:
                break
        if not stored:
            raise FenceLost
