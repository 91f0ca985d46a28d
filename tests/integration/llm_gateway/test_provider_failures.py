"""`Generate` over a provider that fails: retries, gates, refusals."""

import asyncio

import pytest
from scristill.llm_gateway.v1 import model_call_pb2 as call_pb

from services.shared.errors import Reason
from tests.integration.llm_gateway.gateway import StartGateway, kinds, request, text_of
from tests.support.provider import Answer, FakeProvider, Hang, Raw, Refusal


async def test_provider_failure_is_retried_and_the_new_attempt_voids_the_old_text(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    provider.script(Answer(pieces=["half ", "an"], cut_after=1), Answer(text="whole"))

    frames = await gateway.frames(request())

    assert kinds(frames) == ["started", "delta", "started", "delta", "usage", "done"]
    assert frames[2].started.attempt == 2
    assert frames[3].delta.seq == 1
    assert text_of(frames) == "whole"
    assert frames[-1].done.usage.provider_calls == 2
    assert frames[-1].done.usage.estimated


@pytest.mark.parametrize(
    "broken", [Raw(body=b"data: {not json}\n\n"), Raw(body=b"data: [DONE]\n\n"), Refusal(status=503)]
)
async def test_broken_answers_are_retried(start_gateway: StartGateway, provider: FakeProvider, broken) -> None:
    gateway = await start_gateway()
    provider.script(broken, Answer(text="good"))

    assert text_of(await gateway.frames(request())) == "good"


async def test_retry_after_is_a_gate_for_every_caller(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway()
    provider.script(Refusal(status=429, retry_after="1"))
    first = asyncio.create_task(gateway.frames(request()))
    await provider.wait_for_calls(1)
    await asyncio.sleep(0.1)

    second = await gateway.frames(request())
    await first

    assert "queued" in kinds(second)
    refused, *others = provider.calls
    assert all(call.at - refused.at >= 0.95 for call in others)


async def test_attempts_end_in_unavailable_with_the_providers_status(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway(max_attempts=2)
    provider.default = Refusal(status=500)

    error = await gateway.failure(request())

    assert error.reason is Reason.PROVIDER_UNAVAILABLE
    assert error.metadata == {"provider": "openai", "provider_status": "500", "attempts": "2"}
    assert error.transient
    assert len(provider.calls) == 2


async def test_failed_call_can_be_repeated_under_its_request_id(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway(max_attempts=1)
    call = request()
    provider.script(Refusal(status=500), Answer(text="now"))

    await gateway.failure(call)
    frames = await gateway.frames(call)

    assert text_of(frames) == "now"


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404])
async def test_refusals_are_not_retried_and_leak_no_detail(
    start_gateway: StartGateway, provider: FakeProvider, status: int
) -> None:
    gateway = await start_gateway()
    provider.script(Refusal(status=status, code="invalid_api_key"))

    error = await gateway.failure(request())

    assert error.reason is Reason.PROVIDER_REFUSED
    assert error.metadata["provider_status"] == str(status)
    assert "secret detail" not in error.message
    assert len(provider.calls) == 1


async def test_used_up_quota_is_not_retried_although_it_is_a_429(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    provider.script(Refusal(status=429, code="insufficient_quota"))

    assert (await gateway.failure(request())).reason is Reason.PROVIDER_REFUSED
    assert len(provider.calls) == 1


async def test_silent_provider_is_given_up_and_asked_again(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway(openai_idle_seconds=0.3)
    provider.script(Hang(), Answer(pieces=["half", "x"], hang_after=1), Answer(text="whole"))

    frames = await gateway.frames(request())

    assert text_of(frames) == "whole"
    assert [frame.started.attempt for frame in frames if frame.HasField("started")] == [1, 2, 3]


async def test_generation_without_end_is_ended(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway(generation_seconds=0.3)
    provider.script(Hang())

    error = await gateway.failure(request(detach=True))

    assert error.reason is Reason.PROVIDER_UNAVAILABLE
    await asyncio.wait_for(provider.calls[0].closed.wait(), 5)


async def test_run_away_output_is_cut_and_its_provider_stopped(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    provider.script(Answer(pieces=["x" * 1024 * 1024] * 10, hang_after=9))

    frames = await gateway.frames(request())

    assert frames[-1].done.finish_reason == call_pb.FINISH_REASON_LENGTH
    assert 8 * 1024 * 1024 < len(text_of(frames)) <= 9 * 1024 * 1024
    assert max(len(frame.delta.text) for frame in frames) <= 256 * 1024
    await asyncio.wait_for(provider.calls[0].closed.wait(), 5)


async def test_key_is_sent_to_the_endpoint_and_shown_to_nobody(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway(openai_api_key="sk-secret")
    provider.script(Refusal(status=401, body='{"error": {"code": "sk-secret is wrong"}}'))

    error = await gateway.failure(request())

    assert provider.calls[0].headers["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in f"{error} {error.metadata}"
