"""The models that need no key and no network, through the gateway: `linguistic` and `wordllama`."""

import asyncio
import json
import os
import signal
import struct
from math import isclose

import grpc
import psutil
import pytest
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import model_call_pb2 as call_pb

from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.llm_gateway.gateway import (
    Gateway,
    StartGateway,
    gateway_process,
    json_format,
    kinds,
    request,
    text_of,
)
from tests.support.provider import FakeProvider, Refusal
from tests.support.waiting import eventually

TEXT = "The Torvik Bridge was designed by Ragnhild Moe. It carries the road across the fjord."
STRING = {"type": "string", "minLength": 1}
FACTS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["facts", "entities"],
    "properties": {
        "facts": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["subject", "predicate", "object", "statement", "category", "quote"],
                "properties": {
                    **dict.fromkeys(("subject", "predicate", "object", "statement", "quote"), STRING),
                    "category": {
                        "enum": ["definition", "event", "property", "relation", "quantity", "location", "other"]
                    },
                },
            },
        },
        "entities": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "type", "quote"],
                "properties": {
                    "name": STRING,
                    "quote": STRING,
                    "type": {"enum": ["person", "organization", "place", "date", "quantity", "work", "other"]},
                },
            },
        },
    },
}


def extraction(text: str = TEXT, *, schema: object = FACTS) -> pb.GenerateRequest:
    prompt = call_pb.Prompt(system="Extract.", documents=[call_pb.Document(document_id="d1", text=text)])
    return request(prompt=prompt, output_format=json_format(json.dumps(schema)))


@pytest.fixture
async def embedded(start_gateway: StartGateway) -> Gateway:
    return await start_gateway(openai_base_url="", linguistic_processes=1, wordllama=True)


@pytest.fixture
async def vectors(start_gateway: StartGateway) -> Gateway:
    return await start_gateway(wordllama=True)


def workers() -> list[psutil.Process]:
    return [
        child for child in psutil.Process().children() if any("linguistic.worker" in part for part in child.cmdline())
    ]


async def test_default_template_is_filled_with_quotes_from_the_document(embedded: Gateway) -> None:
    frames = await embedded.frames(extraction())

    output = json.loads(text_of(frames))
    assert kinds(frames) == ["started", "delta", "usage", "done"]
    assert frames[0].started.model == "linguistic"
    assert output["facts"][0] == {
        "subject": "The Torvik Bridge",
        "predicate": "was designed by",
        "object": "Ragnhild Moe",
        "statement": "The Torvik Bridge was designed by Ragnhild Moe.",
        "category": "event",
        "quote": "The Torvik Bridge was designed by Ragnhild Moe.",
    }
    assert {"name": "Ragnhild Moe", "type": "person", "quote": "Ragnhild Moe"} in output["entities"]
    assert all(item["quote"] in TEXT for items in output.values() for item in items)


async def test_schema_and_free_text_that_it_cannot_fill_are_refused_in_clear_words(embedded: Gateway) -> None:
    schema = {"type": "object", "properties": {"summary": {"type": "string"}}}

    unfit = await embedded.failure(extraction(schema=schema))
    free = await embedded.failure(request())

    assert unfit.reason is free.reason is Reason.PROVIDER_REFUSED
    assert "configure a language model" in unfit.message
    assert "configure a language model" in free.message


async def test_killed_worker_is_replaced_and_its_request_answered(embedded: Gateway) -> None:
    (worker,) = workers()
    worker.kill()

    frames = await embedded.frames(extraction())

    assert json.loads(text_of(frames))["facts"]
    assert [each.pid for each in workers()] != [worker.pid]


async def test_cancelled_request_costs_neither_the_worker_nor_the_next_answer(embedded: Gateway) -> None:
    (worker,) = workers()
    long = extraction("\n\n".join(f"The bridge number {number} was built in 1931." for number in range(400)))
    stream = embedded.generate(long)
    assert (await stream.read()).HasField("started")
    stream.cancel()

    frames = await embedded.frames(extraction())

    assert len(json.loads(text_of(frames))["facts"]) == 2
    assert [each.pid for each in workers()] == [worker.pid]


