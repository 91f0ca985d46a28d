"""What a service hands to the runtime: its definition, and what its bootstrap has wired."""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from importlib import metadata
from typing import Generic, TypeVar

from services.shared.checks import Check
from services.shared.clock import Clock, SystemClock
from services.shared.grpc.interceptors.base import Interceptor
from services.shared.grpc.interceptors.errors import Classifier
from services.shared.grpc.server import Registration
from services.shared.lifecycle import Drain, Loop
from services.shared.settings import ServiceSettings
from services.shared.telemetry.metrics import Metrics

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)

WORKER_INDEX = "SCRISTILL_WORKER_INDEX"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What a bootstrap gets from the process it runs in."""

    name: str
    version: str
    drain: Drain
    metrics: Metrics
    clock: Clock = field(default_factory=SystemClock)
    instance: str
    """Unique per process; names this process as lease holder, in traces and in logs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What a bootstrap has wired, ready to serve."""

    registrations: Sequence[Registration]
    loops: Sequence[Loop] = ()
    capabilities: Sequence[str] = ()
    interceptors: Sequence[Interceptor] = ()
    """Added to the chain before validation, for example authorization."""
    outages: Sequence[Classifier] = ()
    """Recognise exceptions that mean "a store is away", for example `database.failures.postgres_outage`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrations:
    """`package` is the one that holds `versions`, for example `services.scheduler.migrations`."""

    package: str
    schema: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceDefinition(Generic[SettingsT]):
    """The one argument of `services.shared.command.run`.

    `bootstrap` is an async context manager that opens what the service needs, yields a
    `Service` and closes in reverse order.
    """

    name: str
    settings: type[SettingsT]
    bootstrap: Callable[[SettingsT, Runtime], AbstractAsyncContextManager[Service]]
    migrations: Callable[[SettingsT], Migrations] | None = None
    checks: Callable[[SettingsT], Sequence[Check]] | None = None


def suite_version() -> str:
    try:
        return metadata.version("scristill")
    except metadata.PackageNotFoundError:
        return "0.0.0"


def instance_name(service: str) -> str:
    return f"{service}-{socket.gethostname()}-{os.getpid()}"
