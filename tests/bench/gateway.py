"""What the gateway costs: `python -m tests.bench.gateway`.

One gateway on one core, a provider that answers at once and the client on the other,
Valkey beside the client; all features on (results stored, fairness, metrics, logs). The
last line of the output is a JSON object. `calls_per_cpu_second` is what one core of the
gateway would do alone, whatever else the machine was busy with.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc.aio
import psutil
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import model_call_pb2 as call_pb
from scristill.llm_gateway.v1.llm_gateway_service_pb2_grpc import LlmGatewayServiceStub

from deploy.local.ports import free_port
from tests.support.engines import Engines
from tests.support.provider import Answer, FakeProvider

PROMPT = "What the river carried away in spring. " * 26
GATEWAY_CORE, OTHER_CORE = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    stub: Any
    gateway: psutil.Process
    provider_url: str


@asynccontextmanager
async def rig(valkey_url: str, *, tokens: int, per_read: int) -> AsyncIterator[Rig]:
    provider = await _spawn("tests.bench.gateway_provider", str(tokens), str(per_read), core=OTHER_CORE)
    try:
        port = (await provider.stdout.readline()).decode().strip()
        async with _gateway(valkey_url, f"http://127.0.0.1:{port}/v1") as started:
            yield started
    finally:
        await _stop(provider)


@asynccontextmanager
async def _gateway(valkey_url: str, provider_url: str) -> AsyncIterator[Rig]:
    port = free_port()
    environment = {
        "LLM_GATEWAY_PORT": str(port),
        "LLM_GATEWAY_METRICS_PORT": "-1",
        "LLM_GATEWAY_REDIS_URL": valkey_url,
        "LLM_GATEWAY_OPENAI_BASE_URL": provider_url,
        "LLM_GATEWAY_OPENAI_MODEL": "bench",
        "LLM_GATEWAY_OPENAI_CONCURRENCY": "256",
        "LLM_GATEWAY_LINGUISTIC_PROCESSES": "0",
        "LLM_GATEWAY_WORDLLAMA": "false",
    }
    gateway = await _spawn("services.llm_gateway", core=GATEWAY_CORE, environment=environment)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
            process = psutil.Process(gateway.pid)
            yield Rig(stub=LlmGatewayServiceStub(channel), gateway=process, provider_url=provider_url)
    finally:
        await _stop(gateway)


async def _spawn(module: str, *arguments: str, core: int, environment: dict[str, str] | None = None) -> Any:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        stdout=subprocess.PIPE if environment is None else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | (environment or {}),
    )
    psutil.Process(process.pid).cpu_affinity([core])
    return process


async def _stop(process: asyncio.subprocess.Process) -> None:
    process.terminate()
    await process.wait()


def _request() -> pb.GenerateRequest:
    prompt = call_pb.Prompt(messages=[call_pb.ChatMessage(role=call_pb.CHAT_ROLE_USER, text=PROMPT)])
    return pb.GenerateRequest(request_id=str(uuid.uuid4()), project_id="bench", prompt=prompt)


async def _call(stub: Any) -> int:
    """Tokens received."""
    tokens = 0
    done = False
    async for frame in stub.Generate(_request(), timeout=60):
        tokens += frame.delta.text.count(" ")
        done = frame.HasField("done")
    if not done:
        raise RuntimeError("a stream ended without its last frame")
    return tokens


async def throughput(rig: Rig, *, calls: int, concurrency: int) -> dict[str, float]:
    pending = iter(range(calls))
    tokens = 0

    async def client() -> None:
        nonlocal tokens
        for _ in pending:
            received = await _call(rig.stub)
            tokens += received

    busy = _cpu(rig.gateway)
    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    elapsed = time.perf_counter() - started
    busy = _cpu(rig.gateway) - busy
    return {
        "calls_per_second": round(calls / elapsed),
        "calls_per_cpu_second": round(calls / busy),
        "tokens_per_second": round(tokens / elapsed),
        "tokens_per_cpu_second": round(tokens / busy),
    }


async def latency(rig: Rig, *, calls: int) -> dict[str, float]:
    """Of one caller, beside that of the same call sent to the provider itself."""
    through = [await _timed(_call(rig.stub)) for _ in range(calls)]
    async with aiohttp.ClientSession() as session:
        body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": PROMPT}]}

        async def directly() -> None:
            async with session.post(f"{rig.provider_url}/chat/completions", json=body) as response:
                await response.read()

        direct = [await _timed(directly()) for _ in range(calls)]
    return {
        "p50_ms": _ms(statistics.median(through)),
        "p99_ms": _ms(_percentile(through, 0.99)),
        "added_p50_ms": _ms(statistics.median(through) - statistics.median(direct)),
    }


async def cancellation(valkey_url: str, *, calls: int) -> dict[str, float]:
    """From the cancel of a caller to the end of the provider's connection."""
    times: list[float] = []
    async with (
        FakeProvider(default=Answer(pieces=["a", "b"], hang_after=1)) as provider,
        _gateway(valkey_url, provider.base_url) as started,
    ):
        before = 0
        for number in range(calls):
            stream = started.stub.Generate(_request(), timeout=60)
            while not (await stream.read()).HasField("delta"):
                pass
            cancelled = time.perf_counter()
            stream.cancel()
            await provider.calls[-1].closed.wait()
            times.append(time.perf_counter() - cancelled)
            if number == calls // 4:
                before = started.gateway.memory_info().rss
        grown = started.gateway.memory_info().rss - before
    return {
        "p50_ms": _ms(statistics.median(times)),
        "p99_ms": _ms(_percentile(times, 0.99)),
        "rss_growth_kb_per_call": round(grown / (calls * 3 / 4) / 1000, 2),
    }


async def _timed(work: Any) -> float:
    started = time.perf_counter()
    await work
    return time.perf_counter() - started


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


async def main() -> None:
    psutil.Process().cpu_affinity([OTHER_CORE])
    results: dict[str, Any] = {"cpu_count": os.cpu_count()}
    with Engines() as engines:
        url = await engines.valkey_url()
        async with rig(url, tokens=5, per_read=5) as short:
            await throughput(short, calls=500, concurrency=16)
            results["calls"] = await throughput(short, calls=4000, concurrency=64)
            results["latency"] = await latency(short, calls=400)
            results["rss_mb"] = round(short.gateway.memory_info().rss / 1e6)
        async with rig(url, tokens=4000, per_read=40) as streams:
            await throughput(streams, calls=20, concurrency=8)
            results["coalesced"] = await throughput(streams, calls=150, concurrency=16)
        async with rig(url, tokens=400, per_read=1) as single:
            results["uncoalesced"] = await throughput(single, calls=150, concurrency=16)
        results["cancel"] = await cancellation(url, calls=1000)
    sys.stdout.write(json.dumps(results) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
