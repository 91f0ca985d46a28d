"""What operators use: `GetUsage`, dead letters, `WatchCapacity`."""

import asyncio
import json
import uuid
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf import timestamp_pb2
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import model_call_pb2 as call_pb

from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.llm_gateway.gateway import Gateway, StartGateway, json_format, request, rest_of, text_of
from tests.support.provider import Answer, FakeProvider, Refusal
from tests.support.waiting import eventually

SCHEMA = json.dumps({"type": "object", "required": ["facts"]})


def timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    found = timestamp_pb2.Timestamp()
    found.FromDatetime(moment)
    return found


async def rows(gateway: Gateway, **fields: object) -> list[tuple[str, str, int, int, int]]:
    answer = await gateway.stub.GetUsage(pb.GetUsageRequest(**fields))
    return [
        (row.project_id, row.model, row.request_count, row.usage.input_tokens, row.usage.output_tokens)
        for row in answer.rows
    ]


async def dead_letters(gateway: Gateway, **fields: object) -> list[call_pb.DeadLetter]:
    return list((await gateway.stub.ListDeadLetters(pb.ListDeadLettersRequest(**fields))).dead_letters)


async def fail(gateway: Gateway, provider: FakeProvider, **fields: object) -> str:
    provider.script(Refusal(status=400, code="bad_request"))
    call = request(**fields)
    await gateway.failure(call)
    return call.request_id


