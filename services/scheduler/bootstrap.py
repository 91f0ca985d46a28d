"""The only place where the scheduler is wired."""

import random
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from scristill.scheduler.v1 import scheduler_service_pb2_grpc, worker_service_pb2_grpc

from services.scheduler.adapters.postgres.dispatch import Dispatch
from services.scheduler.adapters.postgres.session import Session
from services.scheduler.adapters.postgres.stores import Retention, Stores
from services.scheduler.application.dispatcher import Dispatcher
from services.scheduler.application.produce import ProduceJobs
from services.scheduler.application.signals import Signals
from services.scheduler.application.statistics import QueueStatistics
from services.scheduler.application.telemetry import SchedulerMetrics
from services.scheduler.application.upkeep import Firer, ForeignChanges, Housekeeper, Promoter, Steerer, Sweeper
from services.scheduler.application.watch import WatchJobs
from services.scheduler.application.work import WorkOnJobs
from services.scheduler.domain.ready_index import ReadyIndex
from services.scheduler.entrypoints.scheduler_servicer import SchedulerServicer
from services.scheduler.entrypoints.worker_servicer import WorkerServicer
from services.scheduler.settings import SchedulerSettings
from services.shared.checks import Check
from services.shared.database.engine import POOL_WAIT_SECONDS, Database, pool_size
from services.shared.database.health import database_check
from services.shared.database.migrations import Migrations
from services.shared.grpc.server import Registration, register
from services.shared.ids import Uuid7
from services.shared.lifecycle import Loop
from services.shared.service import Runtime, Service, ServiceDefinition

CAPABILITIES = (
    "jobs.children",
    "jobs.fairness",
    "jobs.key_limits",
    "jobs.priorities",
    "jobs.schedules",
    "jobs.watch.resume",
)

