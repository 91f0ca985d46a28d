"""`Generate` with several replicas on one Valkey: attach, resume, take over, hand over, cancel."""

import asyncio

import grpc
import pytest
import redis.asyncio

from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.llm_gateway.gateway import StartGateway, gateway_process, kinds, request, rest_of, text_of
from tests.support.provider import Answer, FakeProvider, Hang
from tests.support.waiting import eventually


async def test_second_caller_on_another_replica_streams_the_running_call(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    one, two = await start_gateway(), await start_gateway()
    call = request()
    pieces = [f"{number} " for number in range(30)]
    provider.script(Answer(pieces=pieces, pause=0.02))
    first = one.generate(call)
    first_frame = await first.read()

    second = two.generate(call)
    second_frames = [await second.read(), await second.read()]

    assert first_frame.HasField("started")
    assert kinds(second_frames) == ["started", "delta"]
    assert not second_frames[0].started.stored
    rest = await rest_of(second)
    assert text_of([*second_frames, *rest]) == "".join(pieces)
    assert rest[-1].done.usage.provider_calls == 1
    assert text_of([first_frame, *await rest_of(first)]) == "".join(pieces)
    assert len(provider.calls) == 1


async def test_stored_result_is_given_by_every_replica(start_gateway: StartGateway, provider: FakeProvider) -> None:
    one, two = await start_gateway(), await start_gateway()
    call = request()
    provider.script(Answer(text="once"))
    await one.frames(call)

    frames = await two.frames(call)

    assert text_of(frames) == "once"
    assert frames[0].started.stored
    assert len(provider.calls) == 1


async def test_resuming_on_another_replica_continues_exactly(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    one, two = await start_gateway(), await start_gateway()
    call = request(detach=True)
    pieces = [f"{number} " for number in range(25)]
    provider.script(Answer(pieces=pieces, pause=0.02))
    stream = one.generate(call)
    seen = []
    while not (seen and seen[-1].delta.seq == 7):
        seen.append(await stream.read())
    stream.cancel()

    rest = await two.frames(request(request_id=call.request_id, resume_after_seq=7, detach=True))

    deltas = [frame.delta for frame in rest if frame.HasField("delta")]
    assert [delta.seq for delta in deltas] == list(range(8, 26))
    assert text_of(seen) + "".join(delta.text for delta in deltas) == "".join(pieces)
    assert len(provider.calls) == 1


async def test_request_id_with_another_payload_is_refused_by_every_replica(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    one, two = await start_gateway(), await start_gateway()
    call = request("one")
    await one.frames(call)

    with pytest.raises(grpc.RpcError) as raised:
        await two.frames(request("two", request_id=call.request_id))

    assert from_rpc_error(raised.value, peer="llm_gateway").reason is Reason.REQUEST_ID_REUSED


async def test_failure_reaches_the_callers_of_other_replicas(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    one, two = await start_gateway(max_attempts=1), await start_gateway()
    call = request()
    gate = asyncio.Event()
    provider.script(Answer(pieces=["x"], cut_after=1, gate=gate))
    first = asyncio.create_task(one.frames(call))
    await provider.wait_for_calls(1)
    second = two.generate(call)
    await second.read()

    gate.set()

    for frames in (first, rest_of(second)):
        with pytest.raises(grpc.RpcError) as raised:
            await frames
        assert from_rpc_error(raised.value, peer="llm_gateway").reason is Reason.PROVIDER_UNAVAILABLE


async def test_call_runs_on_while_a_caller_on_another_replica_stays(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    one, two = await start_gateway(), await start_gateway()
    call = request()
    gate = asyncio.Event()
    provider.script(Answer(text="kept", gate=gate))
    first = one.generate(call)
    await provider.wait_for_calls(1)
    second = two.generate(call)
    await second.read()

    first.cancel()
    await asyncio.sleep(0.1)
    gate.set()

    assert text_of(await rest_of(second)) == "kept"
    assert len(provider.calls) == 1


async def test_cancel_of_the_last_caller_on_another_replica_closes_the_providers_socket(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    one, two = await start_gateway(), await start_gateway()
    call = request()
    provider.script(Hang())
    first = one.generate(call)
    await provider.wait_for_calls(1)
    second = two.generate(call)
    await second.read()
    first.cancel()
    await asyncio.sleep(0.1)
    assert not provider.calls[0].closed.is_set()

    second.cancel()

    async with asyncio.timeout(2):
        await provider.calls[0].closed.wait()


async def test_running_call_of_a_killed_replica_is_taken_over_when_its_lease_has_expired(
    start_gateway: StartGateway, provider: FakeProvider, valkey_url: str
) -> None:
    other = await start_gateway(lease_seconds=1)
    call = request()
    provider.script(Answer(pieces=["a", "b"], hang_after=1), Answer(text="taken over"))
    async with gateway_process(
        LLM_GATEWAY_REDIS_URL=valkey_url,
        LLM_GATEWAY_OPENAI_BASE_URL=provider.base_url,
        LLM_GATEWAY_OPENAI_MODEL="fake",
        LLM_GATEWAY_LINGUISTIC_PROCESSES="0",
        LLM_GATEWAY_LEASE_SECONDS="1",
    ) as (stub, process):
        lost = stub.Generate(call, timeout=20)
        while not (await lost.read()).HasField("delta"):
            pass
        await eventually(lambda: stored(valkey_url, call.request_id))
        process.kill()

        frames = await other.frames(request(request_id=call.request_id, resume_after_seq=1))

    assert text_of(frames) == "taken over"
    assert [frame.started.attempt for frame in frames if frame.HasField("started")][-1] == 2
    assert len(provider.calls) == 2


async def test_replica_that_was_overtaken_gives_its_callers_the_new_run(
    start_gateway: StartGateway, provider: FakeProvider, valkey_url: str
) -> None:
    one, two = await start_gateway(lease_seconds=1), await start_gateway(lease_seconds=1)
    call = request()
    provider.script(Answer(pieces=["old", "x"], hang_after=1), Answer(text="new", latency=1.0))
    first = one.generate(call)
    seen = [await first.read(), await first.read()]
    await eventually(lambda: stored(valkey_url, call.request_id))
    async with redis.asyncio.from_url(valkey_url) as client:
        await client.hset(f"scristill:llm:{{{call.request_id}}}:call", "until", 0)

    second = await two.frames(call)
    seen += await rest_of(first)

    assert text_of(seen) == text_of(second) == "new"
    await asyncio.wait_for(provider.calls[0].closed.wait(), 2)
    assert len(provider.calls) == 2


async def test_draining_replica_hands_its_running_call_over(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    one, two = await start_gateway(drain_seconds=0.1, lease_seconds=60), await start_gateway(lease_seconds=60)
    call = request()
    provider.script(Hang(), Answer(text="elsewhere"))
    first = one.generate(call)
    await provider.wait_for_calls(1)
    second = asyncio.create_task(two.frames(call))
    await asyncio.sleep(0.1)

    one.runtime.drain.start()

    assert text_of(await asyncio.wait_for(second, 5)) == "elsewhere"
    with pytest.raises(grpc.RpcError) as raised:
        await rest_of(first)
    assert from_rpc_error(raised.value, peer="llm_gateway").reason is Reason.SERVER_DRAINING


async def test_draining_replica_lets_a_running_call_finish(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway(drain_seconds=10)
    gate = asyncio.Event()
    provider.script(Answer(text="finished", gate=gate))
    running = asyncio.create_task(gateway.frames(request()))
    await provider.wait_for_calls(1)

    gateway.runtime.drain.start()
    await asyncio.sleep(0.05)
    with pytest.raises(grpc.RpcError) as raised:
        await gateway.frames(request())
    gate.set()

    assert text_of(await running) == "finished"
    assert from_rpc_error(raised.value, peer="llm_gateway").reason is Reason.SERVER_DRAINING


async def test_service_that_is_told_to_stop_finishes_its_calls_and_ends_in_order(
    provider: FakeProvider, valkey_url: str
) -> None:
    gate = asyncio.Event()
    provider.script(Answer(text="finished", gate=gate))
    async with gateway_process(
        LLM_GATEWAY_REDIS_URL=valkey_url,
        LLM_GATEWAY_OPENAI_BASE_URL=provider.base_url,
        LLM_GATEWAY_OPENAI_MODEL="fake",
        LLM_GATEWAY_LINGUISTIC_PROCESSES="0",
        LLM_GATEWAY_DRAIN_SECONDS="10",
    ) as (stub, process):
        stream = stub.Generate(request(), timeout=20)
        await provider.wait_for_calls(1)
        process.terminate()
        await asyncio.sleep(0.3)
        gate.set()

        assert text_of(await rest_of(stream)) == "finished"
        assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_waiting_follower_sends_redis_nothing(
    start_gateway: StartGateway, provider: FakeProvider, valkey_url: str
) -> None:
    one, two = await start_gateway(lease_seconds=60), await start_gateway(lease_seconds=60)
    call = request()
    provider.script(Hang())
    first = one.generate(call)
    await provider.wait_for_calls(1)
    second = two.generate(call)
    await second.read()
    async with redis.asyncio.from_url(valkey_url) as client:

        async def commands() -> int:
            stats = await client.info("commandstats")
            return sum(each["calls"] for name, each in stats.items() if name != "cmdstat_info")

        await asyncio.sleep(0.5)  # the usage ledger has nothing to flush, the first frames are stored
        before = await commands()
        await asyncio.sleep(1.0)
        after = await commands()

    assert after == before
    first.cancel()
    second.cancel()


async def test_many_followers_share_one_connection(
    start_gateway: StartGateway, provider: FakeProvider, valkey_url: str
) -> None:
    one, two = await start_gateway(openai_concurrency=64), await start_gateway()
    gate = asyncio.Event()
    provider.default = Answer(text="all", gate=gate)
    calls = [request() for _ in range(40)]
    firsts = [asyncio.create_task(one.frames(call)) for call in calls]
    await provider.wait_for_calls(40)
    seconds = [two.generate(call) for call in calls]
    for stream in seconds:
        await stream.read()

    async with redis.asyncio.from_url(valkey_url) as client:

        async def one_reader() -> bool:
            clients = await client.client_list()
            return sum(each["cmd"] == "xread" for each in clients) == 1

        await eventually(one_reader)
    gate.set()

    for stream in seconds:
        assert text_of(await rest_of(stream)) == "all"
    await asyncio.gather(*firsts)
    assert len(provider.calls) == 40


async def stored(valkey_url: str, request_id: str) -> bool:
    """Whether records of the call have reached the store."""
    async with redis.asyncio.from_url(valkey_url) as client:
        return await client.xlen(f"scristill:llm:{{{request_id}}}:log") > 0
