"""An indexer inside the test's own loop, on a real Qdrant engine, with simulated models."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import pytest
from qdrant_client import AsyncQdrantClient

from services.indexer.bootstrap import bootstrap
from services.indexer.settings import IndexerSettings
from services.shared.clock import Clock, SystemClock
from services.shared.lifecycle import Drain, LoopSupervisor
from services.shared.process import build_server
from services.shared.service import Runtime
from services.shared.telemetry.metrics import Metrics
from tests.integration.indexer.builders import IndexerClient, connected
from tests.integration.indexer.models import ScriptedModels, serving


@dataclass(slots=True, kw_only=True)
class RunningIndexer:
    client: IndexerClient
    drain: Drain
    settings: IndexerSettings
    metrics: Metrics


StartIndexer = Callable[..., AbstractAsyncContextManager[RunningIndexer]]


@pytest.fixture
def models() -> ScriptedModels:
    return ScriptedModels()


@pytest.fixture
async def gateway_port(models: ScriptedModels) -> AsyncIterator[int]:
    async with serving(models) as port:
        yield port


@pytest.fixture
async def prefix(qdrant: AsyncQdrantClient) -> AsyncIterator[str]:
    """Of the collections of this test, which are dropped with it."""
    prefix = f"t{secrets.token_hex(6)}"
    yield prefix
    for collection in (await qdrant.get_collections()).collections:
        if collection.name.startswith(f"{prefix}_"):
            await qdrant.delete_collection(collection.name)


@pytest.fixture
def start_indexer(qdrant_url: str, gateway_port: int, prefix: str) -> StartIndexer:
    """`async with start_indexer(**settings) as running`: one replica; several share the index of the test."""

    @asynccontextmanager
    async def start(*, clock: Clock | None = None, **overrides) -> AsyncIterator[RunningIndexer]:
        settings = IndexerSettings(
            **{
                "host": "127.0.0.1",
                "port": 0,
                "qdrant_url": qdrant_url,
                "llm_gateway_address": f"127.0.0.1:{gateway_port}",
                "collection_prefix": prefix,
                "drain_seconds": 2.0,
            }
            | overrides
        )
        runtime = Runtime(
            name="indexer",
            version="0.0.0",
            drain=Drain(),
            metrics=Metrics(),
            clock=clock or SystemClock(),
            instance="indexer-tests",
        )
        async with AsyncExitStack() as stack:
            service = await stack.enter_async_context(bootstrap(settings, runtime))
            server = build_server(settings, runtime, service)
            port = await server.start()
            stack.push_async_callback(server.stop, 1.0)
            loops = LoopSupervisor(service.loops)
            loops.start()
            stack.push_async_callback(loops.stop, patience=2.0)
            client = await stack.enter_async_context(connected(port))
            yield RunningIndexer(client=client, drain=runtime.drain, settings=settings, metrics=runtime.metrics)

    return start


@pytest.fixture
async def indexer(start_indexer: StartIndexer) -> AsyncIterator[RunningIndexer]:
    async with start_indexer() as running:
        yield running


@pytest.fixture
async def client(indexer: RunningIndexer) -> IndexerClient:
    return indexer.client


@pytest.fixture
async def qdrant(qdrant_url: str) -> AsyncIterator[AsyncQdrantClient]:
    """For looking at what the indexer wrote, and for damaging it."""
    host, port = qdrant_url.removeprefix("http://").split(":")
    client = AsyncQdrantClient(host=host, grpc_port=int(port), prefer_grpc=True, check_compatibility=False)
    yield client
    await client.close()


@pytest.fixture
async def collection(client: IndexerClient) -> str:
    """Of the epoch that is searched."""
    return await client.collection()
