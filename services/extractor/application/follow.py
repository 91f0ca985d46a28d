"""Following a reconciliation that runs on whichever replica: from what it has written down."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from uuid import UUID

from services.extractor.application.ports import UnitOfWork
from services.extractor.domain.reconciliation import RecordedDrift, Run, RunState
from services.shared.errors import NotFound, ServerDraining, Unavailable
from services.shared.lifecycle import Drain

_LOOK_SECONDS = 0.2
_DRIFTS_TOGETHER = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """One look at a run: drifts that are new since the last one, and how far it has come."""

    run: Run
    drifts: Sequence[RecordedDrift]


class FollowRun:
    def __init__(self, *, unit_of_work: UnitOfWork, drain: Drain) -> None:
        self._unit_of_work = unit_of_work
        self._drain = drain

    async def __call__(self, run_id: UUID) -> AsyncGenerator[Sight]:
        """Ends after the run has. Raises `Unavailable` for a run that failed."""
        seen = 0
        while True:
            async with self._unit_of_work() as repositories:
                run = await repositories.reconciliations.get(run_id)
                drifts = await repositories.reconciliations.drifts(run_id, after=seen, limit=_DRIFTS_TOGETHER)
            if run is None:
                raise NotFound.of("reconciliation", run_id)
            if drifts:
                seen = drifts[-1].number
            yield Sight(run=run, drifts=drifts)
            if len(drifts) == _DRIFTS_TOGETHER:
                continue
            if run.state is RunState.FAILED:
                raise Unavailable.of("indexer")
            if run.state is RunState.DONE:
                return
            if self._drain.started:
                raise ServerDraining
            await asyncio.sleep(_LOOK_SECONDS)

    async def last(self) -> Run | None:
        """The newest run that has ended well."""
        async with self._unit_of_work() as repositories:
            return await repositories.reconciliations.last()
