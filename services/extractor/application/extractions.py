"""Queries on facts and entities, and on what waits to be indexed."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from uuid import UUID

from services.extractor.application.ports import UnitOfWork, Wake
from services.extractor.application.tokens import issue_token
from services.extractor.domain.extraction import (
    Consistency,
    Entity,
    EntityFilter,
    EntityPosition,
    Extraction,
    ExtractionFilter,
    ExtractionPosition,
)
from services.extractor.domain.outbox import DeadLetter, Topic
from services.shared.errors import NotFound
from services.shared.telemetry.tracing import current_traceparent

_STREAM_BATCH = 200


class ExtractionQueries:
    def __init__(self, *, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def get(self, extraction_id: UUID) -> Extraction:
        async with self._unit_of_work() as repositories:
            extraction = await repositories.extractions.get(extraction_id)
        if extraction is None:
            raise NotFound.of("extraction", extraction_id)
        return extraction

    async def page(
        self, project_id: UUID, wanted: ExtractionFilter, *, after: ExtractionPosition | None, limit: int
    ) -> Sequence[Extraction]:
        """By source and position."""
        async with self._unit_of_work() as repositories:
            return await repositories.extractions.page(project_id, wanted, after=after, limit=limit)

    async def stream(
        self, project_id: UUID, wanted: ExtractionFilter, *, after: ExtractionPosition | None
    ) -> AsyncGenerator[Sequence[Extraction]]:
        """All facts that match, a batch at a time. No transaction stays open between two batches."""
        while batch := await self.page(project_id, wanted, after=after, limit=_STREAM_BATCH):
            yield batch
            if len(batch) < _STREAM_BATCH:
                return
            after = position_of(batch[-1])

    async def entities(
        self, project_id: UUID, wanted: EntityFilter, *, after: EntityPosition | None, limit: int
    ) -> Sequence[Entity]:
        """Most mentioned first."""
        async with self._unit_of_work() as repositories:
            return await repositories.extractions.entities(project_id, wanted, after=after, limit=limit)


class OutboxControl:
    """What an operator sees of the outbox and may do about it."""

    def __init__(self, *, unit_of_work: UnitOfWork, wake: Wake) -> None:
        self._unit_of_work = unit_of_work
        self._wake = wake

    async def consistency(self, project_id: UUID | None) -> tuple[Consistency, str]:
        """Counts of one project, with a token for what was counted; or of all, without."""
        async with self._unit_of_work() as repositories:
            counts = await repositories.extractions.consistency(project_id)
            token = await issue_token(repositories.markers, project_id) if project_id else ""
        if token:
            self._wake(Topic.FACT)
        return counts, token

    async def dead_letters(
        self, *, project_id: UUID | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> Sequence[DeadLetter]:
        """Newest first."""
        async with self._unit_of_work() as repositories:
            return await repositories.outbox.dead_letters(project_id=project_id, after=after, limit=limit)

    async def replay(self, keys: Sequence[UUID]) -> set[UUID]:
        """Puts dead letters back, as the facts are now. Returns the keys that wait in the outbox afterwards."""
        async with self._unit_of_work() as repositories:
            waiting = await repositories.outbox.replay(keys, traceparent=current_traceparent())
        self._wake(Topic.FACT)
        self._wake(Topic.JOB)
        return waiting


def position_of(extraction: Extraction) -> ExtractionPosition:
    return ExtractionPosition(
        source_id=extraction.source_id, start=extraction.start, extraction_id=extraction.extraction_id
    )
