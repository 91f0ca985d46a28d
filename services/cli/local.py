"""What the command knows of the local stack: its home, its addresses, where its traces are.

Everything else talks to addresses and does not ask where they come from.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from deploy.local import environment, state
from deploy.local.home import Home

SERVICES = ("scheduler", "extractor", "indexer", "llm_gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """`host:port` by service, and where spans go (None: nowhere)."""

    services: Mapping[str, str]
    traces: str | None


def home(environ: Mapping[str, str] = os.environ) -> Home:
    return Home.from_environment(environ)


def endpoints(environ: Mapping[str, str] = os.environ) -> Endpoints:
    """A variable of the user's, else the running local stack, else the default ports."""
    running = _running_ports(home(environ))
    ports = running or environment.ports(environ)
    services = {name: environ.get(_variable(name)) or f"127.0.0.1:{ports[name]}" for name in SERVICES}
    traces = f"http://127.0.0.1:{running['traces']}" if running else None
    return Endpoints(services=services, traces=environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or traces)


def addressed_elsewhere(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the user names the services' addresses, so that no local stack need run."""
    return any(environ.get(_variable(name)) for name in SERVICES)


def _variable(service: str) -> str:
    return f"SCRISTILL_{service.upper()}_ADDRESS"


def _running_ports(where: Home) -> Mapping[str, int] | None:
    try:
        current = state.read(where)
    except PermissionError:
        return None
    return current.ports if current.running else None
