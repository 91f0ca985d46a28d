"""One collection's shard: its engine, its writer, and when a write counts as done.

Invariants:
- Writes are applied in the order of their arrival by one task, which takes all that wait and applies them. The log is
  put on disk once for all of them (group commit), while the next ones are applied already. A write's call returns after
  its log is on disk, never before.
- The engine holds the interpreter lock during every call. Threads let other work run between the calls, not beside
  them; several of them translating writes would only compete, so there is one. Nothing that takes seconds may run
  while serving: the engine's optimizer runs when a shard is opened, without building HNSW graphs, and searches scan.
- After a failed sync nothing is known about what is on disk, so the process ends, to replay the log at its next start.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import qdrant_edge as edge

from deploy.local.qdrant.errors import InternalError, NoSpaceError, NotFoundError, RequestError, StandInError, guarded
from deploy.local.qdrant.storage import read_through, sync_tree
from deploy.local.qdrant.uninterrupted import Uninterrupted
from deploy.local.qdrant.wal import Dirty, WriteAheadLog

T = TypeVar("T")
log = logging.getLogger(__name__)

FLUSH_INTERVAL_SECONDS = 5.0
"""How much of the log there is to replay after a crash."""
MAX_QUEUED_WRITES = 256
MAX_COMMIT = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Lanes:
    """The threads of all shards."""

    writes: Executor
    """Translating and applying; one thread."""
    scans: Executor
    """Reading page after page; one thread, so that pages of several scans do not compete with each other."""
    reads: Executor
    """Other reading, and waiting for the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Write:
    operations: Sequence[edge.UpdateOperation]
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applied:
    """Writes that can be seen but are not on disk yet."""

    writes: Sequence[_Write]
    outcomes: Sequence[RequestError | None]
    log: Dirty


class Shard:
    def __init__(self, *, path: Path, engine: edge.EdgeShard, lanes: Lanes, has_room: Callable[[], bool]) -> None:
        self._engine = engine
        self._lanes = lanes
        self._has_room = has_room
        self._wal = WriteAheadLog(path)
        self._queue = asyncio.Queue[_Write | None](maxsize=MAX_QUEUED_WRITES + 1)
        self._writes = Uninterrupted()
        self._closing = False
        self._closed = asyncio.Event()
        self._unflushed_since: float | None = None

    @classmethod
    def create(cls, *, path: Path, config: edge.EdgeConfig, lanes: Lanes, has_room: Callable[[], bool]) -> Self:
        """Blocks. On return the empty shard is on disk."""
        path.mkdir()
        engine = edge.EdgeShard.create(str(path), config)
        sync_tree(path)
        return cls(path=path, engine=engine, lanes=lanes, has_room=has_room)

    @classmethod
    def open(cls, *, path: Path, lanes: Lanes, has_room: Callable[[], bool]) -> Self:
        """Blocks: replays the log, reclaims the space of deleted points if they are a fifth of a segment, and reads the
        files into memory."""
        started = time.perf_counter()
        engine = edge.EdgeShard.load(str(path))
        compacted = engine.optimize()
        engine.flush()
        # The engine has the system forget the files when it loads them, and would wait for each page it touches.
        read_through(path)
        log.info(
            "shard_opened path=%s points=%d compacted=%s seconds=%.3f",
            path, engine.info().points_count, compacted, time.perf_counter() - started,
        )  # fmt: skip
        return cls(path=path, engine=engine, lanes=lanes, has_room=has_room)

    async def read(self, call: Callable[[edge.EdgeShard], T]) -> T:
        """Sees every write that has returned. `call` runs in a thread."""
        return await _run(self._lanes.reads, lambda: call(self._engine))

    async def scan(self, call: Callable[[edge.EdgeShard], T]) -> T:
        """As `read`, for many points: one at a time."""
        return await _run(self._lanes.scans, lambda: call(self._engine))

    async def write(self, translate: Callable[[], Sequence[edge.UpdateOperation]]) -> None:
        """Returns when the operations are applied and on disk; goes on when the caller is cancelled.

        `translate` runs in a thread. An operation that fails leaves those before it applied, as in Qdrant.
        """
        await self._writes.run(self._write(translate))

    async def run(self) -> None:
        """Applies writes until `close`. Raises StandInError when the log cannot be put on disk."""
        async with asyncio.TaskGroup() as syncs:
            synced = syncs.create_task(asyncio.sleep(0), name="synced")
            while not self._closing or not self._queue.empty():
                if writes := await self._take():
                    applied = await _run(self._lanes.writes, lambda: self._apply(writes))
                    await synced
                    synced = syncs.create_task(self._settle(applied), name="sync")
                if self._flush_is_due():
                    await synced
                    await self._flush()
        await self._persist(self._engine.close)
        self._closed.set()

    async def close(self) -> None:
        """Returns when the writes that were accepted are done and the engine has let go of the files."""
        if not self._closing:
            self._closing = True
            self._queue.put_nowait(None)
        await self._closed.wait()

    async def _write(self, translate: Callable[[], Sequence[edge.UpdateOperation]]) -> None:
        operations = await _run(self._lanes.writes, translate)
        if self._closing:
            raise NotFoundError("the collection was deleted while the request ran")
        if self._queue.qsize() >= MAX_QUEUED_WRITES:
            raise InternalError("too many writes in flight")
        done = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Write(operations=operations, done=done))
        await done

    async def _take(self) -> list[_Write]:
        try:
            async with asyncio.timeout(None if self._unflushed_since is None else FLUSH_INTERVAL_SECONDS):
                taken = [await self._queue.get()]
        except TimeoutError:
            return []
        while len(taken) < MAX_COMMIT and not self._queue.empty():
            taken.append(self._queue.get_nowait())
        return [write for write in taken if write is not None]

    async def _settle(self, applied: _Applied) -> None:
        await _run(self._lanes.reads, lambda: _logged(applied.log.sync))
        for write, failure in zip(applied.writes, applied.outcomes, strict=True):
            if failure is None:
                write.done.set_result(None)
            else:
                write.done.set_exception(failure)
        if self._unflushed_since is None:
            self._unflushed_since = time.monotonic()

    def _apply(self, writes: Sequence[_Write]) -> _Applied:
        outcomes: list[RequestError | None]
        if self._has_room():
            outcomes = [self._apply_one(write.operations) for write in writes]
        else:
            outcomes = [NoSpaceError()] * len(writes)
        return _Applied(writes=writes, outcomes=outcomes, log=_logged(self._wal.dirty))

    def _apply_one(self, operations: Sequence[edge.UpdateOperation]) -> RequestError | None:
        try:
            for operation in operations:
                guarded(lambda operation=operation: self._engine.update(operation))
        except RequestError as failure:
            return failure
        return None

    def _flush_is_due(self) -> bool:
        since = self._unflushed_since
        return since is not None and time.monotonic() - since >= FLUSH_INTERVAL_SECONDS

    async def _flush(self) -> None:
        """Writes the segments out and shortens the log."""
        await self._persist(self._engine.flush)
        self._unflushed_since = None

    async def _persist(self, call: Callable[[], None]) -> None:
        try:
            await _run(self._lanes.writes, call)
        except RequestError as error:
            raise StandInError(f"cannot put the segments on disk: {error}") from error


async def _run(lane: Executor, call: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(lane, guarded, call)


def _logged(call: Callable[[], T]) -> T:
    try:
        return call()
    except OSError as error:
        raise StandInError(f"cannot put the write-ahead log on disk: {error}") from error
