"""The only wiring of the extractor: what is opened here is closed in reverse order."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

import grpc.aio
from scristill.extractor.v1 import (
    consistency_service_pb2_grpc,
    extraction_service_pb2_grpc,
    project_service_pb2_grpc,
    source_service_pb2_grpc,
)

from services.extractor.adapters.clients.index_audit import IndexAuditClient
from services.extractor.adapters.clients.indexer import IndexerClient
from services.extractor.adapters.clients.llm_gateway import GatewayCache, GatewayModel
from services.extractor.adapters.clients.scheduler import EXTRACT, SchedulerClient
from services.extractor.adapters.conversion.converter import DocumentConverter
from services.extractor.adapters.postgres.unit_of_work import ExtractorUnitOfWork
from services.extractor.application.ask import AskModel
from services.extractor.application.certify import CertifyDeletion
from services.extractor.application.deliveries import CacheDelivery, JobDelivery
from services.extractor.application.extract import ExtractSource
from services.extractor.application.extractions import ExtractionQueries, OutboxControl
from services.extractor.application.fact_relay import FactRelay, RelaySettings
from services.extractor.application.follow import FollowRun
from services.extractor.application.index_watch import IndexWatch
from services.extractor.application.intent_relay import IntentRelay
from services.extractor.application.ports import Converter, UnitOfWork, Wake
from services.extractor.application.projects import ProjectCommands, ProjectQueries
from services.extractor.application.publish import PublishVersion
from services.extractor.application.reconcile import Reconciler
from services.extractor.application.settle import SettleFacts
from services.extractor.application.sources import SourceCommands, SourceLimits, SourceQueries
from services.extractor.application.stranded import StrandedVersions
from services.extractor.domain.outbox import Topic
from services.extractor.domain.peers import is_final
from services.extractor.entrypoints.backlog import BacklogMonitor
from services.extractor.entrypoints.consistency_servicer import ConsistencyServicer
from services.extractor.entrypoints.extract_jobs import ExtractJobs
from services.extractor.entrypoints.extraction_servicer import ExtractionServicer
from services.extractor.entrypoints.project_servicer import ProjectServicer
from services.extractor.entrypoints.reconciliation_loop import ReconciliationLoop
from services.extractor.entrypoints.source_servicer import SourceServicer
from services.extractor.settings import ExtractorSettings
from services.shared.checks import Check
from services.shared.database.engine import Database, pool_size
from services.shared.database.failures import postgres_outage
from services.shared.database.health import database_check
from services.shared.database.migrations import Migrations
from services.shared.grpc.channel import connect
from services.shared.grpc.checks import peer_check
from services.shared.grpc.server import Registration, register
from services.shared.ids import Uuid7
from services.shared.lifecycle import Drain, Loop
from services.shared.service import Runtime, Service, ServiceDefinition
from services.shared.worker import Worker

CAPABILITIES = (
    "consistency.reconcile",
    "extractions.stream",
    "sources.delete.certify",
    "sources.upload",
    "sources.versions",
)

_RESTART = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What most components are built from."""

    settings: ExtractorSettings
    runtime: Runtime
    unit_of_work: UnitOfWork
    converter: Converter
    scheduler: grpc.aio.Channel
    gateway: grpc.aio.Channel
    indexer: grpc.aio.Channel
    new_id: Callable[[], UUID] = field(default_factory=Uuid7)
    rng: random.Random = field(default_factory=random.SystemRandom)


