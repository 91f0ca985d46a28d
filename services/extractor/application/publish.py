"""The end of a version: one transaction in which its facts replace those before them.

The lock on the source and the fence on the version are taken first, so that of two
holders of a job only the newer one gets here, and of two versions the newer one wins.
Facts, their intents for the index, entities, the visible version and the state of the
source are one commit: a reader sees the old version whole or the new one whole.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence

from services.extractor.application.ports import Repositories, UnitOfWork, Wake
from services.extractor.application.report import Report
from services.extractor.domain.chunk import ChunkRow, ChunkState, decode
from services.extractor.domain.facts import ChunkFindings, Distillate, distil
from services.extractor.domain.outbox import Topic
from services.extractor.domain.source import Ending, SourceState, SourceVersion
from services.shared.telemetry import tracing


class PublishVersion:
    def __init__(self, *, unit_of_work: UnitOfWork, wake: Wake) -> None:
        self._unit_of_work = unit_of_work
        self._wake = wake

    async def __call__(self, version: SourceVersion, text: str) -> Report:
        """Publishes a version all of whose chunks are final. Raises `StaleHolder`."""
        ref = version.ref
        async with self._unit_of_work() as repositories:
            chunks = await repositories.versions.chunks(ref.source_id, ref.version)
        ending = ending_of(chunks)
        if ending.state is SourceState.FAILED:
            return await self.skip(version, ending, chunk_count=len(chunks))
        distillate = await asyncio.to_thread(_distil, chunks, version, text)
        attributes = {"source.id": str(ref.source_id), "fact.count": len(distillate.facts)}
        with tracing.span("publish facts", attributes=attributes):
            async with self._unit_of_work() as repositories:
                await self._replace(repositories, version, distillate, ending)
        self._wake(Topic.FACT)
        return Report(ending=ending, chunk_count=len(chunks), fact_count=len(distillate.facts))

    async def empty(self, version: SourceVersion, ending: Ending) -> Report:
        """Publishes a version that says nothing: facts of the version before it go."""
        async with self._unit_of_work() as repositories:
            await repositories.versions.lay_out(
                version.ref, text="", title=version.title, media_type=version.media_type, fingerprint="", chunks=[]
            )
            await self._replace(repositories, version, Distillate(), ending)
        self._wake(Topic.FACT)
        return Report(ending=ending)

    async def skip(self, version: SourceVersion, ending: Ending, *, chunk_count: int = 0) -> Report:
        """Ends a version of which nothing can be shown; the one before it stays visible."""
        async with self._unit_of_work() as repositories:
            await repositories.versions.claim_publish(version.ref)
            await repositories.versions.finish(version.ref, ending)
        return Report(ending=ending, chunk_count=chunk_count)

    async def _replace(
        self, repositories: Repositories, version: SourceVersion, distillate: Distillate, ending: Ending
    ) -> None:
        ref, project_id = version.ref, version.project_id
        visible = await repositories.versions.claim_publish(ref)
        if ref.version >= visible:
            await repositories.versions.show(ref)
            await repositories.facts.replace(
                project_id, ref.source_id, distillate.facts, traceparent=tracing.current_traceparent()
            )
            await repositories.facts.replace_entities(project_id, ref.source_id, distillate.mentions, distillate.facts)
        await repositories.versions.finish(ref, ending)


def ending_of(chunks: Sequence[ChunkRow]) -> Ending:
    """EXTRACTED only when every chunk is; otherwise what most of the failed ones say."""
    failed = [chunk for chunk in chunks if chunk.state is ChunkState.FAILED]
    if not failed:
        return Ending(state=SourceState.EXTRACTED)
    (reason, message), _ = Counter((chunk.reason, chunk.message) for chunk in failed).most_common(1)[0]
    return Ending(
        state=SourceState.PARTIAL if len(failed) < len(chunks) else SourceState.FAILED,
        reason=reason,
        message=f"{len(failed)} of {len(chunks)} chunks failed: {message}",
    )


def _distil(chunks: Sequence[ChunkRow], version: SourceVersion, text: str) -> Distillate:
    findings = [
        ChunkFindings(
            chunk_index=chunk.index, model=chunk.result["model"], grounded=decode(chunk.result, start=chunk.start)
        )
        for chunk in chunks
        if chunk.result is not None
    ]
    return distil(findings, source=version, text=text)
