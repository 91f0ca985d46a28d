"""A scheduler replica inside the test's own process, served over real gRPC on a free port."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub
from scristill.scheduler.v1.worker_service_pb2_grpc import WorkerServiceStub

from services.scheduler.bootstrap import bootstrap
from services.scheduler.settings import SchedulerSettings
from services.shared.database.migrations import Migrations, upgrade
from services.shared.grpc.server import GrpcServer
from services.shared.lifecycle import Drain, LoopSupervisor
from services.shared.process import build_server
from services.shared.service import Runtime
from services.shared.telemetry.metrics import Metrics


async def migrate(url: str) -> None:
    await upgrade(Migrations(package="services.scheduler.migrations", schema="scheduler", url=url))


@dataclass(slots=True, kw_only=True)
class Replica:
    address: str
    runtime: Runtime
    server: GrpcServer
    loops: LoopSupervisor

    async def drain(self) -> None:
        """What SIGTERM does, up to the end of the server."""
        self.runtime.drain.start()
        await self.server.stop(5)
        await self.loops.stop(patience=5)


@dataclass(slots=True, kw_only=True)
class Client:
    channel: grpc.aio.Channel
    jobs: SchedulerServiceStub
    work: WorkerServiceStub


@asynccontextmanager
async def replica(url: str, **overrides: object) -> AsyncGenerator[Replica]:
    settings = SchedulerSettings(**{"database_url": url, "port": 0, "metrics_port": -1, **overrides})
    runtime = Runtime(name="scheduler", version="0", drain=Drain(), metrics=Metrics(), instance="scheduler-test")
    async with bootstrap(settings, runtime) as service:
        server = build_server(settings, runtime, service)
        loops = LoopSupervisor(service.loops)
        port = await server.start()
        loops.start()
        try:
            yield Replica(address=f"127.0.0.1:{port}", runtime=runtime, server=server, loops=loops)
        finally:
            runtime.drain.start()
            await server.stop(1)
            await loops.stop(patience=5)
            assert not loops.crashed.is_set()


@asynccontextmanager
async def client(address: str) -> AsyncGenerator[Client]:
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        yield Client(channel=channel, jobs=SchedulerServiceStub(channel), work=WorkerServiceStub(channel))
