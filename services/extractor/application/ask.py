"""Asking the model about one chunk, with patience but not for ever.

The number of calls under way is bounded over all jobs of the process. A model that is
busy is waited for; one that is away is asked again for a while, with the same call id,
so that an answer that was paid for is found rather than bought again.
"""

import asyncio
import random
from datetime import timedelta

import structlog

from services.extractor.application.ports import Model, ModelAnswer, ModelRequest
from services.extractor.domain.peers import is_final
from services.shared.clock import Clock
from services.shared.errors import Code, Reason, RemoteError
from services.shared.retry import Backoff

logger = structlog.stdlib.get_logger(__name__)


class ChunkFailed(Exception):
    """The model gave no answer. `final` when asking again cannot help."""

    def __init__(self, *, reason: Reason, message: str, final: bool) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.final = final


class AskModel:
    def __init__(
        self,
        model: Model,
        *,
        concurrency: int,
        patience: timedelta,
        clock: Clock,
        rng: random.Random,
        backoff: Backoff | None = None,
    ) -> None:
        self._model = model
        self._slots = asyncio.Semaphore(concurrency)
        self._patience = patience.total_seconds()
        self._clock = clock
        self._rng = rng
        self._backoff = backoff or Backoff(initial=timedelta(milliseconds=250), maximum=timedelta(seconds=10))

    async def __call__(self, request: ModelRequest) -> ModelAnswer:
        """Raises `ChunkFailed`."""
        async with self._slots:
            return await self._persist(request)

    async def _persist(self, request: ModelRequest) -> ModelAnswer:
        give_up = self._clock.monotonic() + self._patience
        failures = 0
        while True:
            try:
                return await self._model.ask(request)
            except RemoteError as error:
                if is_final(error):
                    raise ChunkFailed(reason=error.reason, message=error.message, final=True) from error
                failures += 1
                delay = max(self._backoff.delay(failures, rng=self._rng), error.retry_delay or timedelta())
                if error.code is Code.RESOURCE_EXHAUSTED:
                    give_up += delay.total_seconds()
                if self._clock.monotonic() + delay.total_seconds() > give_up:
                    raise ChunkFailed(reason=error.reason, message=error.message, final=False) from error
                logger.debug("model_call_repeated", call_id=str(request.call_id), failures=failures, error=str(error))
            await asyncio.sleep(delay.total_seconds())
