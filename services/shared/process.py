"""One serving process from start to end.

The end has an order, and each step relies on the one before:

1. health says NOT_SERVING, and load balancers get `drain_delay_seconds` to notice;
2. the drain signal is set: streams send their last frame and end, pollers return;
3. the server refuses new calls and gives running ones `drain_seconds`;
4. background loops are told to stop and get `hard_stop_seconds`;
5. what the bootstrap opened is closed in reverse, then spans are flushed.

A second signal skips the waiting in 1, 3 and 4. A crashed loop starts the same order
and makes the exit status 1.
"""

import asyncio
import gc
import os
import signal
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import structlog
from prometheus_client import ProcessCollector

from services.shared.grpc.errors import peer_outage
from services.shared.grpc.info import ServerInfo
from services.shared.grpc.interceptors.chain import build_chain
from services.shared.grpc.interceptors.errors import first_known
from services.shared.grpc.server import GrpcServer, ServerOptions
from services.shared.lifecycle import Drain, Loop, LoopSupervisor
from services.shared.service import (
    WORKER_INDEX,
    Runtime,
    Service,
    ServiceDefinition,
    SettingsT,
    instance_name,
    suite_version,
)
from services.shared.settings import ServiceSettings
from services.shared.telemetry import exposition, tracing
from services.shared.telemetry.loop_lag import LoopLagReporter
from services.shared.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

_CLOSE_SECONDS = 10.0
_GARBAGE_THRESHOLD = 20_000


class StopSignals:
    """`stop` at the first SIGTERM or SIGINT, `hard` at the second. A worker also stops when its supervisor is gone."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hard = asyncio.Event()
        self._starting: asyncio.Task[Any] | None = None

    def install(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.received)
        if WORKER_INDEX in os.environ:
            # The supervisor holds the other end of standard input and never writes.
            loop.add_reader(0, self._supervisor_gone)

    def received(self) -> None:
        (self.hard if self.stop.is_set() else self.stop).set()
        if self._starting is not None:
            self._starting.cancel()

    @contextmanager
    def starting(self) -> Generator[None]:
        """While a service starts, a signal cancels it: there is nothing to drain yet."""
        self._starting = asyncio.current_task()
        try:
            yield
        finally:
            self._starting = None

    def _supervisor_gone(self) -> None:
        asyncio.get_running_loop().remove_reader(0)
        self.stop.set()


async def serve(definition: ServiceDefinition[SettingsT], settings: SettingsT) -> int:
    """Serves until told to stop. Returns the exit status."""
    signals = StopSignals()
    signals.install()
    stack = AsyncExitStack()
    try:
        return await _serve(definition, settings, signals=signals, stack=stack)
    except asyncio.CancelledError:
        if not signals.stop.is_set():
            raise
        logger.info("stopped_while_starting")
        return 0
    finally:
        await _close(stack)


async def _serve(
    definition: ServiceDefinition[SettingsT], settings: SettingsT, *, signals: StopSignals, stack: AsyncExitStack
) -> int:
    runtime = Runtime(
        name=definition.name,
        version=suite_version(),
        drain=Drain(),
        metrics=Metrics(),
        instance=instance_name(definition.name),
    )
    _describe_process(runtime)
    provider = tracing.configure(service=runtime.name, version=runtime.version, instance=runtime.instance)
    stack.push_async_callback(asyncio.to_thread, provider.shutdown)
    with signals.starting():
        service = await stack.enter_async_context(definition.bootstrap(settings, runtime))
    server = build_server(settings, runtime, service)
    loops = LoopSupervisor([Loop(name="loop-lag", run=LoopLagReporter(runtime.metrics).run), *service.loops])
    metrics_port = await stack.enter_async_context(
        exposition.serve(
            runtime.metrics,
            host=settings.host,
            port=-1 if WORKER_INDEX in os.environ else settings.metrics_port,
            serving=lambda: not signals.stop.is_set(),
        )
    )
    # What is loaded by now lives as long as the process; no collection need walk through it again.
    gc.collect()
    gc.freeze()
    # What a call leaves behind is nearly always freed by its count; looking for cycles every few calls is waste.
    gc.set_threshold(_GARBAGE_THRESHOLD, *gc.get_threshold()[1:])
    port = await server.start()
    loops.start()
    logger.info(
        "serving",
        host=settings.host,
        port=port,
        metrics_port=metrics_port,
        pid=os.getpid(),
        services=server.services,
    )
    await _first(signals.stop, loops.crashed)
    logger.info("stopping", reason="loop crashed" if loops.crashed.is_set() else "signal")
    await shut_down(settings, runtime, server, loops, hard=signals.hard)
    return int(loops.crashed.is_set())


def _describe_process(runtime: Runtime) -> None:
    ProcessCollector(registry=runtime.metrics.registry)
    build = runtime.metrics.gauge(
        "scristill_build_info", "1, labelled with what runs here.", labels=("service", "version"), mode="livemax"
    )
    build.labels(runtime.name, runtime.version).set(1)


def build_server(settings: ServiceSettings, runtime: Runtime, service: Service) -> GrpcServer:
    return GrpcServer(
        options=ServerOptions(
            host=settings.host,
            port=settings.port,
            share_port=settings.workers > 1,
            reflection=settings.reflection,
            max_connection_age_seconds=settings.max_connection_age_seconds,
        ),
        chain=build_chain(
            metrics=runtime.metrics,
            classify=first_known(peer_outage, *service.outages),
            default_deadline_seconds=settings.default_deadline_seconds,
            max_concurrent_rpcs=settings.max_concurrent_rpcs,
            extra=service.interceptors,
        ),
        info=ServerInfo(service=runtime.name, version=runtime.version, capabilities=service.capabilities),
        registrations=service.registrations,
    )


async def shut_down(
    settings: ServiceSettings, runtime: Runtime, server: GrpcServer, loops: LoopSupervisor, *, hard: asyncio.Event
) -> None:
    """Steps 1 to 4; at once when `hard` is set."""
    graceful = asyncio.create_task(_drain(settings, runtime, server, loops), name="drain")
    hurry = asyncio.create_task(hard.wait(), name="hard-stop")
    await asyncio.wait({graceful, hurry}, return_when=asyncio.FIRST_COMPLETED)
    hurry.cancel()
    if not graceful.done():
        logger.warning("hard_stop")
        graceful.cancel()
        await asyncio.wait({graceful})
        runtime.drain.start()
        await server.stop(0)
        await loops.stop(patience=0)
    elif graceful.exception() is not None:
        logger.error("drain_failed", exc_info=graceful.exception())


async def _drain(settings: ServiceSettings, runtime: Runtime, server: GrpcServer, loops: LoopSupervisor) -> None:
    server.shut_down()
    await asyncio.sleep(settings.drain_delay_seconds)
    runtime.drain.start()
    await server.stop(settings.drain_seconds)
    await loops.stop(patience=settings.hard_stop_seconds)


async def _first(*events: asyncio.Event) -> None:
    tasks = {asyncio.create_task(event.wait()) for event in events}
    _, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()


async def _close(stack: AsyncExitStack) -> None:
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await stack.aclose()
    except TimeoutError:
        logger.exception("close_timed_out", seconds=_CLOSE_SECONDS)
    logger.info("stopped")
