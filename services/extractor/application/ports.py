"""What the use cases need from stores and peers; adapters fit these shapes."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from services.extractor.domain.chunk import ChunkOutcome, ChunkRow
from services.extractor.domain.chunking import Chunk
from services.extractor.domain.extraction import (
    Consistency,
    Entity,
    EntityFilter,
    EntityPosition,
    Extraction,
    ExtractionFilter,
    ExtractionPosition,
)
from services.extractor.domain.facts import Fact, Mention
from services.extractor.domain.outbox import (
    Acknowledgement,
    Backlog,
    DeadLetter,
    FactIntent,
    IndexedFact,
    Intent,
    KeptVector,
    Postponed,
    Rejection,
    Topic,
    Witness,
)
from services.extractor.domain.project import NewProject, Project
from services.extractor.domain.reconciliation import (
    Bucket,
    Drift,
    FactState,
    IdRange,
    PointState,
    RecordedDrift,
    Run,
    RunRequest,
)
from services.extractor.domain.schema import ExtractionSchema
from services.extractor.domain.source import (
    Ending,
    JobEnding,
    NewSource,
    Source,
    SourceFilter,
    SourceVersion,
    VersionRef,
)
from services.shared.errors import RemoteError

Wake = Callable[[Topic], None]
"""Tells the relay of a topic that intents were committed. Losing a call costs time, never an intent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedSource:
    """A new source with the ids that it gets if it is a new version."""

    source_id: UUID
    job_id: UUID
    source: NewSource


class Projects(Protocol):
    async def create(
        self, project_id: UUID, new: NewProject, schema: ExtractionSchema, *, request_id: UUID, request_hash: bytes
    ) -> tuple[Project, bytes]: ...
    async def get(self, project_id: UUID) -> Project | None: ...
    async def get_by_name(self, display_name: str) -> Project | None: ...
    async def page(self, *, after: UUID | None, limit: int) -> list[Project]: ...
    async def lock(self, project_id: UUID) -> Project | None: ...
    async def hold(self, project_id: UUID) -> Project | None: ...
    async def update(self, project: Project) -> Project: ...
    async def delete(self, project_id: UUID) -> None: ...


class Sources(Protocol):
    async def stage(self, project_id: UUID, staged: Sequence[StagedSource], *, traceparent: str) -> set[UUID]: ...
    async def lock(self, source_ids: Sequence[UUID]) -> list[UUID]: ...
    async def lock_project(self, project_id: UUID) -> list[UUID]: ...
    async def project_of(self, source_id: UUID) -> UUID | None: ...
    async def get(self, source_ids: Sequence[UUID]) -> dict[UUID, Source]: ...
    async def text(self, source_id: UUID) -> str: ...
    async def page(
        self, project_id: UUID, wanted: SourceFilter, *, after: tuple[datetime, UUID] | None, limit: int
    ) -> list[Source]: ...
    async def count_chunks(self, source_id: UUID) -> tuple[int, int]: ...
    async def delete(self, source_ids: Sequence[UUID], *, traceparent: str) -> list[str]: ...
    async def begin_anew(self, source_id: UUID, *, incarnation: UUID) -> None: ...


class Versions(Protocol):
    async def begin(self, ref: VersionRef) -> tuple[SourceVersion, int] | None: ...
    async def exists(self, ref: VersionRef) -> bool: ...
    async def lay_out(
        self, ref: VersionRef, *, text: str, title: str, media_type: str, fingerprint: str, chunks: Sequence[Chunk]
    ) -> None: ...
    async def chunks(self, source_id: UUID, version: int) -> list[ChunkRow]: ...
    async def save(self, ref: VersionRef, outcomes: Sequence[ChunkOutcome]) -> None: ...
    async def claim_publish(self, ref: VersionRef) -> int: ...
    async def show(self, ref: VersionRef) -> None: ...
    async def finish(self, ref: VersionRef, ending: Ending) -> None: ...
    async def duration(self, source_id: UUID, version: int) -> timedelta | None: ...
    async def stranded(
        self, *, older_than: timedelta, limit: int, job_ids: Sequence[UUID] | None = None
    ) -> list[VersionRef]: ...
    async def give_new_job(self, ref: VersionRef, *, job_id: UUID) -> None: ...


