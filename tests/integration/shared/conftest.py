"""A server in the test's own process, with the chain that every service has."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.shared.grpc.channel import Channel, connect
from services.shared.grpc.errors import peer_outage
from services.shared.grpc.info import ServerInfo
from services.shared.grpc.interceptors.chain import build_chain
from services.shared.grpc.interceptors.errors import Classifier, first_known
from services.shared.grpc.server import GrpcServer, Registration, ServerOptions
from services.shared.settings import LogFormat, LogLevel
from services.shared.telemetry import logging
from services.shared.telemetry.metrics import Metrics


@dataclass(slots=True, kw_only=True)
class Running:
    server: GrpcServer
    channel: Channel
    address: str
    metrics: Metrics
    client_metrics: Metrics

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


Serve = Callable[..., Awaitable[Running]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def start(
            *registrations: Registration,
            outages: Sequence[Classifier] = (),
            default_deadline_seconds: float = 30.0,
            max_concurrent_rpcs: int = 100,
            port: int = 0,
            **channel_options: Any,
        ) -> Running:
            metrics, client_metrics = Metrics(), Metrics()
            server = GrpcServer(
                options=ServerOptions(port=port),
                chain=build_chain(
                    metrics=metrics,
                    classify=first_known(peer_outage, *outages),
                    default_deadline_seconds=default_deadline_seconds,
                    max_concurrent_rpcs=max_concurrent_rpcs,
                ),
                info=ServerInfo(service="test", version="1.2.3", capabilities=["b", "a"]),
                registrations=registrations,
            )
            port = await server.start()
            stack.push_async_callback(server.stop, 0)
            channel = await stack.enter_async_context(
                connect(f"127.0.0.1:{port}", metrics=client_metrics, **channel_options)
            )
            return Running(
                server=server,
                channel=channel,
                address=f"127.0.0.1:{port}",
                metrics=metrics,
                client_metrics=client_metrics,
            )

        yield start


LogLines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def log_lines() -> Iterator[LogLines]:
    """The log lines written so far, as the service would write them."""
    output = io.TextIOWrapper(io.BytesIO(), write_through=True)
    logging.configure(service="test", version="1.2.3", level=LogLevel.DEBUG, log_format=LogFormat.JSON, output=output)
    yield lambda: [orjson.loads(line) for line in output.buffer.getvalue().splitlines()]
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def span_exporter() -> InMemorySpanExporter:
    """The process has one tracer provider for good, so the tests share it."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture(autouse=True)
def spans(span_exporter: InMemorySpanExporter) -> InMemorySpanExporter:
    span_exporter.clear()
    return span_exporter
