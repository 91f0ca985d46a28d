"""Generation by any OpenAI-compatible endpoint: OpenAI, vLLM, Ollama, llama.cpp and others.

`POST /chat/completions`, always streamed. Everything that one read of the socket brings
is passed on as one piece. An answer without a finish reason has broken off.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator
from enum import StrEnum
from typing import Any, cast

import aiohttp
import orjson

from services.llm_gateway.adapters.openai import prompts
from services.llm_gateway.adapters.openai.client import OpenAiClient
from services.llm_gateway.adapters.openai.sse import EventStream
from services.llm_gateway.adapters.openai.strictness import is_strict
from services.llm_gateway.application.ports import Finish, Question
from services.llm_gateway.domain.calls import FinishReason, JsonSchema, ModelInfo, Operation, Usage
from services.llm_gateway.domain.errors import ProviderFailure

_END = b"[DONE]"
_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class ResponseFormat(StrEnum):
    """How the endpoint is told about a schema; anything but `json_schema` puts it into the prompt as well."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    NONE = "none"


class OpenAiGeneration:
    def __init__(
        self, *, client: OpenAiClient, model: str, response_format: ResponseFormat, max_tokens_field: str
    ) -> None:
        self._client = client
        self._remote_model = model
        self._format = response_format
        self._max_tokens_field = max_tokens_field
        self._model = ModelInfo(
            name=f"openai/{model}",
            provider="openai",
            operation=Operation.GENERATE,
            enforces_json_schema=response_format is ResponseFormat.JSON_SCHEMA,
        )

    @property
    def model(self) -> ModelInfo:
        return self._model

    @property
    def takes_corrections(self) -> bool:
        return True

    async def generate(self, question: Question) -> AsyncGenerator[str | Finish]:
        answer = _Answer()
        async with self._client.post("/chat/completions", self._body(question)) as response:
            async for events in _batches(response):
                text = answer.take(events)
                if text:
                    yield text
                if answer.ended:
                    break
        yield answer.finish()

    def _body(self, question: Question) -> dict[str, Any]:
        schema = question.output_format
        in_prompt = schema is not None and self._format is not ResponseFormat.JSON_SCHEMA
        body: dict[str, Any] = {
            "model": self._remote_model,
            "messages": prompts.messages(
                question.prompt, schema_in_prompt=schema.schema if schema is not None and in_prompt else ""
            ),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if question.sampling is not None:
            body["temperature"] = question.sampling.temperature
            if question.sampling.max_output_tokens:
                body[self._max_tokens_field] = question.sampling.max_output_tokens
            if question.sampling.seed:
                body["seed"] = question.sampling.seed
        if schema is not None and self._format is not ResponseFormat.NONE:
            body["response_format"] = self._response_format(schema)
        return body

    def _response_format(self, schema: JsonSchema) -> dict[str, Any]:
        if self._format is ResponseFormat.JSON_OBJECT:
            return {"type": "json_object"}
        parsed = orjson.loads(schema.schema)
        return {
            "type": "json_schema",
            "json_schema": {"name": schema.name, "schema": parsed, "strict": is_strict(parsed)},
        }


class _Answer:
    """What the events have said so far."""

    def __init__(self) -> None:
        self.ended = False
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None

    def take(self, events: Iterable[bytes]) -> str:
        """The text of the events, in one piece."""
        texts: list[str] = []
        for data in events:
            if data == _END:
                self.ended = True
                break
            texts += self._read(_parsed(data))
        return "".join(texts)

    def _read(self, event: dict[str, Any]) -> Iterator[str]:
        if event.get("error"):
            raise ProviderFailure("the answer ended in an error")
        if usage := event.get("usage"):
            self._usage = _usage(usage)
        for choice in event.get("choices") or ():
            delta: dict[str, Any] = choice.get("delta") or {}
            if text := delta.get("content"):
                yield text
            if reason := choice.get("finish_reason"):
                self._reason = _FINISH_REASONS.get(reason, FinishReason.STOP)

    def finish(self) -> Finish:
        if self._reason is None:
            raise ProviderFailure("the answer broke off")
        return Finish(reason=self._reason, usage=self._usage)


async def _batches(response: aiohttp.ClientResponse) -> AsyncGenerator[Iterator[bytes]]:
    """The events that each read of the socket completes."""
    stream = EventStream()
    while chunk := await response.content.readany():
        try:
            yield stream.feed(chunk)
        except ValueError as error:
            raise ProviderFailure("the answer is no event stream") from error


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ProviderFailure("the answer holds an event that is no JSON") from error
    if not isinstance(event, dict):
        raise ProviderFailure("the answer holds an event that is no object")
    return cast("dict[str, Any]", event)


def _usage(usage: dict[str, Any]) -> Usage:
    details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=int(usage.get("prompt_tokens") or 0),
        output_tokens=int(usage.get("completion_tokens") or 0),
        cached_input_tokens=int(details.get("cached_tokens") or 0),
    )