async def test_workers_ignore_signals_meant_for_the_service_and_end_with_their_input(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(openai_base_url="", linguistic_processes=1)
    (worker,) = workers()
    os.kill(worker.pid, signal.SIGINT)
    os.kill(worker.pid, signal.SIGTERM)

    assert json.loads(text_of(await gateway.frames(extraction())))["facts"]
    assert worker.is_running()


async def test_no_worker_outlives_a_killed_service(valkey_url: str) -> None:
    async with gateway_process(LLM_GATEWAY_REDIS_URL=valkey_url) as (stub, process):
        await stub.ListModels(pb.ListModelsRequest())
        (worker,) = psutil.Process(process.pid).children()

        process.kill()

        await eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)


async def test_embedded_vectors_are_normalised_and_deterministic_in_any_company(vectors: Gateway) -> None:
    texts = [f"The bridge number {number} spans the river." for number in range(100)]

    together = await vectors.stub.Embed(pb.EmbedRequest(project_id="p", texts=texts))
    alone = await asyncio.gather(*(vectors.stub.Embed(pb.EmbedRequest(project_id="p", texts=[text])) for text in texts))

    assert (together.model, together.dimension) == ("wordllama", 256)
    assert [list(each.values) for each in together.embeddings] == [list(each.embeddings[0].values) for each in alone]
    assert all(isclose(sum(value**2 for value in each.values), 1, rel_tol=1e-5) for each in together.embeddings)
    assert together.usage.input_tokens == sum(each.usage.input_tokens for each in alone)


async def test_similar_texts_have_similar_vectors(vectors: Gateway) -> None:
    texts = ["The cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose in March."]

    response = await vectors.stub.Embed(pb.EmbedRequest(project_id="p", texts=texts))

    cat, kitten, rates = (list(each.values) for each in response.embeddings)
    assert cosine(cat, kitten) > cosine(cat, rates) + 0.2


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


async def test_empty_text_fails_alone(vectors: Gateway) -> None:
    response = await vectors.stub.Embed(pb.EmbedRequest(project_id="p", texts=["a bridge", "", " \n\t", "a river"]))

    assert [len(each.values) for each in response.embeddings] == [256, 0, 0, 256]
    assert [each.failure.reason for each in response.embeddings] == [0, Reason.TEXT_EMPTY, Reason.TEXT_EMPTY, 0]


async def test_texts_beyond_the_limit_are_refused(vectors: Gateway) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        await vectors.stub.Embed(pb.EmbedRequest(project_id="p", texts=["x" * 1024 * 1024] * 9))

    assert from_rpc_error(raised.value, peer="llm_gateway").reason is Reason.TOO_LARGE


async def test_endpoint_with_an_embedding_model_becomes_the_default(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway(openai_embedding_model="vectors", openai_embedding_batch=2, wordllama=True)
    provider.script(Refusal(status=503))

    response = await gateway.stub.Embed(pb.EmbedRequest(project_id="p", texts=["a", "bb", "", "cccc", "d"]))

    assert response.model == "openai/vectors"
    assert response.dimension == 8
    assert [len(each.values) for each in response.embeddings] == [8, 8, 0, 8, 8]
    expected = struct.unpack("<f", struct.pack("<f", 2 / sum((2 + position) ** 2 for position in range(8)) ** 0.5))[0]
    assert isclose(response.embeddings[1].values[0], expected, rel_tol=1e-6)
    assert [call.body["input"] for call in provider.calls] == [["a", "bb"], ["a", "bb"], ["cccc", "d"]]


async def test_usage_of_embeddings_is_accounted(vectors: Gateway, valkey_url: str) -> None:
    response = await vectors.stub.Embed(pb.EmbedRequest(project_id="p", texts=["a bridge"]))

    async def accounted() -> bool:
        answer = await vectors.stub.GetUsage(pb.GetUsageRequest())
        return [(row.model, row.usage.input_tokens) for row in answer.rows] == [
            ("wordllama", response.usage.input_tokens)
        ]

    await eventually(accounted)
