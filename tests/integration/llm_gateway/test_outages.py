"""Redis away: what still works, what says so, and that everything comes back by itself."""

import asyncio

import grpc
import pytest
import redis.asyncio
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb

from services.shared.errors import Reason
from tests.integration.llm_gateway.gateway import StartGateway, request, rest_of, text_of
from tests.support.provider import Answer, FakeProvider
from tests.support.waiting import eventually


async def test_without_redis_generation_is_unavailable_and_embedding_goes_on(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(redis_url="redis://127.0.0.1:1/0", wordllama=True)

    error = await gateway.failure(request())
    response = await gateway.stub.Embed(pb.EmbedRequest(project_id="p", texts=["a bridge"]))

    assert error.reason is Reason.DEPENDENCY_UNAVAILABLE
    assert error.metadata == {"dependency": "redis"}
    assert error.transient
    assert len(response.embeddings[0].values) == 256


async def test_connections_lost_during_a_call_cost_nobody_anything(
    start_gateway: StartGateway, provider: FakeProvider, valkey_url: str
) -> None:
    one, two = await start_gateway(), await start_gateway()
    call = request()
    pieces = [f"{number} " for number in range(40)]
    provider.script(Answer(pieces=pieces, pause=0.02))
    first, second = one.generate(call), None
    await first.read()
    second = two.generate(call)
    seen = [await second.read()]
    async with redis.asyncio.from_url(valkey_url) as client:
        for _ in range(3):
            await asyncio.sleep(0.1)
            await client.client_kill_filter(_type="normal", skipme=True)

    seen += await rest_of(second)

    assert text_of(seen) == "".join(pieces)
    assert [frame.delta.seq for frame in seen if frame.HasField("delta")] == list(range(1, 41))
    await rest_of(first)
    assert text_of(await two.frames(call)) == "".join(pieces)
    assert len(provider.calls) == 1


async def test_cancelled_calls_leave_nothing_behind(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway(openai_concurrency=8)
    provider.default = Answer(pieces=["a", "b"], hang_after=1)
    tasks = len(asyncio.all_tasks())

    async def cancelled_call() -> None:
        stream = gateway.generate(request())
        while (frame := await stream.read()) is not grpc.aio.EOF and not frame.HasField("delta"):
            pass
        stream.cancel()

    for _ in range(10):
        await asyncio.gather(*(cancelled_call() for _ in range(8)))

    async with asyncio.timeout(10):
        await asyncio.gather(*(call.closed.wait() for call in provider.calls))
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks + 2)
    assert len(provider.calls) == 80


@pytest.mark.parametrize("status", ["running", "released"])
async def test_state_of_a_call_that_was_evicted_is_no_obstacle(
    start_gateway: StartGateway, provider: FakeProvider, valkey_url: str, status: str
) -> None:
    gateway = await start_gateway()
    call = request()
    async with redis.asyncio.from_url(valkey_url) as client:
        await client.xadd(f"scristill:llm:{{{call.request_id}}}:log", {"r": b'[["d",1,"left over"]]'})
        if status == "released":
            await client.hset(f"scristill:llm:{{{call.request_id}}}:call", "status", status)

    assert text_of(await gateway.frames(call)) == "ok"
    assert text_of(await gateway.frames(call)) == "ok"