_STEERING_INTERVAL = timedelta(seconds=1)
_FIRING_INTERVAL = timedelta(seconds=1)
_HOUSEKEEPING_INTERVAL = timedelta(seconds=60)
_LONGEST_SWEEPER_SLEEP = timedelta(seconds=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Application:
    dispatcher: Dispatcher
    produce: ProduceJobs
    work: WorkOnJobs
    watch: WatchJobs
    statistics: QueueStatistics
    steerer: Steerer
    signals: Signals
    metrics: SchedulerMetrics


@asynccontextmanager
async def bootstrap(settings: SchedulerSettings, runtime: Runtime) -> AsyncGenerator[Service]:
    database = Database(
        settings.database_url.get_secret_value(),
        concurrency=settings.database_concurrency,
        application_name=runtime.instance,
        metrics=runtime.metrics,
    )
    session = Session(
        database,
        concurrency=settings.database_concurrency,
        patience=timedelta(seconds=POOL_WAIT_SECONDS),
        metrics=runtime.metrics,
    )
    try:
        stores = _stores(settings, session)
        await stores.upkeep.prepare_partitions()
        application = _application(settings, runtime, stores)
        async with application.produce, application.work:
            yield Service(
                registrations=_registrations(settings, runtime, stores, application),
                loops=_loops(settings, stores, application),
                capabilities=CAPABILITIES,
            )
    finally:
        await session.close()
        await database.close()


def _application(settings: SchedulerSettings, runtime: Runtime, stores: Stores) -> _Application:
    metrics = SchedulerMetrics(runtime.metrics)
    signals = Signals(count_ended=metrics.count_ended)
    dispatcher = Dispatcher(
        leases=stores.leases,
        ready=stores.ready,
        index=ReadyIndex(),
        policies=settings.policies,
        clock=runtime.clock,
        metrics=metrics,
        drain=runtime.drain,
        accept_timeout=timedelta(seconds=settings.accept_timeout_seconds),
        stream_grace=timedelta(seconds=settings.stream_grace_seconds),
    )
    return _Application(
        dispatcher=dispatcher,
        produce=ProduceJobs(
            creation=stores.creation,
            control=stores.control,
            reading=stores.reading,
            dispatcher=dispatcher,
            signals=signals,
        ),
        work=WorkOnJobs(leases=stores.leases, dispatcher=dispatcher, signals=signals, rng=random.SystemRandom()),
        watch=WatchJobs(log=stores.log, reading=stores.reading, changed=signals.changed, metrics=metrics),
        statistics=QueueStatistics(
            statistics=stores.statistics,
            metrics=metrics,
            clock=runtime.clock,
            interval=timedelta(seconds=settings.statistics_seconds),
        ),
        steerer=Steerer(
            controls=stores.controls,
            dispatcher=dispatcher,
            interval=_STEERING_INTERVAL,
            rescan_interval=timedelta(seconds=settings.rescan_seconds),
        ),
        signals=signals,
        metrics=metrics,
    )


def _registrations(
    settings: SchedulerSettings, runtime: Runtime, stores: Stores, application: _Application
) -> list[Registration]:
    scheduler = SchedulerServicer(
        produce=application.produce,
        watch=application.watch,
        statistics=application.statistics,
        controls=stores.controls,
        schedules=stores.schedules,
        steerer=application.steerer,
        dispatcher=application.dispatcher,
        drain=runtime.drain,
        new_ids=Uuid7().texts,
    )
    worker = WorkerServicer(
        dispatcher=application.dispatcher,
        work=application.work,
        signals=application.signals,
        policies=settings.policies,
        clock=runtime.clock,
        drain=runtime.drain,
        accept_timeout=timedelta(seconds=settings.accept_timeout_seconds),
        new_ids=Uuid7().texts,
    )
    return [
        register(scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server, scheduler),
        register(worker_service_pb2_grpc.add_WorkerServiceServicer_to_server, worker),
    ]


def _stores(settings: SchedulerSettings, session: Session) -> Stores:
    return Stores.on(
        session,
        Dispatch(
            replica_id=uuid.uuid4(), policies=settings.policies, ageing=timedelta(seconds=settings.ageing_seconds)
        ),
        retention=Retention(
            span=timedelta(seconds=settings.partition_seconds),
            ended=timedelta(seconds=settings.retention_seconds),
            changes=timedelta(seconds=settings.change_retention_seconds),
        ),
    )


def _loops(settings: SchedulerSettings, stores: Stores, application: _Application) -> list[Loop]:
    dispatcher, signals = application.dispatcher, application.signals
    # No lease that is given or renewed after a sweep can end before the next one.
    shortest_lease = min(
        settings.policies.shortest_lease, timedelta(seconds=settings.accept_timeout_seconds), _LONGEST_SWEEPER_SLEEP
    )
    sweeper = Sweeper(
        leases=stores.leases,
        dispatcher=dispatcher,
        signals=signals,
        metrics=application.metrics,
        longest_sleep=shortest_lease,
    )
    foreign = ForeignChanges(
        log=stores.log,
        leases=stores.leases,
        ready=stores.ready,
        dispatcher=dispatcher,
        interval=timedelta(seconds=settings.foreign_poll_seconds),
    )
    promoter = Promoter(ready=stores.ready, dispatcher=dispatcher, signals=signals)
    firer = Firer(schedules=stores.schedules, dispatcher=dispatcher, signals=signals, interval=_FIRING_INTERVAL)
    housekeeper = Housekeeper(upkeep=stores.upkeep, interval=_HOUSEKEEPING_INTERVAL)
    return [
        Loop(name="dispatcher", run=dispatcher.run),
        Loop(name="watch", run=application.watch.run),
        Loop(name="steering", run=application.steerer.run),
        Loop(name="statistics", run=application.statistics.run),
        Loop(name="sweeper", run=sweeper.run),
        Loop(name="promoter", run=promoter.run),
        Loop(name="foreign-changes", run=foreign.run),
        Loop(name="schedules", run=firer.run),
        Loop(name="housekeeper", run=housekeeper.run),
    ]


def _migrations(settings: SchedulerSettings) -> Migrations:
    return Migrations(
        package="services.scheduler.migrations", schema="scheduler", url=settings.database_url.get_secret_value()
    )


def _checks(settings: SchedulerSettings) -> Sequence[Check]:
    connections = settings.workers * pool_size(settings.database_concurrency)
    return [database_check(settings.database_url.get_secret_value(), connections=connections)]


DEFINITION = ServiceDefinition(
    name="scheduler", settings=SchedulerSettings, bootstrap=bootstrap, migrations=_migrations, checks=_checks
)
