"""Embeddings by any OpenAI-compatible endpoint: `POST /embeddings`."""

import array
import base64
import math
import sys
from collections.abc import Sequence
from typing import Any

import aiohttp
import orjson

from services.llm_gateway.adapters.openai.client import OpenAiClient
from services.llm_gateway.application.ports import Vectors
from services.llm_gateway.domain.calls import ModelInfo, Operation, Usage
from services.llm_gateway.domain.errors import ProviderFailure


class OpenAiEmbedding:
    """`dimension` is what the endpoint is asked for; 0 takes what the model gives."""

    def __init__(self, *, client: OpenAiClient, model: str, dimension: int, batch_texts: int) -> None:
        self._client = client
        self._remote_model = model
        self._dimension = dimension
        self._batch_texts = batch_texts
        self._model = ModelInfo(
            name=f"openai/{model}", provider="openai", operation=Operation.EMBED, dimension=dimension
        )

    @property
    def model(self) -> ModelInfo:
        return self._model

    async def embed(self, texts: Sequence[str]) -> Vectors:
        rows: list[bytes] = []
        usage = Usage()
        for start in range(0, len(texts), self._batch_texts):
            batch = texts[start : start + self._batch_texts]
            found, used = await self._ask(batch)
            rows += found
            usage += used
        return Vectors(rows=rows, dimension=len(rows[0]) // 4, usage=usage)

    async def _ask(self, texts: Sequence[str]) -> tuple[list[bytes], Usage]:
        body: dict[str, Any] = {"model": self._remote_model, "input": list(texts), "encoding_format": "base64"}
        if self._dimension:
            body["dimensions"] = self._dimension
        async with self._client.post("/embeddings", body) as response:
            answer = await _json(response)
        try:
            items: list[dict[str, Any]] = sorted(answer["data"], key=lambda item: item["index"])
            rows = [_normalised(item["embedding"]) for item in items]
        except (KeyError, TypeError, ValueError) as error:
            raise ProviderFailure("the answer holds no vectors") from error
        if len(rows) != len(texts) or len({len(row) for row in rows}) != 1:
            raise ProviderFailure("the answer holds another number of vectors than texts")
        used: dict[str, Any] = answer.get("usage") or {}
        tokens = int(used.get("prompt_tokens") or 0)
        return rows, Usage(input_tokens=tokens, provider_calls=1)


async def _json(response: aiohttp.ClientResponse) -> dict[str, Any]:
    try:
        return orjson.loads(await response.read())
    except orjson.JSONDecodeError as error:
        raise ProviderFailure("the answer is no JSON") from error


def _normalised(embedding: str | list[float]) -> bytes:
    """Endpoints that do not know base64 answer with numbers. Raises `ValueError` for what is no vector."""
    vector = array.array("f")
    if isinstance(embedding, str):
        vector.frombytes(base64.b64decode(embedding))
        if sys.byteorder == "big":
            vector.byteswap()
    else:
        vector.extend(embedding)
    norm = math.sqrt(sum(value * value for value in vector))
    if not math.isfinite(norm) or norm == 0:
        raise ValueError("the vector has no direction")
    scaled = array.array("f", (value / norm for value in vector))
    if sys.byteorder == "big":
        scaled.byteswap()
    return scaled.tobytes()
