"""The way in for intents: slices of all streams are gathered into batches and applied.

A slice is a handful of intents of one caller that arrived together; gathering slices
instead of single intents keeps the cost per intent low, and their order within a
caller.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from types import TracebackType
from typing import Self

import structlog

from services.indexer.application.metrics import IntakeMetrics
from services.indexer.domain.fact import Intent
from services.indexer.domain.outcome import Ack, retry
from services.shared.batching import Batcher
from services.shared.errors import InternalFault

logger = structlog.stdlib.get_logger(__name__)

SLICE = 64

Apply = Callable[[Sequence[Intent]], Awaitable[list[Ack]]]

_RETRY_AFTER_FAULT = timedelta(seconds=5)


class Intake(AbstractAsyncContextManager["Intake"]):
    def __init__(
        self,
        apply: Apply,
        *,
        metrics: IntakeMetrics,
        batch_size: int,
        linger: timedelta,
        concurrency: int,
        max_pending: int,
    ) -> None:
        self._apply = apply
        self._metrics = metrics
        self._batcher = Batcher[Sequence[Intent], list[Ack]](
            self._run,
            name="intents",
            max_weight=batch_size,
            linger=linger,
            concurrency=concurrency,
            max_pending=max_pending,
            weigh=len,
        )

    async def __aenter__(self) -> Self:
        await self._batcher.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self._batcher.__aexit__(exc_type, exc_val, exc_tb)

    async def submit(self, intents: Sequence[Intent]) -> list[Ack]:
        """Acknowledgements in the same order, once all of the slice are decided. At most `SLICE` intents."""
        return await self._batcher.submit(intents)

    async def _run(self, slices: Sequence[Sequence[Intent]]) -> list[list[Ack]]:
        intents = [intent for each in slices for intent in each]
        started = time.perf_counter()
        acks = iter(await self._apply_or_retry(intents))
        self._metrics.batch(size=len(intents), seconds=time.perf_counter() - started)
        return [[next(acks) for _ in each] for each in slices]

    async def _apply_or_retry(self, intents: Sequence[Intent]) -> list[Ack]:
        try:
            acks = await self._apply(intents)
        except Exception:
            # A fault of ours must not look like an outcome: what was written is not known.
            incident_id = uuid.uuid4().hex
            logger.exception("batch_fault", incident_id=incident_id, intents=len(intents))
            fault = InternalFault(
                "internal error, see the server's log",
                metadata={"incident_id": incident_id},
                retry_delay=_RETRY_AFTER_FAULT,
            )
            acks = [retry(intent, fault) for intent in intents]
        for ack in acks:
            self._metrics.acknowledged(ack.outcome.value)
        return acks
