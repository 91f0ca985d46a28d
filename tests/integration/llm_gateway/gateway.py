"""One replica of the gateway in this process, and the requests and answers of its clients."""

import asyncio
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import model_call_pb2 as call_pb
from scristill.llm_gateway.v1.llm_gateway_service_pb2_grpc import LlmGatewayServiceStub

from deploy.local.ports import free_port
from services.llm_gateway.bootstrap import bootstrap
from services.llm_gateway.settings import LlmGatewaySettings
from services.shared.errors import RemoteError
from services.shared.grpc.errors import from_rpc_error
from services.shared.lifecycle import Drain, LoopSupervisor
from services.shared.process import build_server
from services.shared.service import Runtime
from services.shared.telemetry.metrics import Metrics


@dataclass(slots=True, kw_only=True)
class Gateway:
    """One replica. `stub` is a client of it."""

    stub: Any
    runtime: Runtime
    server: Any
    loops: LoopSupervisor
    channel: grpc.aio.Channel

    def generate(self, request: pb.GenerateRequest) -> Any:
        return self.stub.Generate(request, timeout=20)

    async def frames(self, request: pb.GenerateRequest) -> list[pb.GenerateResponse]:
        return [frame async for frame in self.generate(request)]

    async def failure(self, request: pb.GenerateRequest) -> RemoteError:
        """What a call that must fail fails with."""
        with pytest.raises(grpc.RpcError) as raised:
            await self.frames(request)
        return from_rpc_error(raised.value, peer="llm_gateway")


StartGateway = Callable[..., Awaitable[Gateway]]


async def start(settings: LlmGatewaySettings, stack: AsyncExitStack) -> Gateway:
    runtime = Runtime(
        name="llm_gateway", version="0", drain=Drain(), metrics=Metrics(), instance=f"gateway-{uuid.uuid4().hex[:8]}"
    )
    service = await stack.enter_async_context(bootstrap(settings, runtime))
    server = build_server(settings, runtime, service)
    loops = LoopSupervisor(service.loops)
    port = await server.start()
    loops.start()

    async def stop() -> None:
        runtime.drain.start()
        await server.stop(0)
        await loops.stop(patience=5)
        assert not loops.crashed.is_set()

    stack.push_async_callback(stop)
    channel = grpc.aio.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", 32 * 1024 * 1024)]
    )
    stack.push_async_callback(channel.close)
    await channel.channel_ready()
    return Gateway(stub=LlmGatewayServiceStub(channel), runtime=runtime, server=server, loops=loops, channel=channel)


def request(text: str = "Tell me.", *, request_id: str | None = None, **fields: Any) -> pb.GenerateRequest:
    prompt = call_pb.Prompt(messages=[call_pb.ChatMessage(role=call_pb.CHAT_ROLE_USER, text=text)])
    return pb.GenerateRequest(
        request_id=request_id or str(uuid.uuid4()), **({"prompt": prompt, "project_id": "project"} | fields)
    )


def json_format(schema: str, *, name: str = "facts") -> call_pb.OutputFormat:
    return call_pb.OutputFormat(json_schema=call_pb.JsonSchemaFormat(name=name, schema=schema))


def kinds(frames: list[pb.GenerateResponse]) -> list[str]:
    return [str(frame.WhichOneof("frame")) for frame in frames]


def text_of(frames: list[pb.GenerateResponse]) -> str:
    """What a client puts together: deltas after the last `Started`."""
    text = ""
    for frame in frames:
        if frame.HasField("started"):
            text = ""
        elif frame.HasField("delta"):
            text += frame.delta.text
    return text


async def rest_of(stream: Any) -> list[pb.GenerateResponse]:
    """What is left of a stream that was begun with `read()`."""
    frames: list[pb.GenerateResponse] = []
    while (frame := await stream.read()) is not grpc.aio.EOF:
        frames.append(frame)
    return frames


@asynccontextmanager
async def gateway_process(**environment: str) -> AsyncIterator[tuple[Any, asyncio.subprocess.Process]]:
    """A replica in a process of its own, and a client of it; killed at the end if it is still there."""
    port = free_port()
    given = {
        "LLM_GATEWAY_PORT": str(port),
        "LLM_GATEWAY_METRICS_PORT": "-1",
        "LLM_GATEWAY_WORDLLAMA": "false",
        "LLM_GATEWAY_LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.llm_gateway", env=os.environ | given | environment
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
            yield LlmGatewayServiceStub(channel), process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
