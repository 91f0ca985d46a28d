"""Sees soon that the index was wiped or has gone back to an older copy.

Neither announces itself, and both look like an index in good health. But such an index
lacks what it acknowledged last; that is read again now and then, and before anything is
said that depends on it.
"""

from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from services.extractor.application.ports import IndexAudit, UnitOfWork
from services.extractor.domain.outbox import Witness
from services.extractor.domain.reconciliation import bucket_of
from services.shared.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

_SERVING = 0


class IndexWatch:
    """`on_loss` is called when a comparison has become due."""

    def __init__(
        self, *, unit_of_work: UnitOfWork, index: IndexAudit, on_loss: Callable[[], None], metrics: Metrics
    ) -> None:
        self._unit_of_work = unit_of_work
        self._index = index
        self._on_loss = on_loss
        self._losses = metrics.counter(
            "scristill_extractor_index_losses_total", "Times that the index had lost what it had acknowledged."
        )

    async def __call__(self) -> bool:
        """Whether the index holds what it acknowledged last. Raises `RemoteError` when it does not answer."""
        async with self._unit_of_work() as repositories:
            witnesses = await repositories.witnesses.all()
        held = await self._held(witnesses)
        lost = [each for each in witnesses if held.get(each.fact_id, 0) < each.version]
        if not lost:
            if len(witnesses) > 1:
                async with self._unit_of_work() as repositories:
                    await repositories.witnesses.release(witnesses)
            return True
        async with self._unit_of_work() as repositories:
            await repositories.witnesses.disprove()
        self._losses.inc()
        logger.error("index_lost_what_it_acknowledged", lost_count=len(lost), witness_count=len(witnesses))
        self._on_loss()
        return False

    async def _held(self, witnesses: Sequence[Witness]) -> dict[UUID, int]:
        """Versions of the facts that the index has, tombstones included."""
        wanted = {each.fact_id for each in witnesses}
        held: dict[UUID, int] = {}
        if wanted:
            buckets = sorted({bucket_of(each) for each in wanted})
            async for points in self._index.points(epoch=_SERVING, buckets=buckets):
                held |= {point.fact_id: point.version for point in points if point.fact_id in wanted}
        return held
