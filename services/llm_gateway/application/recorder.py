"""Writes the records of a running generation behind its back, in order, under its fence.

Callers in this process never wait for the store: frames reach them from memory, and the
store gets them in batches, one write in flight at a time. Only `Done` waits, because it
promises that the result is stored. Silence is broken by a renewal of the lease, which
followers on other replicas see too.
"""

import asyncio
from collections.abc import Sequence

import structlog

from services.llm_gateway.application.ports import Failed, Record, ResultStore
from services.llm_gateway.domain.frames import Done
from services.shared.errors import Unavailable
from services.shared.lifecycle import wait_for_event

# Short answers end within it and cost one write; followers elsewhere lag by it at most.
_LINGER_SECONDS = 0.01
_STORE_RETRY_SECONDS = 0.25

logger = structlog.stdlib.get_logger(__name__)


class FenceLost(Exception):
    """Another replica has taken the call over."""


class Recorder:
    def __init__(self, store: ResultStore, *, request_id: str, fence: int) -> None:
        self._store = store
        self._request_id = request_id
        self._fence = fence
        self._pending: list[Record] = []
        self._writes = 0
        self._some = asyncio.Event()
        self._finished = asyncio.Event()

    def add(self, record: Record) -> None:
        self._pending.append(record)
        self._some.set()

    def finish(self, record: Done | Failed) -> None:
        self.add(record)
        self._finished.set()

    async def run(self) -> None:
        """Returns when the last record is stored. Raises `FenceLost`, or `Unavailable` when the store stays away."""
        last = False
        while not last:
            if await wait_for_event(self._some, self._store.lease_seconds / 3):
                await wait_for_event(self._finished, _LINGER_SECONDS)
            last = self._finished.is_set()
            batch, self._pending = self._pending, []
            self._some.clear()
            if not await self._append(batch):
                raise FenceLost

    async def _append(self, records: Sequence[Record]) -> bool:
        self._writes += 1
        deadline = asyncio.get_running_loop().time() + self._store.lease_seconds
        while True:
            try:
                return await self._store.append(
                    self._request_id, fence=self._fence, number=self._writes, records=records
                )
            except Unavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                logger.warning("store_away", request_id=self._request_id)
                await asyncio.sleep(_STORE_RETRY_SECONDS)
