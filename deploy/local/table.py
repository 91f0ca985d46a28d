"""The processes of the local stack, in the order of their start."""

import sys
from importlib import util

from deploy.local import postgres, probes, valkey
from deploy.local.environment import PORTS, Layout
from deploy.local.errors import StackError
from deploy.local.process import Kind, Launch, Process

SERVICES = {
    "llm_gateway": ("valkey",),
    "scheduler": ("scheduler-migrate",),
    "indexer": ("qdrant",),
    "extractor": ("extractor-migrate",),
}
"""And what each needs to start. They find each other when they call, so their own order is free."""

MIGRATED = ("scheduler", "extractor")


def process_table(layout: Layout) -> list[Process]:
    return [*engines(layout), *services(layout)]


def engines(layout: Layout) -> list[Process]:
    table = [_postgres(layout), _valkey(layout), _qdrant(layout), _traces(layout)]
    return [process for process in table if layout.runs_engine(process.name)]


def services(layout: Layout) -> list[Process]:
    running = {process.name for process in engines(layout)}
    needs = tuple(name for name in ("postgres",) if name in running)
    steps = [_migration(layout, name, needs) for name in MIGRATED]
    return [*steps, *(_service(layout, name, running) for name in SERVICES)]


def _postgres(layout: Layout) -> Process:
    cluster = layout.postgres

    def launch() -> Launch:
        cluster.prepare()
        return Launch(command=cluster.command(), options=cluster.account.options)

    return Process(
        name="postgres",
        kind=Kind.ENGINE,
        launch=launch,
        environment=layout.engine_environment(),
        ports=_ports(layout, "postgres"),
        address=layout.address("postgres"),
        probe=probes.postgres(cluster.url()),
        stop_signal=postgres.STOP_SIGNAL,
    )


def _valkey(layout: Layout) -> Process:
    server = layout.valkey

    def launch() -> Launch:
        server.prepare()
        return Launch(command=server.command())

    return Process(
        name="valkey",
        kind=Kind.ENGINE,
        launch=launch,
        environment=layout.engine_environment(),
        ports=_ports(layout, "valkey"),
        address=layout.address("valkey"),
        probe=probes.valkey(port=server.port, password=server.password),
        stop_signal=valkey.STOP_SIGNAL,
    )


def _qdrant(layout: Layout) -> Process:
    def launch() -> Launch:
        if util.find_spec("qdrant_edge") is None:
            raise StackError(
                "Qdrant's engine is not installed (package qdrant-edge-py): run `make setup`, or set "
                "INDEXER_QDRANT_URL to a server of yours"
            )
        return _module("deploy.local.qdrant", "--storage", str(layout.home.qdrant), *_listen(layout, "qdrant"))

    return Process(
        name="qdrant",
        kind=Kind.ENGINE,
        launch=launch,
        environment=layout.engine_environment(),
        ports=_ports(layout, "qdrant"),
        address=layout.address("qdrant"),
        probe=probes.grpc_health(layout.address("qdrant")),
    )


def _traces(layout: Layout) -> Process:
    arguments = ("--directory", str(layout.home.traces), *_listen(layout, "traces"))
    return Process(
        name="traces",
        kind=Kind.ENGINE,
        launch=lambda: _module("deploy.local.traces", *arguments),
        environment=layout.engine_environment(),
        ports=_ports(layout, "traces"),
        address=layout.address("traces"),
        probe=probes.grpc_health(layout.address("traces")),
    )


def _migration(layout: Layout, service: str, needs: tuple[str, ...]) -> Process:
    return Process(
        name=f"{service}-migrate",
        kind=Kind.STEP,
        launch=lambda: _module(f"services.{service}", "migrate"),
        environment=layout.service_environment(service),
        needs=needs,
    )


def _service(layout: Layout, name: str, engines_here: set[str]) -> Process:
    return Process(
        name=name,
        kind=Kind.SERVICE,
        launch=lambda: _module(f"services.{name}"),
        environment=layout.service_environment(name),
        needs=tuple(need for need in SERVICES[name] if need in engines_here or need.endswith("-migrate")),
        ports=_ports(layout, name, f"{name}_metrics"),
        address=layout.address(name),
        probe=probes.grpc_health(layout.address(name)),
        ready_within=120.0,
        stop_within=60.0,
    )


def _module(name: str, *arguments: str) -> Launch:
    return Launch(command=[sys.executable, "-m", name, *arguments])


def _listen(layout: Layout, name: str) -> tuple[str, ...]:
    return "--host", "127.0.0.1", "--port", str(layout.ports[name])


def _ports(layout: Layout, *names: str) -> dict[str, int]:
    return {PORTS[name].variable: layout.ports[name] for name in names}
