"""The processes that the indexer's benchmarks measure, and clients of them: engines, gateway, indexer."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import grpc.aio
from scristill.indexer.v1 import fact_pb2
from scristill.indexer.v1 import indexer_service_pb2 as pb

from deploy.local import probes
from deploy.local.ports import free_port
from tests.integration.indexer.builders import APPLIED, IndexerClient, batch_frame, open_frame
from tests.support.engines import Engines

READY_WITHIN = 60.0
FRAME = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    address: str
    pid: int
    client: IndexerClient


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    engines: Engines
    qdrant_url: str
    indexer: Indexer


@asynccontextmanager
async def running_stack() -> AsyncIterator[Stack]:
    """An indexer whose gateway embeds by WordLlama."""
    async with AsyncExitStack() as stack:
        engines = stack.enter_context(Engines())
        redis = {"LLM_GATEWAY_REDIS_URL": await engines.valkey_url()}
        gateway, _ = await stack.enter_async_context(service("llm_gateway", redis))
        qdrant_url = await engines.qdrant_url()
        indexer = await stack.enter_async_context(running_indexer(qdrant_url, gateway))
        yield Stack(engines=engines, qdrant_url=qdrant_url, indexer=indexer)


@asynccontextmanager
async def running_indexer(qdrant_url: str, gateway: str) -> AsyncIterator[Indexer]:
    environment = {"INDEXER_QDRANT_URL": qdrant_url, "INDEXER_LLM_GATEWAY_ADDRESS": gateway}
    async with service("indexer", environment) as (address, pid), grpc.aio.insecure_channel(address) as channel:
        client = IndexerClient(channel)
        await until_usable(client)
        yield Indexer(address=address, pid=pid, client=client)


@asynccontextmanager
async def service(name: str, environment: Mapping[str, str]) -> AsyncIterator[tuple[str, int]]:
    """Address and process id of a service of the suite."""
    port = free_port()
    prefix = name.upper()
    own = {f"{prefix}_PORT": str(port), f"{prefix}_METRICS_PORT": "-1", f"{prefix}_LOG_LEVEL": "error"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{name}", env={**os.environ, **environment, **own}
    )
    try:
        await probes.until_ready(probes.grpc_health(f"127.0.0.1:{port}"), within=READY_WITHIN)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def until_usable(client: IndexerClient) -> None:
    """The first epoch needs an answer of the gateway."""
    async with asyncio.timeout(READY_WITHIN):
        while True:
            try:
                await client.stats()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)
            else:
                return


async def index(client: IndexerClient, intents: list[fact_pb2.FactIntent]) -> None:
    """Straight into the indexer, without a database. Every fact must be applied."""

    async def requests() -> AsyncIterator[pb.IndexFactsRequest]:
        yield open_frame("bench")
        for start in range(0, len(intents), FRAME):
            yield batch_frame(intents[start : start + FRAME])

    applied = 0
    async for frame in client.indexer.IndexFacts(requests()):
        applied += sum(ack.outcome == APPLIED for ack in frame.acks.acks)
    if applied != len(intents):
        sys.exit(f"{len(intents) - applied} facts were not applied")