@asynccontextmanager
async def bootstrap(settings: ExtractorSettings, runtime: Runtime) -> AsyncGenerator[Service]:
    async with AsyncExitStack() as stack:
        parts = await _open(stack, settings, runtime)
        wakers: dict[Topic, Callable[[], None]] = {}

        def wake(topic: Topic) -> None:
            wakers[topic]()

        def lost() -> None:
            reconciliation.look_now()

        index = IndexAuditClient(parts.indexer)
        watch = IndexWatch(
            unit_of_work=parts.unit_of_work,
            index=index,
            on_loss=lost,
            metrics=runtime.metrics,
        )
        reconciliation = _reconciliation(parts, index, watch, wake)
        jobs, results, facts = _job_relay(parts), _cache_relay(parts), _fact_relay(parts, watch)
        wakers |= {Topic.JOB: jobs.wake, Topic.CACHE: results.wake, Topic.FACT: facts.wake}
        loops: dict[str, Callable[[asyncio.Event], Awaitable[None]]] = {
            "job-relay": jobs.run,
            "cache-relay": results.run,
            "fact-relay": facts.run,
            "worker": _until_drained(_worker(parts, wake), runtime.drain),
            "stranded": _stranded(parts, wake).run,
            "reconciliation": reconciliation.run,
            "backlog": _backlog(parts).run,
        }
        yield Service(
            registrations=_registrations(parts, index=index, reconciliation=reconciliation, wake=wake),
            loops=[Loop(name=name, run=run, restart_after=_RESTART) for name, run in loops.items()],
            capabilities=CAPABILITIES,
            outages=[postgres_outage],
        )


async def _open(stack: AsyncExitStack, settings: ExtractorSettings, runtime: Runtime) -> _Parts:
    database = Database(
        settings.database_url.get_secret_value(),
        concurrency=settings.database_concurrency,
        application_name=runtime.name,
        metrics=runtime.metrics,
    )
    stack.push_async_callback(database.close)
    converter = await stack.enter_async_context(
        DocumentConverter(
            processes=settings.conversion_processes, timeout=timedelta(seconds=settings.conversion_timeout_seconds)
        )
    )
    scheduler, gateway, indexer = [
        await stack.enter_async_context(connect(address, metrics=runtime.metrics))
        for address in (settings.scheduler_address, settings.llm_gateway_address, settings.indexer_address)
    ]
    return _Parts(
        settings=settings,
        runtime=runtime,
        unit_of_work=ExtractorUnitOfWork(database),
        converter=converter,
        scheduler=scheduler,
        gateway=gateway,
        indexer=indexer,
    )


def _job_relay(parts: _Parts) -> IntentRelay:
    return IntentRelay(
        topic=Topic.JOB,
        deliver=JobDelivery(SchedulerClient(parts.scheduler)),
        is_final=is_final,
        unit_of_work=parts.unit_of_work,
        settings=_relay_settings(parts),
        rng=parts.rng,
    )


def _cache_relay(parts: _Parts) -> IntentRelay:
    return IntentRelay(
        topic=Topic.CACHE,
        deliver=CacheDelivery(GatewayCache(parts.gateway)),
        # A deletion is never given up, whatever the gateway says of it.
        is_final=lambda _: False,
        unit_of_work=parts.unit_of_work,
        settings=_relay_settings(parts),
        rng=parts.rng,
    )


def _fact_relay(parts: _Parts, watch: IndexWatch) -> FactRelay:
    return FactRelay(
        unit_of_work=parts.unit_of_work,
        indexer=IndexerClient(
            parts.indexer, client_id=parts.runtime.instance, return_vectors=parts.settings.keep_vectors
        ),
        settle=SettleFacts(unit_of_work=parts.unit_of_work, owner=parts.runtime.instance, rng=parts.rng),
        watch=watch,
        settings=_relay_settings(parts),
        rng=parts.rng,
        metrics=parts.runtime.metrics,
    )


def _relay_settings(parts: _Parts) -> RelaySettings:
    settings = parts.settings
    return RelaySettings(
        owner=parts.runtime.instance,
        batch_size=settings.relay_batch_size,
        max_in_flight=settings.relay_max_in_flight,
        lease=timedelta(seconds=settings.relay_lease_seconds),
        poll=timedelta(seconds=settings.relay_poll_seconds),
        send_vectors=settings.keep_vectors,
        settle=timedelta(seconds=settings.reconcile_settle_seconds),
    )


