"""The processes that the indexer's benchmarks measure: Qdrant's engine, Valkey, the gateway and indexers."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc.aio

from deploy.local import probes
from deploy.local.ports import free_port
from tests.integration.indexer.builders import IndexerClient
from tests.integration.indexer.models import ScriptedModels, serving
from tests.support.engines import Engines

DIMENSION = 256
READY_WITHIN = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    qdrant_url: str
    wordllama: IndexerClient
    """An indexer whose gateway embeds by WordLlama."""
    instant: IndexerClient
    """An indexer whose gateway answers at once, with vectors that mean nothing."""
    instant_prefix: str = "instant"


@asynccontextmanager
async def running_stack() -> AsyncIterator[Stack]:
    async with AsyncExitStack() as stack:
        engines = stack.enter_context(Engines())
        qdrant_url = await engines.qdrant_url()
        gateway = await stack.enter_async_context(_gateway(await engines.valkey_url()))
        instant = await stack.enter_async_context(serving(_instant_models()))
        clients = [
            await stack.enter_async_context(_indexer(qdrant_url, address, prefix))
            for prefix, address in (("wordllama", gateway), ("instant", f"127.0.0.1:{instant}"))
        ]
        yield Stack(qdrant_url=qdrant_url, wordllama=clients[0], instant=clients[1])


def _instant_models() -> ScriptedModels:
    rng = random.Random(7)
    vectors = [[rng.gauss(0.0, 1.0) for _ in range(DIMENSION)] for _ in range(64)]
    return ScriptedModels(
        dimensions={"instant": DIMENSION},
        default="instant",
        vector_of=lambda _model, text, _dimension: vectors[hash(text) % len(vectors)],
    )


@asynccontextmanager
async def _gateway(valkey_url: str) -> AsyncIterator[str]:
    environment = {"LLM_GATEWAY_REDIS_URL": valkey_url}
    async with _service("llm_gateway", environment) as address:
        yield address


@asynccontextmanager
async def _indexer(qdrant_url: str, gateway: str, prefix: str) -> AsyncIterator[IndexerClient]:
    environment = {
        "INDEXER_QDRANT_URL": qdrant_url,
        "INDEXER_LLM_GATEWAY_ADDRESS": gateway,
        "INDEXER_COLLECTION_PREFIX": prefix,
    }
    async with _service("indexer", environment) as address, grpc.aio.insecure_channel(address) as channel:
        client = IndexerClient(channel)
        await _until_usable(client)
        yield client


@asynccontextmanager
async def _service(name: str, environment: Mapping[str, str]) -> AsyncIterator[str]:
    port = free_port()
    prefix = name.upper()
    own = {f"{prefix}_PORT": str(port), f"{prefix}_METRICS_PORT": "-1", f"{prefix}_LOG_LEVEL": "error"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{name}", env={**os.environ, **environment, **own}
    )
    try:
        await probes.until_ready(probes.grpc_health(f"127.0.0.1:{port}"), within=READY_WITHIN)
        yield f"127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_usable(client: IndexerClient) -> None:
    """The first epoch needs an answer of the gateway."""
    async with asyncio.timeout(READY_WITHIN):
        while True:
            try:
                await client.stats()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)
            else:
                return
