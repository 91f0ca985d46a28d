"""The side of the model provider: an `Embed` server whose vectors follow from the words of the text."""

# ruff: noqa: N802 - methods are named by gRPC

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio
from scristill.errors.v1 import error_reason_pb2
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import llm_gateway_service_pb2_grpc as pb_grpc

from services.shared.grpc.options import server_options

DIMENSION = 32


@dataclass(slots=True, kw_only=True)
class ScriptedModels(pb_grpc.LlmGatewayServiceServicer):
    """Texts that share words are near each other. `refuse` names texts that no model takes, or one as `model:text`."""

    dimensions: dict[str, int] = field(default_factory=lambda: {"hash-1": DIMENSION, "hash-2": DIMENSION})
    default: str = "hash-1"
    requests: list[pb.EmbedRequest] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)
    down: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    vector_of: Callable[[str, str, int], list[float]] | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    @property
    def texts(self) -> list[str]:
        return [text for request in self.requests for text in request.texts]

    async def Embed(self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext) -> pb.EmbedResponse:
        self.requests.append(request)
        await self.gate.wait()
        if self.down:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no model answers")
        model = request.model or self.default
        if model not in self.dimensions:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
        response = pb.EmbedResponse(model=model, dimension=self.dimensions[model])
        make = self.vector_of or hash_vector
        for text in request.texts:
            if {text, f"{model}:{text}"} & self.refuse:
                failure = response.embeddings.add().failure
                failure.code = grpc.StatusCode.FAILED_PRECONDITION.value[0]
                failure.reason = error_reason_pb2.ERROR_REASON_PROVIDER_REFUSED
            else:
                response.embeddings.add(values=make(model, text, response.dimension))
        return response


def hash_vector(model: str, text: str, dimension: int) -> list[float]:
    values = [0.0] * dimension
    for word in re.findall(r"\w+", text.lower()):
        digest = hashlib.sha256(f"{model}:{word}".encode()).digest()
        values[digest[0] % dimension] += 1.0
        values[digest[1] % dimension] -= 0.5
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    return [value / norm for value in values]


@asynccontextmanager
async def serving(models: ScriptedModels) -> AsyncIterator[int]:
    server = grpc.aio.server(options=server_options(share_port=False, max_connection_age_seconds=0.0))
    pb_grpc.add_LlmGatewayServiceServicer_to_server(models, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)
