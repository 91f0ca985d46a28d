"""The job `extract`: from what a client sent to facts that are visible.

Read, chunk, ask, ground, publish. Each step is committed by itself and is found again by
the next holder of the job: text and chunks, then every chunk's result as it comes, then
all facts at once. The model is asked for a chunk only if no result of the same text,
schema and model is kept, and every call carries an id that makes it payable once.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import structlog

from services.extractor.application.ask import AskModel, ChunkFailed
from services.extractor.application.ports import Converter, ModelRequest, Progress, UnitOfWork
from services.extractor.application.publish import PublishVersion
from services.extractor.application.report import Report
from services.extractor.domain import chunking, identity, schema
from services.extractor.domain.chunk import ChunkOutcome, ChunkRow, ChunkState, extracted
from services.extractor.domain.chunking import Chunk
from services.extractor.domain.errors import SourceEmpty, SourceUnreadable, StaleHolder
from services.extractor.domain.grounding import ground
from services.extractor.domain.project import Project
from services.extractor.domain.source import MAX_TITLE, Ending, SourceState, SourceVersion, VersionRef, title_from_uri
from services.shared.batching import Batcher
from services.shared.errors import Reason, Unavailable
from services.shared.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

_SAVE_TOGETHER = 64

# What was kept of the source under this incarnation was deleted; the next attempt goes on under another one.
_REFUSED = Reason.SCOPE_DELETED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    version: SourceVersion
    project: Project
    text: str
    chunks: Sequence[ChunkRow]
    instructions: str
    output_schema: str

    def request(self, chunk: ChunkRow) -> ModelRequest:
        incarnation = self.version.incarnation
        return ModelRequest(
            call_id=identity.model_call_id(incarnation, chunk.content_hash, self.project.question),
            scope=identity.result_scope(self.version.ref.source_id, incarnation),
            project_id=self.project.project_id,
            model=self.project.model,
            instructions=self.instructions,
            output_schema=self.output_schema,
            text=self.text[chunk.start : chunk.end],
        )


class ExtractSource:
    def __init__(
        self,
        *,
        unit_of_work: UnitOfWork,
        converter: Converter,
        ask: AskModel,
        publish: PublishVersion,
        metrics: Metrics,
        max_chunk_attempts: int = 3,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._converter = converter
        self._ask = ask
        self._publish = publish
        self._max_chunk_attempts = max_chunk_attempts
        self._chunks = metrics.counter(
            "scristill_extractor_chunks_total", "Chunks by what became of them.", labels=("outcome",)
        )
        self._ended = metrics.counter(
            "scristill_extractor_sources_total", "Versions of sources by the state they ended in.", labels=("state",)
        )
        self._ungrounded = metrics.counter(
            "scristill_extractor_ungrounded_total", "Values that a model gave without verbatim support."
        )

    async def __call__(self, ref: VersionRef, progress: Progress) -> Report:
        """Raises `StaleHolder` when a newer lease works on the version."""
        try:
            report = await self._work(ref, progress)
        except StaleHolder:
            # Nobody else holds the version when it is gone; the job is then still ours to give back.
            async with self._unit_of_work() as repositories:
                if await repositories.versions.exists(ref):
                    raise
            return Report(ending=None)
        if report.ending is not None:
            self._ended.labels(report.ending.state.name.lower()).inc()
        return report

    async def _work(self, ref: VersionRef, progress: Progress) -> Report:
        async with self._unit_of_work() as repositories:
            begun = await repositories.versions.begin(ref)
            project = begun and await repositories.projects.get(begun[0].project_id)
        if begun is None or project is None:
            return Report(ending=None)
        version, newest = begun
        if newest > ref.version:
            return await self._publish.skip(
                version, Ending(state=SourceState.SKIPPED, message=f"version {newest} has taken its place")
            )
        progress.report(completed=0, total=0, message="reading")
        try:
            work = await self._read(version, project)
        except (SourceEmpty, SourceUnreadable) as error:
            ending = Ending(state=SourceState.SKIPPED, reason=error.reason, message=error.message)
            if isinstance(error, SourceEmpty):
                return await self._publish.empty(version, ending)
            return await self._publish.skip(version, ending)
        unfinished = await self._extract(work, progress)
        if unfinished:
            return Report(ending=None, chunk_count=len(work.chunks), unfinished_count=unfinished)
        progress.report(completed=len(work.chunks), total=len(work.chunks), message="publishing")
        return await self._publish(work.version, work.text)

    async def give_up(self, ref: VersionRef, ending: Ending) -> None:
        """Ends a version that is not to be worked on any more. Raises `StaleHolder`."""
        async with self._unit_of_work() as repositories:
            await repositories.versions.finish(ref, ending)

    async def _read(self, version: SourceVersion, project: Project) -> _Work:
        """Text and chunks of the version, made now unless they are there from an earlier attempt."""
        text = version.text
        if text is None:
            converted = await self._converter.convert(version.content, media_type=version.media_type, uri=version.uri)
            text = converted.text
            version = replace(
                version,
                content=b"",
                text=None,
                title=(version.title or converted.title or title_from_uri(version.uri))[:MAX_TITLE],
                media_type=converted.media_type,
            )
        ref = version.ref
        async with self._unit_of_work() as repositories:
            chunks = await repositories.versions.chunks(ref.source_id, ref.version)
        if not chunks or any(chunk.fingerprint != project.fingerprint for chunk in chunks):
            chunks = await self._lay_out(version, project, text)
        return _Work(
            version=version,
            project=project,
            text=text,
            chunks=chunks,
            instructions=schema.instructions(project.schema),
            output_schema=schema.output_schema(project.schema),
        )

    async def _lay_out(self, version: SourceVersion, project: Project, text: str) -> list[ChunkRow]:
        chunks = await asyncio.to_thread(chunking.split, text)
        if not chunks:
            raise SourceEmpty("the source holds no text", metadata={"uri": version.uri})
        async with self._unit_of_work() as repositories:
            await repositories.versions.lay_out(
                version.ref,
                text=text,
                title=version.title,
                media_type=version.media_type,
                fingerprint=project.fingerprint,
                chunks=chunks,
            )
            return await repositories.versions.chunks(version.ref.source_id, version.ref.version)

    async def _extract(self, work: _Work, progress: Progress) -> int:
        """Asks the model about every chunk that has no result. Returns how many are still without one."""
        open_chunks = [chunk for chunk in work.chunks if chunk.state is ChunkState.PENDING]
        self._chunks.labels("reused").inc(len(work.chunks) - len(open_chunks))
        done = _Tally(progress, completed=len(work.chunks) - len(open_chunks), total=len(work.chunks))
        done.report()
        save = partial(self._save, work.version.ref)
        saver = Batcher[ChunkOutcome, None](save, name="chunk-results", max_weight=_SAVE_TOGETHER)
        try:
            async with saver, asyncio.TaskGroup() as tasks:
                for chunk in open_chunks:
                    tasks.create_task(self._one(work, chunk, saver, done), name=f"chunk:{chunk.index}")
        except ExceptionGroup as group:
            raise _worst(group) from group
        if done.refused:
            await self._begin_anew(work.version)
        return done.unfinished

    async def _begin_anew(self, version: SourceVersion) -> None:
        """The gateway has deleted what it keeps of a source that is there: the database was restored to before."""
        async with self._unit_of_work() as repositories:
            await repositories.sources.begin_anew(version.ref.source_id, incarnation=version.incarnation)
        logger.warning("source_begins_anew", source_id=str(version.ref.source_id))

    async def _one(self, work: _Work, chunk: ChunkRow, saver: Batcher[ChunkOutcome, None], done: "_Tally") -> None:
        outcome = await self._outcome(work, chunk)
        await saver.submit(outcome)
        self._chunks.labels(outcome.state.name.lower()).inc()
        self._ungrounded.inc(outcome.ungrounded_count)
        done.count(outcome)

    async def _outcome(self, work: _Work, chunk: ChunkRow) -> ChunkOutcome:
        project = work.project
        attempts = chunk.attempts + 1
        try:
            answer = await self._ask(work.request(chunk))
        except ChunkFailed as error:
            final = error.reason is not _REFUSED and (error.final or attempts >= self._max_chunk_attempts)
            return ChunkOutcome(
                index=chunk.index,
                state=ChunkState.FAILED if final else ChunkState.PENDING,
                attempts=attempts,
                reason=error.reason,
                message=error.message,
            )
        grounded = await asyncio.to_thread(
            ground,
            answer.answer,
            schema=project.schema,
            policy=project.grounding_policy,
            text=work.text,
            chunk=Chunk(
                index=chunk.index,
                start=chunk.start,
                end=chunk.end,
                heading_path=(),
                content_hash=chunk.content_hash,
            ),
        )
        return extracted(chunk.index, grounded, start=chunk.start, model=answer.model, attempts=attempts)

    async def _save(self, ref: VersionRef, outcomes: Sequence[ChunkOutcome]) -> Sequence[None]:
        async with self._unit_of_work() as repositories:
            await repositories.versions.save(ref, outcomes)
        return [None] * len(outcomes)


def _worst(group: ExceptionGroup[Exception]) -> Exception:
    """Of what ended several chunks at once, what the job must end by: a lost lease, else a fault, else an outage."""
    leaves = list(_leaves(group))
    lost = [leaf for leaf in leaves if isinstance(leaf, StaleHolder)]
    faults = [leaf for leaf in leaves if not isinstance(leaf, Unavailable)]
    return (lost or faults or leaves)[0]


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(cast("ExceptionGroup[Exception]", error))
        else:
            yield error


class _Tally:
    """Counts chunks as they finish and tells the job's progress."""

    def __init__(self, progress: Progress, *, completed: int, total: int) -> None:
        self._progress = progress
        self._completed = completed
        self._total = total
        self.unfinished = 0
        self.refused = False

    def count(self, outcome: ChunkOutcome) -> None:
        if outcome.state is ChunkState.PENDING:
            self.unfinished += 1
            self.refused = self.refused or outcome.reason is _REFUSED
        else:
            self._completed += 1
        self.report()

    def report(self) -> None:
        self._progress.report(completed=self._completed, total=self._total, message="extracting")
