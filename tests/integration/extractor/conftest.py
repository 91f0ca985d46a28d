"""The extractor's use cases and the whole service, on a real PostgreSQL and with scripted peers."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text

from services.extractor.adapters.clients.index_audit import IndexAuditClient
from services.extractor.adapters.clients.indexer import IndexerClient
from services.extractor.adapters.clients.llm_gateway import GatewayCache, GatewayModel
from services.extractor.adapters.clients.scheduler import SchedulerClient
from services.extractor.adapters.conversion import DocumentConverter
from services.extractor.adapters.postgres.unit_of_work import ExtractorUnitOfWork
from services.extractor.application.ask import AskModel
from services.extractor.application.deliveries import CacheDelivery, JobDelivery
from services.extractor.application.extract import ExtractSource
from services.extractor.application.fact_relay import FactRelay, RelaySettings
from services.extractor.application.index_watch import IndexWatch
from services.extractor.application.intent_relay import IntentRelay
from services.extractor.application.projects import ProjectCommands
from services.extractor.application.publish import PublishVersion
from services.extractor.application.reconcile import Reconciler
from services.extractor.application.report import Report
from services.extractor.application.settle import SettleFacts
from services.extractor.application.sources import SourceCommands, SourceLimits, SourceQueries
from services.extractor.domain.extraction import Extraction, ExtractionFilter
from services.extractor.domain.outbox import Topic
from services.extractor.domain.peers import is_final
from services.extractor.domain.project import NewProject, Project
from services.extractor.domain.source import NewSource, Source, SourceSpec, VersionRef
from services.shared.clock import SystemClock
from services.shared.database.engine import Database
from services.shared.database.migrations import Migrations, upgrade
from services.shared.grpc.channel import Channel, connect
from services.shared.ids import Uuid7
from services.shared.telemetry.metrics import Metrics
from tests.integration.extractor.peers import ScriptedGateway, ScriptedIndexer, ScriptedScheduler, serving
from tests.support.fixtures import MigratedDatabase


async def migrate(url: str) -> None:
    await upgrade(Migrations(package="services.extractor.migrations", schema="extractor", url=url))


@dataclass(slots=True, kw_only=True)
class Progress:
    reports: list[tuple[int, int, str]] = field(default_factory=list)

    def report(self, *, completed: int, total: int, message: str) -> None:
        self.reports.append((completed, total, message))


@dataclass(slots=True, kw_only=True)
class Desk:
    """One process of the extractor, taken apart: what a test drives and looks at."""

    database: Database
    unit_of_work: ExtractorUnitOfWork
    projects: ProjectCommands
    commands: SourceCommands
    queries: SourceQueries
    extract: ExtractSource
    woken: list[Topic]
    losses: list[None] = field(default_factory=list[None])
    """One per time that the index was seen to have lost something."""

    async def project(self, **changes: Any) -> Project:
        new = NewProject(**{"display_name": f"project {uuid4()}"} | changes)
        return await self.projects.create(new, request_id=uuid4())

    async def ingest(self, project: Project, text: str | bytes, *, uri: str = "file:///a.txt", **spec: str) -> Source:
        content = text.encode() if isinstance(text, str) else text
        source = NewSource(spec=SourceSpec(uri=uri, **spec), content=content)
        (result,) = await self.commands.create(project.project_id, [source])
        assert result.source is not None
        return result.source

    async def run_job(
        self, source: Source, *, fence: int = 1, version: int | None = None, progress: Progress | None = None
    ) -> Report:
        ref = VersionRef(
            source_id=source.source_id, version=version or source.version, job_id=source.job_id, fence=fence
        )
        return await self.extract(ref, progress or Progress())

    async def distilled(self, project: Project, text: str, *, uri: str = "file:///a.txt", fence: int = 1) -> Source:
        """A source that is ingested and extracted."""
        source = await self.ingest(project, text, uri=uri)
        await self.run_job(source, fence=fence)
        return await self.queries.get(source.source_id)

    async def facts(self, project: Project) -> list[Extraction]:
        async with self.unit_of_work() as repositories:
            return await repositories.extractions.page(project.project_id, ExtractionFilter(), after=None, limit=10_000)

    async def execute(self, statement: str, **parameters: Any) -> Sequence[Any]:
        """SQL of the test's own."""
        async with self.database.connect() as connection, connection.begin():
            result = await connection.execute(text(statement), parameters)
            return result.all() if result.returns_rows else ()

    async def outbox(self) -> dict[UUID, Any]:
        rows = await self.execute("SELECT * FROM extractor.outbox WHERE topic = 'fact'")
        return {row.key: row for row in rows}

    async def nothing_waits(self) -> bool:
        return not await self.outbox()


@pytest.fixture
async def extractor_url(migrated_database: MigratedDatabase) -> str:
    return await migrated_database("extractor", migrate)


@pytest.fixture
def gateway() -> ScriptedGateway:
    return ScriptedGateway()


@pytest.fixture
def indexer() -> ScriptedIndexer:
    return ScriptedIndexer()


