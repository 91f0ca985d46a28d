"""Sends files to the extractor, several batches at a time.

A batch is read only when it may be sent, so that memory is bounded by the number of slots. All calls are idempotent
by the content, and are repeated while the extractor is away or overloaded.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from scristill.extractor.v1.source_pb2 import SourceSpec, SourceState
from scristill.extractor.v1.source_service_pb2 import CreateSourceResult, NewSource

from services.cli.client.sources import Sources
from services.cli.connection import patiently
from services.cli.documents import enum_name
from services.cli.errors import explain
from services.cli.ingest.collect import File, failed, readable
from services.cli.ingest.load import Batch, load
from services.cli.ingest.outcome import Fate, Outcome
from services.shared.errors import Code, RemoteError
from services.shared.grpc.errors import from_item_failure

SLOTS = 4
CHUNK_BYTES = 1024 * 1024

REFUSALS = frozenset({Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.OUT_OF_RANGE})
"""Of what was sent, not of the project or the caller: the rest may still go."""


class Submission:
    """`report` is called once for each path, in no order."""

    def __init__(self, *, sources: Sources, project_id: str, group: str, report: Callable[[Outcome], None]) -> None:
        self._sources = sources
        self._project_id = project_id
        self._group = group
        self._report = report

    async def run(self, found: Iterable[File | Outcome]) -> None:
        """Raises `RemoteError` when the extractor stays away; paths that are not reported then were not sent."""
        slots = asyncio.Semaphore(SLOTS)
        steps = load(found)

        async def send(step: Batch | File) -> None:
            try:
                await (self._send_file(step) if isinstance(step, File) else self._send_batch(step))
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            await slots.acquire()
            while (step := await asyncio.to_thread(next, steps, None)) is not None:
                if isinstance(step, Outcome):
                    self._report(step)
                else:
                    group.create_task(send(step), name="send")
                    await slots.acquire()

    async def _send_batch(self, batch: Batch) -> None:
        items = [NewSource(spec=self._spec(loaded.path), data=loaded.content) for loaded in batch]
        try:
            results = await patiently(lambda: self._sources.create(self._project_id, items))
        except RemoteError as error:
            if error.code not in REFUSALS:
                raise
            for loaded in batch:
                self._report(_refused(loaded.path, explain(error)))
        else:
            for loaded, result in zip(batch, results, strict=True):
                self._report(outcome_of(loaded.path, result))

    async def _send_file(self, file: File) -> None:
        try:
            result = await patiently(
                lambda: self._sources.upload(
                    self._project_id, self._spec(file.path), size_bytes=file.size, chunks=_chunks(file.path)
                )
            )
        except OSError as error:
            self._report(failed(file.path, error))
        except RemoteError as error:
            if error.code not in REFUSALS:
                raise
            self._report(_refused(file.path, error.message))
        else:
            self._report(outcome_of(file.path, result))

    def _spec(self, path: Path) -> SourceSpec:
        return SourceSpec(uri=path.as_uri(), group=self._group)


def outcome_of(path: Path, result: CreateSourceResult) -> Outcome:
    if result.HasField("failure"):
        return _refused(path, from_item_failure(result.failure, peer="extractor").message)
    source = result.source
    fate = Fate.CREATED if result.changed else Fate.UNCHANGED
    if source.state == SourceState.SOURCE_STATE_SKIPPED:
        fate = Fate.SKIPPED
    elif source.state == SourceState.SOURCE_STATE_FAILED:
        fate = Fate.FAILED
    state = enum_name(SourceState.DESCRIPTOR, source.state).lower()
    return Outcome(
        path=readable(path),
        fate=fate,
        reason=(source.message or state) if fate in (Fate.SKIPPED, Fate.FAILED) else "",
        source_id=source.source_id,
        version=source.version,
        job_id=source.job_id,
    )


def _refused(path: Path, reason: str) -> Outcome:
    return Outcome(path=readable(path), fate=Fate.FAILED, reason=reason)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
