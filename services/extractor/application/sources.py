"""Commands and queries on sources."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.extractor.application.ports import Repositories, StagedSource, UnitOfWork, Wake
from services.extractor.application.tokens import issue_token
from services.extractor.domain import coverage, identity
from services.extractor.domain.coverage import Coverage
from services.extractor.domain.outbox import Topic
from services.extractor.domain.source import NewSource, Source, SourceFilter
from services.shared.errors import InvalidRequest, NotFound, TooLarge
from services.shared.telemetry.tracing import current_traceparent


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateResult:
    """What became of one source: `source` unless it was refused, `failure` if it was."""

    source: Source | None = None
    changed: bool = False
    failure: InvalidRequest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedSource:
    """How many facts went with it, and the token of a search that does not find them.

    `scopes` own what the gateway keeps of it; none when the source was gone already.
    """

    extraction_count: int
    token: str
    scopes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLimits:
    """Bytes. `call` bounds what one call may bring inline, `source` one document however it comes."""

    call: int = 24 << 20
    source: int = 64 << 20


class SourceCommands:
    def __init__(
        self, *, unit_of_work: UnitOfWork, wake: Wake, new_id: Callable[[], UUID], limits: SourceLimits
    ) -> None:
        self._unit_of_work = unit_of_work
        self._wake = wake
        self._new_id = new_id
        self._limits = limits

    async def create(self, project_id: UUID, sources: Sequence[NewSource]) -> list[CreateResult]:
        """Stores sources and the intents to extract them, all in one transaction; a result per source, in order.

        Of several with the same URI the last one counts. Sources beyond the size limit of a call are refused alone.
        """
        accepted, refused = self._admit(sources)
        ids = [identity.source_id(project_id, source.spec.uri) for source in sources]
        last = {ids[index]: index for index in accepted}
        staged = [
            StagedSource(source_id=source_id, job_id=self._new_id(), source=sources[index])
            for source_id, index in last.items()
        ]
        changed, stored = await self._store(project_id, staged)
        return [
            CreateResult(failure=refused[index])
            if index in refused
            else CreateResult(source=stored[ids[index]], changed=ids[index] in changed and last[ids[index]] == index)
            for index in range(len(sources))
        ]

    async def create_large(self, project_id: UUID, source: NewSource) -> CreateResult:
        """One source of up to the size limit of a document."""
        refusal = self._refusal(source, self._limits.source)
        if refusal is not None:
            raise refusal
        source_id = identity.source_id(project_id, source.spec.uri)
        staged = StagedSource(source_id=source_id, job_id=self._new_id(), source=source)
        changed, stored = await self._store(project_id, [staged])
        return CreateResult(source=stored[source_id], changed=source_id in changed)

    async def delete(self, source_id: UUID) -> DeletedSource:
        """The source goes now, in one transaction with the tombstones of its facts."""
        async with self._unit_of_work() as repositories:
            deleted = await delete_source(repositories, source_id)
        for topic in Topic:
            self._wake(topic)
        return deleted

    async def _store(self, project_id: UUID, staged: Sequence[StagedSource]) -> tuple[set[UUID], dict[UUID, Source]]:
        async with self._unit_of_work() as repositories:
            if await repositories.projects.hold(project_id) is None:
                raise NotFound.of("project", project_id)
            changed = await repositories.sources.stage(project_id, staged, traceparent=current_traceparent())
            stored = await repositories.sources.get([each.source_id for each in staged])
        if changed:
            self._wake(Topic.JOB)
        return changed, stored

    def _admit(self, sources: Sequence[NewSource]) -> tuple[list[int], dict[int, InvalidRequest]]:
        """Which sources one call stores, and why not the others. What is stored cannot fail for one item alone."""
        accepted: list[int] = []
        refused: dict[int, InvalidRequest] = {}
        room = self._limits.call
        for index, source in enumerate(sources):
            refusal = self._refusal(source, room)
            if refusal is None:
                accepted.append(index)
                room -= len(source.content)
            else:
                refused[index] = refusal
        return accepted, refused

    def _refusal(self, source: NewSource, limit: int) -> InvalidRequest | None:
        size = len(source.content)
        if size > limit:
            return TooLarge(
                f"the source has {size} bytes where {limit} are allowed",
                metadata={"limit_bytes": limit, "size_bytes": size},
            )
        spec = source.spec
        texts = {"uri": spec.uri, "title": spec.title, "group": spec.group, "media_type": spec.media_type}
        for field, text in texts.items():
            if "\x00" in text:
                return InvalidRequest.of(f"spec.{field}", "holds a NUL character, which cannot be stored")
        return None


async def delete_source(repositories: Repositories, source_id: UUID) -> DeletedSource:
    """Of a source that is gone already, nothing."""
    sources = await repositories.sources.lock([source_id])
    project_id = await repositories.sources.project_of(source_id)
    traceparent = current_traceparent()
    extraction_count = await repositories.facts.delete(sources, traceparent=traceparent)
    scopes = await repositories.sources.delete(sources, traceparent=traceparent)
    token = await issue_token(repositories.markers, project_id) if project_id else ""
    return DeletedSource(extraction_count=extraction_count, token=token, scopes=scopes)


class SourceQueries:
    def __init__(self, *, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def get(self, source_id: UUID) -> Source:
        async with self._unit_of_work() as repositories:
            found = await repositories.sources.get([source_id])
        if source_id not in found:
            raise NotFound.of("source", source_id)
        return found[source_id]

    async def get_with_text(self, source_id: UUID) -> tuple[Source, str]:
        source = await self.get(source_id)
        async with self._unit_of_work() as repositories:
            return source, await repositories.sources.text(source_id)

    async def page(
        self, project_id: UUID, wanted: SourceFilter, *, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[Source]:
        """Newest first."""
        async with self._unit_of_work() as repositories:
            return await repositories.sources.page(project_id, wanted, after=after, limit=limit)

    async def coverage(self, source_id: UUID) -> Coverage:
        """What became of every code point of the newest version."""
        async with self._unit_of_work() as repositories:
            source = (await repositories.sources.get([source_id])).get(source_id)
            if source is None:
                raise NotFound.of("source", source_id)
            chunks = await repositories.versions.chunks(source_id, source.version)
            duration: timedelta | None = await repositories.versions.duration(source_id, source.version)
        return Coverage(
            source_version=source.version,
            text_length=source.text_length,
            ranges=tuple(coverage.ranges(chunks, text_length=source.text_length)),
            duration=duration,
        )