class Facts(Protocol):
    async def replace(
        self, project_id: UUID, source_id: UUID, facts: Sequence[Fact], *, traceparent: str
    ) -> tuple[int, int]: ...
    async def delete(self, source_ids: Sequence[UUID], *, traceparent: str) -> int: ...
    async def ids(self, source_id: UUID) -> list[UUID]: ...
    async def update_embedding_id(self, indexed: IndexedFact) -> bool: ...
    async def update_embedding_ids_batch(self, indexed: Sequence[IndexedFact]) -> set[UUID]: ...
    async def vectors(self, fact_ids: Sequence[UUID]) -> list[KeptVector]: ...
    async def forget_vectors(self, fact_ids: Sequence[UUID]) -> None: ...
    async def replace_entities(
        self, project_id: UUID, source_id: UUID, mentions: Sequence[Mention], facts: Sequence[Fact]
    ) -> None: ...


class Extractions(Protocol):
    async def get(self, extraction_id: UUID) -> Extraction | None: ...
    async def page(
        self, project_id: UUID, wanted: ExtractionFilter, *, after: ExtractionPosition | None, limit: int
    ) -> list[Extraction]: ...
    async def entities(
        self, project_id: UUID, wanted: EntityFilter, *, after: EntityPosition | None, limit: int
    ) -> list[Entity]: ...
    async def consistency(self, project_id: UUID | None) -> Consistency: ...
    async def unindexed(self, *, older_than: timedelta) -> int: ...


class Reconciliations(Protocol):
    async def open(
        self, run_id: UUID, request: RunRequest, *, owner: str, lease: timedelta
    ) -> tuple[Run | None, bool]: ...
    async def take_over(self, *, owner: str, lease: timedelta) -> Run | None: ...
    async def get(self, run_id: UUID) -> Run | None: ...
    async def last(self) -> Run | None: ...
    async def advance(self, run: Run, *, owner: str, lease: timedelta) -> bool: ...
    async def record(self, run_id: UUID, drifts: Sequence[Drift], *, repaired: set[UUID]) -> set[UUID]: ...
    async def drifts(self, run_id: UUID, *, after: int, limit: int) -> list[RecordedDrift]: ...
    async def digests(self, *, epoch: int, first: int, last: int) -> dict[int, Bucket]: ...
    async def facts_in(self, ranges: Sequence[IdRange]) -> dict[UUID, FactState]: ...
    async def pending_in(self, ranges: Sequence[IdRange]) -> frozenset[UUID]: ...
    async def notice_timeline(self) -> bool: ...
    async def due(self, *, period: timedelta, settle: timedelta) -> bool: ...
    async def repair(self, drifts: Sequence[Drift], *, traceparent: str) -> set[UUID]: ...