@pytest.fixture
def scheduler() -> ScriptedScheduler:
    return ScriptedScheduler()


@pytest.fixture
async def peers(gateway: ScriptedGateway, indexer: ScriptedIndexer, scheduler: ScriptedScheduler) -> AsyncIterator[str]:
    async with serving(gateway, indexer, scheduler) as address:
        yield address


@pytest.fixture
async def channel(peers: str) -> AsyncIterator[Channel]:
    async with connect(peers) as channel:
        yield channel


@pytest.fixture(scope="session")
async def document_converter() -> AsyncIterator[DocumentConverter]:
    async with DocumentConverter() as running:
        yield running


@pytest.fixture
async def database(extractor_url: str) -> AsyncIterator[Database]:
    database = Database(extractor_url, concurrency=8, application_name="extractor-tests", metrics=Metrics())
    yield database
    await database.close()


@pytest.fixture
def desk(channel: Channel, database: Database, document_converter: DocumentConverter) -> Desk:
    unit_of_work = ExtractorUnitOfWork(database)
    woken: list[Topic] = []
    ask = AskModel(
        GatewayModel(channel, timeout=timedelta(seconds=10)),
        concurrency=16,
        patience=timedelta(seconds=0.2),
        clock=SystemClock(),
        rng=random.Random(1),
    )
    return Desk(
        database=database,
        unit_of_work=unit_of_work,
        projects=ProjectCommands(unit_of_work=unit_of_work, wake=woken.append, new_id=Uuid7()),
        commands=SourceCommands(unit_of_work=unit_of_work, wake=woken.append, new_id=Uuid7(), limits=SourceLimits()),
        queries=SourceQueries(unit_of_work=unit_of_work),
        extract=ExtractSource(
            unit_of_work=unit_of_work,
            converter=document_converter,
            ask=ask,
            publish=PublishVersion(unit_of_work=unit_of_work, wake=woken.append),
            metrics=Metrics(),
        ),
        woken=woken,
    )


@pytest.fixture
def index_watch(channel: Channel, desk: Desk) -> IndexWatch:
    return IndexWatch(
        unit_of_work=desk.unit_of_work,
        index=IndexAuditClient(channel),
        on_loss=lambda: desk.losses.append(None),
        metrics=Metrics(),
    )


@pytest.fixture
def reconciler(channel: Channel, desk: Desk) -> Reconciler:
    return Reconciler(
        unit_of_work=desk.unit_of_work,
        index=IndexAuditClient(channel),
        wake=desk.woken.append,
        new_id=Uuid7(),
        owner="tests",
        metrics=Metrics(),
    )


StartRelay = Callable[..., AbstractAsyncContextManager[FactRelay]]


@pytest.fixture
def start_relay(peers: str, desk: Desk, index_watch: IndexWatch) -> StartRelay:
    """`async with start_relay()`: one relay; several share the outbox."""

    @asynccontextmanager
    async def start(**overrides: Any) -> AsyncIterator[FactRelay]:
        defaults = {"owner": "tests", "poll": timedelta(milliseconds=50), "settle": timedelta()}
        settings = RelaySettings(**defaults | overrides)
        async with AsyncExitStack() as stack:
            channel = await stack.enter_async_context(connect(peers))
            rng = random.Random(2)
            relay = FactRelay(
                unit_of_work=desk.unit_of_work,
                indexer=IndexerClient(channel, client_id="tests", return_vectors=True),
                settle=SettleFacts(unit_of_work=desk.unit_of_work, owner=settings.owner, rng=rng),
                watch=index_watch,
                settings=settings,
                rng=rng,
                metrics=Metrics(),
            )
            async with running(relay.run):
                yield relay

    return start


@pytest.fixture
async def job_relay(channel: Channel, desk: Desk) -> AsyncIterator[IntentRelay]:
    relay = IntentRelay(
        topic=Topic.JOB,
        deliver=JobDelivery(SchedulerClient(channel)),
        is_final=is_final,
        unit_of_work=desk.unit_of_work,
        settings=RelaySettings(owner="tests", poll=timedelta(milliseconds=50)),
        rng=random.Random(3),
    )
    async with running(relay.run):
        yield relay


@pytest.fixture
async def cache_relay(channel: Channel, desk: Desk) -> AsyncIterator[IntentRelay]:
    relay = IntentRelay(
        topic=Topic.CACHE,
        deliver=CacheDelivery(GatewayCache(channel)),
        is_final=lambda _: False,
        unit_of_work=desk.unit_of_work,
        settings=RelaySettings(owner="tests", poll=timedelta(milliseconds=50)),
        rng=random.Random(4),
    )
    async with running(relay.run):
        yield relay


@asynccontextmanager
async def running(loop: Callable[[asyncio.Event], Any]) -> AsyncIterator[None]:
    """A background loop for as long as the block."""
    stop = asyncio.Event()
    task = asyncio.create_task(loop(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)


@pytest.fixture
def statements(database: Database) -> Iterator[list[str]]:
    """What is sent to the database, as it is sent."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        sent.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    yield sent
    event.remove(database.engine.sync_engine, "before_cursor_execute", note)