def _worker(parts: _Parts, wake: Wake) -> Worker:
    settings, runtime = parts.settings, parts.runtime
    extract = ExtractSource(
        unit_of_work=parts.unit_of_work,
        converter=parts.converter,
        ask=AskModel(
            GatewayModel(parts.gateway, timeout=timedelta(seconds=settings.model_timeout_seconds)),
            concurrency=settings.chunk_concurrency,
            patience=timedelta(seconds=settings.model_patience_seconds),
            clock=runtime.clock,
            rng=parts.rng,
        ),
        publish=PublishVersion(unit_of_work=parts.unit_of_work, wake=wake),
        metrics=runtime.metrics,
        max_chunk_attempts=settings.chunk_attempts,
    )
    return Worker(
        parts.scheduler,
        handlers={EXTRACT: ExtractJobs(extract, jobs=SchedulerClient(parts.scheduler), rng=parts.rng)},
        concurrency=settings.job_concurrency,
        rng=parts.rng,
    )


def _stranded(parts: _Parts, wake: Wake) -> StrandedVersions:
    return StrandedVersions(
        unit_of_work=parts.unit_of_work,
        jobs=SchedulerClient(parts.scheduler),
        wake=wake,
        new_id=parts.new_id,
        rng=parts.rng,
        older_than=timedelta(seconds=parts.settings.stranded_after_seconds),
    )


def _backlog(parts: _Parts) -> BacklogMonitor:
    return BacklogMonitor(
        unit_of_work=parts.unit_of_work,
        orphan_after=timedelta(seconds=parts.settings.orphan_after_seconds),
        clock=parts.runtime.clock,
        metrics=parts.runtime.metrics,
    )


def _reconciliation(parts: _Parts, index: IndexAuditClient, watch: IndexWatch, wake: Wake) -> ReconciliationLoop:
    settings = parts.settings
    return ReconciliationLoop(
        reconciler=Reconciler(
            unit_of_work=parts.unit_of_work,
            index=index,
            wake=wake,
            new_id=parts.new_id,
            owner=parts.runtime.instance,
            metrics=parts.runtime.metrics,
        ),
        unit_of_work=parts.unit_of_work,
        watch=watch,
        wake=wake,
        period=timedelta(seconds=settings.reconcile_period_seconds),
        settle=timedelta(seconds=settings.reconcile_settle_seconds),
        orphan_after=timedelta(seconds=settings.orphan_after_seconds),
        pace=settings.reconcile_points_per_second,
        look=timedelta(seconds=settings.reconcile_look_seconds),
    )


def _registrations(
    parts: _Parts, *, index: IndexAuditClient, reconciliation: ReconciliationLoop, wake: Wake
) -> Sequence[Registration]:
    settings, runtime, unit_of_work = parts.settings, parts.runtime, parts.unit_of_work
    sources = SourceQueries(unit_of_work=unit_of_work)
    projects = ProjectServicer(
        commands=ProjectCommands(unit_of_work=unit_of_work, wake=wake, new_id=parts.new_id),
        queries=ProjectQueries(unit_of_work=unit_of_work),
    )
    documents = SourceServicer(
        commands=SourceCommands(
            unit_of_work=unit_of_work,
            wake=wake,
            new_id=parts.new_id,
            limits=SourceLimits(call=settings.max_call_bytes, source=settings.max_source_bytes),
        ),
        queries=sources,
        certify=CertifyDeletion(unit_of_work=unit_of_work, cache=GatewayCache(parts.gateway), index=index, wake=wake),
        max_upload_bytes=settings.max_source_bytes,
        upload_concurrency=settings.upload_concurrency,
    )
    extractions = ExtractionServicer(
        extractions=ExtractionQueries(unit_of_work=unit_of_work), sources=sources, drain=runtime.drain
    )
    consistency = ConsistencyServicer(
        outbox=OutboxControl(unit_of_work=unit_of_work, wake=wake),
        reconciliation=reconciliation,
        follow=FollowRun(unit_of_work=unit_of_work, drain=runtime.drain),
        clock=runtime.clock,
    )
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
    return [
        database_check(settings.database_url.get_secret_value(), connections=needed),
        peer_check("scheduler", settings.scheduler_address),
        peer_check("llm_gateway", settings.llm_gateway_address),
        peer_check("indexer", settings.indexer_address),
    ]


DEFINITION = ServiceDefinition(
    name="extractor", settings=ExtractorSettings, bootstrap=bootstrap, migrations=migrations, checks=checks
)
