"""`scristill.llm_gateway.v1.LlmGatewayService`."""

# ruff: noqa: N802, ARG002 - methods and parameters are named by gRPC

from collections.abc import AsyncGenerator
from contextlib import aclosing

from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import llm_gateway_service_pb2_grpc as pb_grpc

from services.llm_gateway.application.catalogue import Catalogue
from services.llm_gateway.application.embed import Embed
from services.llm_gateway.application.generations import Generations
from services.llm_gateway.entrypoints import mapping
from services.shared import deadlines, paging
from services.shared.clock import Clock
from services.shared.errors import Unimplemented
from services.shared.grpc.interceptors.base import Context

_SERVICE = "/scristill.llm_gateway.v1.LlmGatewayService"


class LlmGatewayServicer(pb_grpc.LlmGatewayServiceServicer):
    def __init__(self, *, generations: Generations, embed: Embed, catalogue: Catalogue, clock: Clock) -> None:
        self._generations = generations
        self._embed = embed
        self._catalogue = catalogue
        self._clock = clock

    async def Generate(self, request: pb.GenerateRequest, context: Context) -> AsyncGenerator[pb.GenerateResponse]:
        attached = self._generations.attach(
            mapping.generate_call(request),
            after_seq=request.resume_after_seq,
            detach=request.detach,
            deadline=self._deadline(),
        )
        async with aclosing(attached) as batches:
            async for frames in batches:
                for frame in frames:
                    yield mapping.generate_response(frame)

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        embedded = await self._embed(
            project_id=request.project_id,
            model=request.model,
            texts=request.texts,
            priority=request.priority,
            deadline=self._deadline(),
        )
        return mapping.embed_response(embedded)

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        size = paging.page_size(request.page_size)
        position = paging.decode_token(request.page_token, arguments={})
        offers = self._catalogue.offers()
        start = int(position["offset"]) if position else 0
        more = start + size < len(offers)
        return pb.ListModelsResponse(
            models=[mapping.model(offer) for offer in offers[start : start + size]],
            next_page_token=paging.encode_token({"offset": start + size}, arguments={}) if more else "",
        )

    async def WatchCapacity(
        self, request: pb.WatchCapacityRequest, context: Context
    ) -> AsyncGenerator[pb.WatchCapacityResponse]:
        raise Unimplemented.of(f"{_SERVICE}/WatchCapacity")
        yield  # makes this a stream like the others

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        raise Unimplemented.of(f"{_SERVICE}/GetUsage")

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        raise Unimplemented.of(f"{_SERVICE}/ListDeadLetters")

    async def ReplayDeadLetters(
        self, request: pb.ReplayDeadLettersRequest, context: Context
    ) -> pb.ReplayDeadLettersResponse:
        raise Unimplemented.of(f"{_SERVICE}/ReplayDeadLetters")

    async def DeleteDeadLetters(
        self, request: pb.DeleteDeadLettersRequest, context: Context
    ) -> pb.DeleteDeadLettersResponse:
        raise Unimplemented.of(f"{_SERVICE}/DeleteDeadLetters")

    def _deadline(self) -> float | None:
        remaining = deadlines.remaining()
        return None if remaining is None else self._clock.monotonic() + remaining
