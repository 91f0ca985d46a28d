"""`scristill.llm_gateway.v1.LlmGatewayService`."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta

from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import llm_gateway_service_pb2_grpc as pb_grpc

from services.llm_gateway.application.capacity import WatchCapacity
from services.llm_gateway.application.catalogue import Catalogue
from services.llm_gateway.application.dead_letters import DeadLetters
from services.llm_gateway.application.embed import Embed
from services.llm_gateway.application.generations import Generations
from services.llm_gateway.application.ports import UsageLedger
from services.llm_gateway.application.scopes import DeleteScopes
from services.llm_gateway.entrypoints import mapping
from services.shared import deadlines, paging
from services.shared.clock import Clock
from services.shared.errors import InvalidRequest
from services.shared.grpc.errors import to_item_failure
from services.shared.grpc.interceptors.base import Context
from services.shared.lifecycle import Drain

_USAGE_SPAN = timedelta(hours=24)
_LONGEST_USAGE_SPAN = timedelta(days=92)


class LlmGatewayServicer(pb_grpc.LlmGatewayServiceServicer):
    def __init__(
        self,
        *,
        generations: Generations,
        embed: Embed,
        catalogue: Catalogue,
        watch_capacity: WatchCapacity,
        ledger: UsageLedger,
        dead_letters: DeadLetters,
        delete_scopes: DeleteScopes,
        drain: Drain,
        clock: Clock,
    ) -> None:
        self._generations = generations
        self._embed = embed
        self._catalogue = catalogue
        self._watch_capacity = watch_capacity
        self._ledger = ledger
        self._dead_letters = dead_letters
        self._delete_scopes = delete_scopes
        self._drain = drain
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
        capacities = self._watch_capacity(model=request.model, operation=mapping.operation(request.operation))
        yield pb.WatchCapacityResponse(opened=pb.CapacityOpened())
        async for capacity in self._drain.guard(capacities):
            yield mapping.capacity(capacity)
        yield pb.WatchCapacityResponse(draining=pb.CapacityDraining())

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        end = mapping.moment(request.end_time) if request.HasField("end_time") else self._clock.now()
        start = mapping.moment(request.start_time) if request.HasField("start_time") else end - _USAGE_SPAN
        if start >= end:
            raise InvalidRequest.of("start_time", "must be before end_time")
        if end - start > _LONGEST_USAGE_SPAN:
            raise InvalidRequest.of("start_time", f"must be at most {_LONGEST_USAGE_SPAN.days} days before end_time")
        rows = await self._ledger.rows(project_id=request.project_id, start=start, end=end)
        return pb.GetUsageResponse(rows=[mapping.usage_row(row) for row in rows])

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        arguments = {"project_id": request.project_id}
        position = paging.decode_token(request.page_token, arguments=arguments)
        page = await self._dead_letters.page(
            project_id=request.project_id,
            size=paging.page_size(request.page_size),
            after=str(position["after"]) if position else "",
        )
        token = paging.encode_token({"after": page.next_position}, arguments=arguments) if page.next_position else ""
        return pb.ListDeadLettersResponse(
            dead_letters=[mapping.dead_letter(letter) for letter in page.letters], next_page_token=token
        )

    async def ReplayDeadLetters(
        self, request: pb.ReplayDeadLettersRequest, context: Context
    ) -> pb.ReplayDeadLettersResponse:
        outcomes = await self._dead_letters.replay(mapping.request_ids(request.request_ids))
        return pb.ReplayDeadLettersResponse(
            results=[
                pb.ReplayResult(request_id=request_id, failure=to_item_failure(failure) if failure else None)
                for request_id, failure in zip(request.request_ids, outcomes, strict=True)
            ]
        )

    async def DeleteDeadLetters(
        self, request: pb.DeleteDeadLettersRequest, context: Context
    ) -> pb.DeleteDeadLettersResponse:
        return pb.DeleteDeadLettersResponse(
            deleted_count=await self._dead_letters.delete(mapping.request_ids(request.request_ids))
        )

    async def DeleteCachedResults(
        self, request: pb.DeleteCachedResultsRequest, context: Context
    ) -> pb.DeleteCachedResultsResponse:
        deleted = await self._delete_scopes(request.scopes)
        return pb.DeleteCachedResultsResponse(results=[mapping.scope_deletion(each) for each in deleted])

    def _deadline(self) -> float | None:
        remaining = deadlines.remaining()
        return None if remaining is None else self._clock.monotonic() + remaining