async def test_usage_equals_what_the_provider_counted(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway()
    provider.script(
        Answer(text="x", usage=(7, 2)),
        Answer(text="x", usage=(11, 3)),
        Answer(text="x", usage=(100, 50)),
        Refusal(status=503),
        Answer(text="x", usage=(1, 1)),
    )
    stored = request(project_id="a")
    await gateway.frames(stored)
    await gateway.frames(stored)
    await gateway.frames(request(project_id="a"))
    await gateway.frames(request(project_id="b"))
    await gateway.frames(request(project_id="b"))

    async def counted() -> bool:
        return await rows(gateway) == [("a", "openai/fake", 2, 18, 5), ("b", "openai/fake", 2, 101, 51)]

    await eventually(counted)
    assert await rows(gateway, project_id="b") == [("b", "openai/fake", 2, 101, 51)]
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert await rows(gateway, start_time=timestamp(tomorrow), end_time=timestamp(tomorrow + timedelta(hours=1))) == []


@pytest.mark.parametrize("days", [0, -1, 100])
async def test_usage_of_an_impossible_span_is_refused(start_gateway: StartGateway, days: int) -> None:
    gateway = await start_gateway()
    now = datetime.now(UTC)

    with pytest.raises(grpc.RpcError) as raised:
        await rows(gateway, start_time=timestamp(now - timedelta(days=days)), end_time=timestamp(now))

    error = from_rpc_error(raised.value, peer="llm_gateway")
    assert [violation.field for violation in error.field_violations] == ["start_time"]


async def test_dead_letter_keeps_the_whole_request_and_every_attempt(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    provider.default = Answer(text='{"wrong": 1}')
    call = request(
        prompt=call_pb.Prompt(system="Extract.", documents=[call_pb.Document(document_id="d", text="é 👋🏽")]),
        sampling=call_pb.Sampling(temperature=0.5, seed=3),
        output_format=json_format(SCHEMA),
    )

    await gateway.failure(call)

    (letter,) = await dead_letters(gateway)
    assert (letter.request_id, letter.project_id) == (call.request_id, "project")
    assert (letter.prompt, letter.sampling, letter.output_format) == (call.prompt, call.sampling, call.output_format)
    assert letter.reason == Reason.OUTPUT_INVALID
    assert [attempt.output for attempt in letter.attempts] == ['{"wrong": 1}'] * 2
    assert all("required" in attempt.message for attempt in letter.attempts)
    assert letter.usage.provider_calls == 2
    assert letter.fail_time.ToDatetime(tzinfo=UTC) > datetime.now(UTC) - timedelta(minutes=1)


async def test_failure_that_may_pass_by_itself_is_no_dead_letter(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway(max_attempts=1)
    provider.script(Refusal(status=503))

    await gateway.failure(request())

    assert await dead_letters(gateway) == []


async def test_dead_letters_are_paged_newest_first(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway()
    ids = [await fail(gateway, provider, project_id=project) for project in ("a", "b", "a", "a", "b")]

    first = await gateway.stub.ListDeadLetters(pb.ListDeadLettersRequest(page_size=3))
    second = await gateway.stub.ListDeadLetters(
        pb.ListDeadLettersRequest(page_size=3, page_token=first.next_page_token)
    )

    assert [each.request_id for each in (*first.dead_letters, *second.dead_letters)] == ids[::-1]
    assert second.next_page_token == ""
    assert [each.request_id for each in await dead_letters(gateway, project_id="b")] == [ids[4], ids[1]]
    with pytest.raises(grpc.RpcError) as raised:
        await gateway.stub.ListDeadLetters(pb.ListDeadLettersRequest(project_id="a", page_token=first.next_page_token))
    assert from_rpc_error(raised.value, peer="llm_gateway").reason is Reason.PAGE_TOKEN_INVALID


async def test_oldest_dead_letters_go_beyond_the_limit(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway(dead_letter_limit=2)

    ids = [await fail(gateway, provider, project_id="a") for _ in range(4)]

    assert [each.request_id for each in await dead_letters(gateway)] == ids[:1:-1]
    assert [each.request_id for each in await dead_letters(gateway, project_id="a")] == ids[:1:-1]


async def test_replayed_dead_letter_stores_its_result_under_the_old_id_and_is_gone(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    call = request()
    provider.script(Refusal(status=401))
    await gateway.failure(call)
    provider.script(Answer(text="at last"))

    answer = await gateway.stub.ReplayDeadLetters(
        pb.ReplayDeadLettersRequest(request_ids=[call.request_id.upper(), str(uuid.uuid4())])
    )

    done, unknown = answer.results
    assert not done.HasField("failure")
    assert unknown.failure.reason == Reason.RESOURCE_NOT_FOUND

    async def gone() -> bool:
        return await dead_letters(gateway) == []

    await eventually(gone)
    assert text_of(await gateway.frames(call)) == "at last"
    assert len(provider.calls) == 2


async def test_replay_that_fails_again_adds_its_attempts(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway()
    request_id = await fail(gateway, provider)
    provider.script(Refusal(status=403))

    await gateway.stub.ReplayDeadLetters(pb.ReplayDeadLettersRequest(request_ids=[request_id]))

    async def twice() -> bool:
        (letter,) = await dead_letters(gateway)
        return [attempt.provider_status for attempt in letter.attempts] == [400, 403]

    await eventually(twice)


async def test_replay_of_a_replay_that_runs_asks_the_provider_once(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    one, two = await start_gateway(), await start_gateway()
    request_id = await fail(one, provider)
    gate = asyncio.Event()
    provider.script(Answer(text="x", gate=gate))

    for gateway in (one, one, two):
        await gateway.stub.ReplayDeadLetters(pb.ReplayDeadLettersRequest(request_ids=[request_id]))
    await provider.wait_for_calls(2)
    await asyncio.sleep(0.1)
    gate.set()

    async def gone() -> bool:
        return await dead_letters(one) == []

    await eventually(gone)
    assert len(provider.calls) == 2


async def test_deleting_dead_letters_counts_those_that_existed(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    first, second = await fail(gateway, provider), await fail(gateway, provider)

    answer = await gateway.stub.DeleteDeadLetters(pb.DeleteDeadLettersRequest(request_ids=[first, str(uuid.uuid4())]))

    assert answer.deleted_count == 1
    assert [letter.request_id for letter in await dead_letters(gateway)] == [second]


async def test_capacity_is_told_now_and_when_it_changes_and_the_stream_ends_with_draining(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway(openai_concurrency=1, queue_limit=7)
    gate = asyncio.Event()
    provider.default = Answer(text="x", gate=gate)
    watch = gateway.stub.WatchCapacity(pb.WatchCapacityRequest(operation=call_pb.MODEL_OPERATION_GENERATE), timeout=20)
    opened, idle = await watch.read(), await watch.read()
    running = [asyncio.create_task(gateway.frames(request())) for _ in range(2)]

    busy = await watch.read()
    while not busy.capacity.queued_count:
        busy = await watch.read()
    gate.set()
    await asyncio.gather(*running)
    gateway.runtime.drain.start()
    rest = await rest_of(watch)

    assert opened.HasField("opened")
    assert (idle.capacity.concurrency_limit, idle.capacity.queue_limit) == (1, 7)
    assert (idle.capacity.in_flight_count, idle.capacity.queued_count) == (0, 0)
    assert (busy.capacity.in_flight_count, busy.capacity.queued_count) == (1, 1)
    assert rest[-1].HasField("draining")


async def test_capacity_shows_the_gate_of_a_retry_after(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway(max_attempts=1)
    provider.script(Refusal(status=429, retry_after="30"))
    await gateway.failure(request())

    watch = gateway.stub.WatchCapacity(pb.WatchCapacityRequest(operation=call_pb.MODEL_OPERATION_GENERATE), timeout=20)
    _, capacity = await watch.read(), await watch.read()
    watch.cancel()

    until = capacity.capacity.gate_until_time.ToDatetime(tzinfo=UTC)
    assert timedelta(seconds=20) < until - datetime.now(UTC) <= timedelta(seconds=30)


async def test_capacity_of_an_unknown_model_is_not_found(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    watch = gateway.stub.WatchCapacity(
        pb.WatchCapacityRequest(model="nobody", operation=call_pb.MODEL_OPERATION_EMBED), timeout=20
    )

    with pytest.raises(grpc.RpcError) as raised:
        await watch.read()

    assert from_rpc_error(raised.value, peer="llm_gateway").reason is Reason.MODEL_NOT_FOUND
