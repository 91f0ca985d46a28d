"""The pause between two attempts, or the decision that there is no next one."""

import asyncio
import random

import structlog

from services.llm_gateway.application.admission import Admission
from services.llm_gateway.domain.errors import ProviderFailure
from services.shared.clock import Clock
from services.shared.retry import Backoff, RetryBudget

logger = structlog.stdlib.get_logger(__name__)


class Retries:
    """One per process: all calls share the budget. A `Retry-After` comes on top of the jitter and shuts the gate."""

    def __init__(
        self, *, max_attempts: int, backoff: Backoff, budget: RetryBudget, clock: Clock, rng: random.Random
    ) -> None:
        self.max_attempts = max_attempts
        self._backoff = backoff
        self._budget = budget
        self._clock = clock
        self._rng = rng

    def begin(self) -> None:
        """Called once per request, before its first attempt."""
        self._budget.note_attempt()

    async def pause(
        self, failure: ProviderFailure, *, attempt: int, admission: Admission, provider: str, deadline: float | None
    ) -> None:
        """Waits after failed attempt number `attempt`. Raises `ProviderUnavailable` when it was the last one."""
        delay = self._backoff.delay(attempt, rng=self._rng)
        if failure.retry_after is not None:
            admission.shut_gate(failure.retry_after)
            delay += failure.retry_after
        seconds = delay.total_seconds()
        fields = {"provider": provider, "attempt": attempt, "status": failure.status, "problem": failure.explanation}
        in_time = deadline is None or self._clock.monotonic() + seconds < deadline
        if attempt >= self.max_attempts or not in_time or not self._budget.spend():
            logger.warning("provider_failed", **fields)
            raise failure.unavailable(provider, attempts=attempt) from failure
        logger.info("provider_retry", **fields, delay_seconds=round(seconds, 3))
        await asyncio.sleep(seconds)
