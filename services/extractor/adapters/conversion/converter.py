"""Runs conversions in a pool of processes: a hostile document may loop, crash or bloat without harm to the service."""

import asyncio
import functools
import multiprocessing
import os
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import structlog

from services.extractor.adapters.conversion import formats
from services.extractor.domain.errors import SourceEmpty, SourceUnreadable
from services.extractor.domain.text import normalise

_log = structlog.get_logger(__name__)

# Converters and their caches grow with what they have seen; a fresh process now and then keeps memory flat.
_TASKS_PER_PROCESS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """`text` is normalised: what is stored, and what every span refers to. `title` may be empty."""

    text: str
    title: str
    media_type: str


def _end_with_parent() -> None:
    """A pool's process waits for work for ever when its parent was killed; this one goes with it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_await_end, args=(parent.sentinel,), name="parent-watch", daemon=True).start()


def _await_end(parent: int) -> None:
    connection.wait([parent])
    os._exit(1)


def _stored(data: bytes) -> IO[bytes]:
    """A file that goes when it is closed. The pool's queue is a pipe: a document larger than that, whose process dies
    while it reads, would leave the queue's writer waiting for ever, and with it the end of this process.
    """
    file = tempfile.NamedTemporaryFile(prefix="scristill-document-")  # noqa: SIM115 - closed by whoever gets it
    file.write(data)
    file.flush()
    return file


def _convert(path: str, *, media_type: str, uri: str) -> formats.Outcome:
    return formats.convert(Path(path).read_bytes(), media_type=media_type, uri=uri)


class DocumentConverter:
    """An async context manager over the process pool."""

    def __init__(self, *, processes: int = 1, timeout: timedelta = timedelta(seconds=120)) -> None:
        self._processes = processes
        self._timeout = timeout
        self._pool: ProcessPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        self._pool = self._new_pool()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard(self._pool)
        self._pool = None

    async def convert(self, data: bytes, *, media_type: str, uri: str) -> Converted:
        """The document as text.

        Raises `SourceUnreadable` for a binary, damaged, unknown or too slow document
        and `SourceEmpty` for one without text.
        """
        details = {"uri": uri, "media_type": media_type}
        if not data.strip():
            raise SourceEmpty("the source holds no text", metadata=details)
        pool = self._pool
        if pool is None:
            raise RuntimeError("the converter is closed")
        stored = await asyncio.to_thread(_stored, data)
        call = functools.partial(_convert, stored.name, media_type=media_type, uri=uri)
        try:
            async with asyncio.timeout(self._timeout.total_seconds()):
                outcome = await asyncio.get_running_loop().run_in_executor(pool, call)
        except TimeoutError:
            self._replace(pool)
            raise SourceUnreadable("the document takes too long to convert", metadata=details) from None
        except BrokenProcessPool:
            self._replace(pool)
            _log.warning("conversion.crashed", **details)
            raise SourceUnreadable("the document makes its converter crash", metadata=details) from None
        finally:
            stored.close()
        if outcome.problem:
            raise SourceUnreadable(outcome.problem, metadata=details)
        text = normalise(outcome.text)
        if not text.strip():
            raise SourceEmpty("the source holds no text", metadata=details)
        return Converted(text=text, title=" ".join(normalise(outcome.title).split()), media_type=outcome.media_type)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self._processes,
            mp_context=multiprocessing.get_context("spawn"),
            max_tasks_per_child=_TASKS_PER_PROCESS,
            initializer=_end_with_parent,
        )

    def _replace(self, pool: ProcessPoolExecutor) -> None:
        """Only once for all callers that were hit by the same failure."""
        if self._pool is pool:
            self._pool = self._new_pool()
        self._discard(pool)

    @staticmethod
    def _discard(pool: ProcessPoolExecutor | None) -> None:
        if pool is None:
            return
        # A process that hangs in a parser answers no shutdown; the pool has no public way to end it before 3.14.
        for process in list((pool._processes or {}).values()):  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)
