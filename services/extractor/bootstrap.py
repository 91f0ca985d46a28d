"""The only wiring of the extractor: what is opened here is closed in reverse order."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

import grpc.aio
from scristill.extractor.v1 import (
    consistency_service_pb2_grpc,
    extraction_service_pb2_grpc,
    project_service_pb2_grpc,
    source_service_pb2_grpc,
)

from services.extractor.adapters.clients.indexer import IndexerClient
from services.extractor.adapters.clients.llm_gateway import GatewayModel
from services.extractor.adapters.clients.scheduler import EXTRACT, SchedulerClient
from services.extractor.adapters.conversion.converter import DocumentConverter
from services.extractor.adapters.postgres.unit_of_work import ExtractorUnitOfWork
from services.extractor.application.ask import AskModel
from services.extractor.application.extract import ExtractSource
from services.extractor.application.extractions import ExtractionQueries, OutboxControl
from services.extractor.application.fact_relay import FactRelay, RelaySettings
from services.extractor.application.job_relay import JobRelay
from services.extractor.application.ports import Converter, UnitOfWork, Wake
from services.extractor.application.projects import ProjectCommands, ProjectQueries
from services.extractor.application.publish import PublishVersion
from services.extractor.application.settle import SettleFacts
from services.extractor.application.sources import SourceCommands, SourceLimits, SourceQueries
from services.extractor.application.stranded import StrandedVersions
from services.extractor.domain.outbox import Topic
from services.extractor.entrypoints.backlog import BacklogMonitor
from services.extractor.entrypoints.consistency_servicer import ConsistencyServicer
from services.extractor.entrypoints.extract_jobs import ExtractJobs
from services.extractor.entrypoints.extraction_servicer import ExtractionServicer
from services.extractor.entrypoints.project_servicer import ProjectServicer
from services.extractor.entrypoints.source_servicer import SourceServicer
from services.extractor.settings import ExtractorSettings
from services.shared.checks import Check
from services.shared.database.engine import Database, pool_size
from services.shared.database.failures import postgres_outage
from services.shared.database.health import database_check
from services.shared.database.migrations import Migrations
from services.shared.grpc.channel import connect
from services.shared.grpc.server import Registration, register
from services.shared.ids import Uuid7
from services.shared.lifecycle import Drain, Loop
from services.shared.service import Runtime, Service, ServiceDefinition
from services.shared.worker import Worker

CAPABILITIES = ("extractions.stream", "sources.upload", "sources.versions")

_RESTART = timedelta(seconds=1)


@asynccontextmanager
async def bootstrap(settings: ExtractorSettings, runtime: Runtime) -> AsyncGenerator[Service]:
    async with AsyncExitStack() as stack:
        database = Database(
            settings.database_url.get_secret_value(),
            concurrency=settings.database_concurrency,
            application_name=runtime.name,
            metrics=runtime.metrics,
        )
        stack.push_async_callback(database.close)
        unit_of_work = ExtractorUnitOfWork(database)
        converter = await stack.enter_async_context(
            DocumentConverter(
                processes=settings.conversion_processes,
                timeout=timedelta(seconds=settings.conversion_timeout_seconds),
            )
        )
        scheduler, gateway, indexer = [
            await stack.enter_async_context(connect(address, metrics=runtime.metrics))
            for address in (settings.scheduler_address, settings.llm_gateway_address, settings.indexer_address)
        ]
        rng = random.SystemRandom()
        jobs = _job_relay(settings, runtime, unit_of_work, scheduler, rng)
        facts = _fact_relay(settings, runtime, unit_of_work, indexer, rng)
        wakers = {Topic.JOB: jobs.wake, Topic.FACT: facts.wake}

        def wake(topic: Topic) -> None:
            wakers[topic]()

        extract = _extract(settings, runtime, unit_of_work, converter=converter, gateway=gateway, wake=wake)
        worker = Worker(
            scheduler,
            handlers={EXTRACT: ExtractJobs(extract, rng=rng)},
            concurrency=settings.job_concurrency,
            worker_id=runtime.instance,
            rng=rng,
        )
        backlog = BacklogMonitor(
            unit_of_work=unit_of_work,
            orphan_after=timedelta(seconds=settings.orphan_after_seconds),
            clock=runtime.clock,
            metrics=runtime.metrics,
        )
        stranded = StrandedVersions(
            unit_of_work=unit_of_work,
            jobs=SchedulerClient(scheduler),
            wake=wake,
            new_id=Uuid7(),
            older_than=timedelta(seconds=settings.stranded_after_seconds),
        )
        yield Service(
            registrations=_registrations(settings, runtime, unit_of_work, wake),
            loops=[
                Loop(name="job-relay", run=jobs.run, restart_after=_RESTART),
                Loop(name="fact-relay", run=facts.run, restart_after=_RESTART),
                Loop(name="worker", run=_until_drained(worker, runtime.drain), restart_after=_RESTART),
                Loop(name="stranded", run=stranded.run, restart_after=_RESTART),
                Loop(name="backlog", run=backlog.run, restart_after=_RESTART),
            ],
            capabilities=CAPABILITIES,
            outages=[postgres_outage],
        )


def _job_relay(
    settings: ExtractorSettings,
    runtime: Runtime,
    unit_of_work: UnitOfWork,
    scheduler: grpc.aio.Channel,
    rng: random.Random,
) -> JobRelay:
    return JobRelay(
        unit_of_work=unit_of_work,
        scheduler=SchedulerClient(scheduler),
        settings=_relay_settings(settings, runtime),
        rng=rng,
    )


def _fact_relay(
    settings: ExtractorSettings,
    runtime: Runtime,
    unit_of_work: UnitOfWork,
    indexer: grpc.aio.Channel,
    rng: random.Random,
) -> FactRelay:
    return FactRelay(
        unit_of_work=unit_of_work,
        indexer=IndexerClient(indexer, client_id=runtime.instance),
        settle=SettleFacts(unit_of_work=unit_of_work, rng=rng),
        settings=_relay_settings(settings, runtime),
        rng=rng,
        metrics=runtime.metrics,
    )


def _relay_settings(settings: ExtractorSettings, runtime: Runtime) -> RelaySettings:
    return RelaySettings(
        owner=runtime.instance,
        batch_size=settings.relay_batch_size,
        max_in_flight=settings.relay_max_in_flight,
        lease=timedelta(seconds=settings.relay_lease_seconds),
        poll=timedelta(seconds=settings.relay_poll_seconds),
    )


def _extract(
    settings: ExtractorSettings,
    runtime: Runtime,
    unit_of_work: UnitOfWork,
    *,
    converter: Converter,
    gateway: grpc.aio.Channel,
    wake: Wake,
) -> ExtractSource:
    model = GatewayModel(gateway, timeout=timedelta(seconds=settings.model_timeout_seconds))
    return ExtractSource(
        unit_of_work=unit_of_work,
        converter=converter,
        ask=AskModel(
            model,
            concurrency=settings.chunk_concurrency,
            patience=timedelta(seconds=settings.model_patience_seconds),
            clock=runtime.clock,
            rng=random.SystemRandom(),
        ),
        publish=PublishVersion(unit_of_work=unit_of_work, wake=wake),
        metrics=runtime.metrics,
        max_chunk_attempts=settings.chunk_attempts,
    )


def _registrations(
    settings: ExtractorSettings, runtime: Runtime, unit_of_work: UnitOfWork, wake: Wake
) -> Sequence[Registration]:
    new_id = Uuid7()
    sources = SourceQueries(unit_of_work=unit_of_work)
    projects = ProjectServicer(
        commands=ProjectCommands(unit_of_work=unit_of_work, wake=wake, new_id=new_id),
        queries=ProjectQueries(unit_of_work=unit_of_work),
    )
    documents = SourceServicer(
        commands=SourceCommands(
            unit_of_work=unit_of_work,
            wake=wake,
            new_id=new_id,
            limits=SourceLimits(call=settings.max_call_bytes, source=settings.max_source_bytes),
        ),
        queries=sources,
        max_upload_bytes=settings.max_source_bytes,
        upload_concurrency=settings.upload_concurrency,
    )
    extractions = ExtractionServicer(
        extractions=ExtractionQueries(unit_of_work=unit_of_work), sources=sources, drain=runtime.drain
    )
    consistency = ConsistencyServicer(outbox=OutboxControl(unit_of_work=unit_of_work, wake=wake), clock=runtime.clock)
    return [
        register(project_service_pb2_grpc.add_ProjectServiceServicer_to_server, projects),
        register(source_service_pb2_grpc.add_SourceServiceServicer_to_server, documents),
        register(extraction_service_pb2_grpc.add_ExtractionServiceServicer_to_server, extractions),
        register(consistency_service_pb2_grpc.add_ConsistencyServiceServicer_to_server, consistency),
    ]


def _until_drained(worker: Worker, drain: Drain) -> Callable[[asyncio.Event], Awaitable[None]]:
    """The worker ends with the drain, before the loops are told to stop."""

    async def run(stop: asyncio.Event) -> None:
        await worker.run(drain)
        await stop.wait()

    return run


def migrations(settings: ExtractorSettings) -> Migrations:
    return Migrations(
        package="services.extractor.migrations", schema="extractor", url=settings.database_url.get_secret_value()
    )


def checks(settings: ExtractorSettings) -> Sequence[Check]:
    needed = settings.workers * pool_size(settings.database_concurrency)
    return [database_check(settings.database_url.get_secret_value(), connections=needed)]


DEFINITION = ServiceDefinition(
    name="extractor", settings=ExtractorSettings, bootstrap=bootstrap, migrations=migrations, checks=checks
)
