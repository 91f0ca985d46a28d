"""`ConsistencyService`."""

# ruff: noqa: N802, ARG002 - methods and parameters are named by gRPC

from collections.abc import AsyncIterator
from uuid import UUID

from scristill.extractor.v1 import consistency_service_pb2 as pb
from scristill.extractor.v1.consistency_service_pb2_grpc import ConsistencyServiceServicer

from services.extractor.application.extractions import OutboxControl
from services.extractor.entrypoints import extraction_mapping as mapping
from services.shared.clock import Clock
from services.shared.errors import NotFound, Unimplemented
from services.shared.grpc.errors import to_item_failure
from services.shared.grpc.interceptors.base import Context
from services.shared.paging import page_size


class ConsistencyServicer(ConsistencyServiceServicer):
    def __init__(self, *, outbox: OutboxControl, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock

    async def Reconcile(self, request: pb.ReconcileRequest, context: Context) -> AsyncIterator[pb.ReconcileResponse]:
        raise Unimplemented.of("/scristill.extractor.v1.ConsistencyService/Reconcile")
        yield pb.ReconcileResponse()

    async def GetConsistency(self, request: pb.GetConsistencyRequest, context: Context) -> pb.GetConsistencyResponse:
        counts = await self._outbox.consistency(_optional(request.project_id))
        return mapping.from_consistency(counts, now=self._clock.now())

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        arguments: dict[str, object] = {"project": request.project_id}
        limit = page_size(request.page_size)
        letters = await self._outbox.dead_letters(
            project_id=_optional(request.project_id),
            after=mapping.decode_moment(request.page_token, arguments=arguments),
            limit=limit,
        )
        token = ""
        if len(letters) == limit:
            token = mapping.encode_moment(letters[-1].fail_time, letters[-1].key, arguments=arguments)
        return pb.ListDeadLettersResponse(
            dead_letters=[mapping.from_dead_letter(letter) for letter in letters], next_page_token=token
        )

    async def ReplayDeadLetters(
        self, request: pb.ReplayDeadLettersRequest, context: Context
    ) -> pb.ReplayDeadLettersResponse:
        waiting = await self._outbox.replay([UUID(fact_id) for fact_id in request.fact_ids])
        return pb.ReplayDeadLettersResponse(
            results=[
                pb.ReplayResult(
                    fact_id=fact_id,
                    failure=None if UUID(fact_id) in waiting else to_item_failure(NotFound.of("dead letter", fact_id)),
                )
                for fact_id in request.fact_ids
            ]
        )


def _optional(text: str) -> UUID | None:
    return UUID(text) if text else None
