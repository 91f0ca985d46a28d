"""`Generate` with a JSON Schema: validation, repair, one new question."""

import json

import pytest

from services.shared.errors import Reason
from tests.integration.llm_gateway.gateway import StartGateway, json_format, request, text_of
from tests.support.provider import Answer, FakeProvider

SCHEMA = json.dumps(
    {
        "type": "object",
        "required": ["facts"],
        "properties": {"facts": {"type": "array", "items": {"type": "string"}}},
    }
)


async def test_valid_output_is_passed_as_it_is(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway()
    provider.script(Answer(text='{"facts": ["a"]}'))

    frames = await gateway.frames(request(output_format=json_format(SCHEMA)))

    assert text_of(frames) == '{"facts": ["a"]}'
    assert frames[-1].done.repaired_output == ""
    sent = provider.calls[0].body["response_format"]
    assert sent["json_schema"]["schema"] == json.loads(SCHEMA)
    assert sent["json_schema"]["strict"] is False


async def test_almost_json_is_repaired_without_asking_again(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    provider.script(Answer(text='Here you are:\n```json\n{"facts": ["a", "b",]}\n```'))

    frames = await gateway.frames(request(output_format=json_format(SCHEMA)))

    assert json.loads(frames[-1].done.repaired_output) == {"facts": ["a", "b"]}
    assert len(provider.calls) == 1


async def test_invalid_output_is_asked_for_once_more_with_the_reason(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    provider.script(Answer(text='{"facts": [1]}'), Answer(text='{"facts": ["1"]}'))

    frames = await gateway.frames(request(output_format=json_format(SCHEMA)))

    assert text_of(frames) == '{"facts": ["1"]}'
    *_, answer, correction = provider.calls[1].body["messages"]
    assert answer == {"role": "assistant", "content": '{"facts": [1]}'}
    assert "/facts/0" in correction["content"]


async def test_output_that_stays_invalid_fails_after_one_new_question(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    provider.default = Answer(text='{"facts": [1]}')

    error = await gateway.failure(request(output_format=json_format(SCHEMA)))

    assert error.reason is Reason.OUTPUT_INVALID
    assert error.metadata == {"schema": "facts", "path": "/facts/0"}
    assert len(provider.calls) == 2


@pytest.mark.parametrize(
    "schema", ['{"type": 7}', "[1", '{"$ref": "http://127.0.0.1:1/schema.json"}', '{"$ref": "file:///etc/passwd"}']
)
async def test_unusable_schema_is_refused_before_a_provider_is_asked(
    start_gateway: StartGateway, provider: FakeProvider, schema: str
) -> None:
    gateway = await start_gateway()

    error = await gateway.failure(request(output_format=json_format(schema)))

    assert error.reason is Reason.INVALID_REQUEST
    assert error.field_violations[0].field == "output_format.json_schema.schema"
    assert provider.calls == []
