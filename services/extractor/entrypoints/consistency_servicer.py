"""`ConsistencyService`."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import UUID

from scristill.extractor.v1 import consistency_service_pb2 as pb
from scristill.extractor.v1.consistency_service_pb2_grpc import ConsistencyServiceServicer

from services.extractor.application.extractions import OutboxControl
from services.extractor.application.follow import FollowRun
from services.extractor.domain.reconciliation import RunRequest
from services.extractor.entrypoints import consistency_mapping as mapping
from services.extractor.entrypoints.extraction_mapping import decode_moment, encode_moment
from services.extractor.entrypoints.reconciliation_loop import ReconciliationLoop
from services.shared.clock import Clock
from services.shared.errors import NotFound
from services.shared.grpc.errors import to_item_failure
from services.shared.grpc.interceptors.base import Context
from services.shared.paging import page_size


class ConsistencyServicer(ConsistencyServiceServicer):
    def __init__(
        self, *, outbox: OutboxControl, reconciliation: ReconciliationLoop, follow: FollowRun, clock: Clock
    ) -> None:
        self._outbox = outbox
        self._reconciliation = reconciliation
        self._follow = follow
        self._clock = clock

    async def Reconcile(self, request: pb.ReconcileRequest, context: Context) -> AsyncIterator[pb.ReconcileResponse]:
        wanted = RunRequest(epoch=request.epoch, dry_run=request.dry_run, pace=request.max_points_per_second)
        run, attached = await self._reconciliation.begin(wanted)
        yield pb.ReconcileResponse(opened=pb.ReconcileOpened(run_id=str(run.run_id), attached=attached))
        shown = pb.ReconcileProgress()
        async with aclosing(self._follow(run.run_id)) as sights:
            async for sight in sights:
                if sight.drifts:
                    yield pb.ReconcileResponse(drift=mapping.from_drifts(sight.drifts))
                progress = mapping.from_progress(sight.run)
                if progress != shown:
                    shown = progress
                    yield pb.ReconcileResponse(progress=progress)
                run = sight.run
        yield pb.ReconcileResponse(certificate=mapping.from_run(run))

    async def GetConsistency(self, request: pb.GetConsistencyRequest, context: Context) -> pb.GetConsistencyResponse:
        counts, token = await self._outbox.consistency(_optional(request.project_id))
        last = await self._follow.last()
        response = mapping.from_consistency(counts, token=token, now=self._clock.now())
        if last is not None:
            response.certificate.CopyFrom(mapping.from_run(last))
        return response

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        arguments: dict[str, object] = {"project": request.project_id}
        limit = page_size(request.page_size)
        letters = await self._outbox.dead_letters(
            project_id=_optional(request.project_id),
            after=decode_moment(request.page_token, arguments=arguments),
            limit=limit,
        )
        token = ""
        if len(letters) == limit:
            token = encode_moment(letters[-1].fail_time, letters[-1].key, arguments=arguments)
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
