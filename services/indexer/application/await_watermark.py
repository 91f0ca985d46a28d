"""Waits until the index has applied what a consistency token stands for."""

import asyncio

from services.indexer.application.ports import FactStore
from services.indexer.domain.consistency import Watermark
from services.indexer.domain.epochs import Epoch
from services.indexer.domain.identity import embedding_id
from services.shared.errors import DeadlineUnreachable

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.05


class AwaitWatermark:
    """Asks the store, because any replica may have applied it; the pauses grow from 5 to 50 ms."""

    def __init__(self, facts: FactStore) -> None:
        self._facts = facts

    async def __call__(self, epoch: Epoch, watermark: Watermark, *, seconds: float) -> None:
        """Raises `DeadlineUnreachable` when the time is up."""
        try:
            async with asyncio.timeout(seconds):
                await self._until_reached(epoch, watermark)
        except TimeoutError as error:
            raise DeadlineUnreachable(
                "the index has not applied the consistency token before the deadline",
                metadata={"marker": watermark.marker, "version": watermark.version},
            ) from error

    async def _until_reached(self, epoch: Epoch, watermark: Watermark) -> None:
        point = embedding_id(epoch.number, watermark.marker)
        pause = _FIRST_PAUSE
        while not watermark.reached((await self._facts.states(epoch, [point])).get(point)):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