class Outbox(Protocol):
    async def lease(self, topic: Topic, *, owner: str, limit: int, lease: timedelta) -> list[Intent]: ...
    async def lease_facts(
        self, *, owner: str, limit: int, lease: timedelta
    ) -> tuple[list[FactIntent], list[Intent]]: ...
    async def postpone(self, topic: Topic, postponed: Sequence[Postponed]) -> None: ...
    async def pull_forward(self, *, limit: int) -> int: ...
    async def bury(self, topic: Topic, rejections: Sequence[Rejection]) -> list[UUID]: ...
    async def complete(self, topic: Topic, intents: Sequence[Intent]) -> None: ...
    async def reissue(self, intents: Sequence[Intent]) -> list[UUID]: ...
    async def requeue_orphans(self, *, older_than: timedelta, limit: int, traceparent: str) -> int: ...
    async def backlog(self) -> list[Backlog]: ...
    async def count_dead_letters(self) -> int: ...
    async def waiting(self, fact_ids: Sequence[UUID]) -> int: ...
    async def dead_letters(
        self, *, project_id: UUID | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> list[DeadLetter]: ...
    async def replay(self, keys: Sequence[UUID], *, traceparent: str) -> set[UUID]: ...


class Markers(Protocol):
    async def issue(self, project_id: UUID, *, marker: UUID) -> int | None: ...
    async def release(self, *, settle: timedelta) -> bool: ...


class Witnesses(Protocol):
    async def note(self, witness: Witness, *, owner: str) -> None: ...
    async def all(self) -> list[Witness]: ...
    async def release(self, seen: Sequence[Witness]) -> None: ...
    async def disprove(self) -> None: ...


class StatementRefused(Exception):
    """The database will never take these values. Everything since the savepoint is undone, and nothing before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repositories:
    """All of one transaction. `savepoint` begins a part that may fail alone, with `StatementRefused`."""

    projects: Projects
    sources: Sources
    versions: Versions
    facts: Facts
    extractions: Extractions
    outbox: Outbox
    markers: Markers
    witnesses: Witnesses
    reconciliations: Reconciliations
    savepoint: Callable[[], AbstractAsyncContextManager[None]]


UnitOfWork = Callable[[], AbstractAsyncContextManager[Repositories]]
"""One per command: commits when its block ends, rolls back when it raises."""


class Converted(Protocol):
    @property
    def text(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def media_type(self) -> str: ...


class Converter(Protocol):
    async def convert(self, data: bytes, *, media_type: str, uri: str) -> Converted:
        """Raises `SourceUnreadable` or `SourceEmpty`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """One call: instructions apart from the text, which is given as data. The id makes it payable once.

    `scope` owns the result that the gateway keeps.
    """

    call_id: UUID
    scope: str
    project_id: UUID
    model: str
    instructions: str
    output_schema: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswer:
    """`answer` matches the output schema; `model` is the one that gave it."""

    answer: Mapping[str, Any] = field(repr=False)
    model: str


class Model(Protocol):
    async def ask(self, request: ModelRequest) -> ModelAnswer:
        """Raises `RemoteError`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgottenResults:
    """What all deletions of a scope have removed: calls with a result, whole or partial, and failed calls."""

    result_count: int
    dead_letter_count: int


class ResultCache(Protocol):
    """What is kept of model calls beside the database."""

    async def forget(self, scopes: Sequence[str]) -> Sequence[ForgottenResults | RemoteError]:
        """One answer per scope, of 100 at most. Raises `RemoteError` when none is known. Harmless when repeated."""
        ...


class Scheduler(Protocol):
    async def create_jobs(self, intents: Sequence[Intent]) -> Sequence[RemoteError | None]:
        """One answer per intent: None when its job exists now. Raises `RemoteError` when none is known."""
        ...

    async def cancel_job(self, intent: Intent) -> None:
        """Succeeds for a job that does not exist. Raises `RemoteError`."""
        ...


class Jobs(Protocol):
    async def endings(self, job_ids: Sequence[UUID]) -> Mapping[UUID, JobEnding]:
        """How jobs ended; OPEN for those that have not, LOST for those unknown. Raises `RemoteError`."""
        ...

    async def withdraw(self, job_id: UUID) -> None:
        """Asks for the end of a job that nobody needs. Raises `RemoteError`."""
        ...

    def ending_badly(self) -> AsyncIterator[tuple[UUID, JobEnding]]:
        """Jobs of this service that end badly from now on. Raises `RemoteError` when it can no longer tell."""
        ...


class IndexSession(Protocol):
    """One stream to the indexer. Sending and reading go on side by side."""

    @property
    def max_in_flight(self) -> int: ...

    async def send(self, intents: Sequence[FactIntent]) -> None:
        """Raises `RemoteError` when the stream is broken."""
        ...

    async def finish(self) -> None:
        """Says that nothing more will be sent; acknowledgements still come."""
        ...

    def acknowledgements(self) -> AsyncIterator[Sequence[Acknowledgement]]:
        """Ends when the server has acknowledged all and the session is finished. Raises `RemoteError`.

        An empty sequence says that the server wants no more on this session.
        """
        ...


class IndexAudit(Protocol):
    async def digests(self, *, epoch: int, first: int, last: int, pace: int) -> tuple[int, dict[int, Bucket]]:
        """The epoch that was read, and its buckets from `first` to `last`. Raises `RemoteError`."""
        ...

    def points(self, *, epoch: int, buckets: Sequence[int]) -> AsyncIterator[Sequence[PointState]]:
        """Points of the buckets, tombstones included. Raises `RemoteError`."""
        ...


class Indexer(Protocol):
    def session(self) -> AbstractAsyncContextManager[IndexSession]:
        """Raises `RemoteError` when the indexer cannot be reached."""
        ...


class Progress(Protocol):
    """Where a job tells how far it has come."""

    def report(self, *, completed: int, total: int, message: str) -> None: ...
