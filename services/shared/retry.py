"""The one retry policy: exponential backoff with full jitter, bounded by attempts, a deadline and a budget.

Full jitter (a uniform draw below the exponential ceiling) spreads a crowd of clients
best. The budget keeps a failing dependency from being hit by more than a tenth of extra
load: every first attempt earns a share of a retry, every retry spends a whole one.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

from services.shared import deadlines
from services.shared.errors import RemoteError, Unavailable

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """`delay(1)` follows the first failure. The ceiling doubles from `initial` up to `maximum`."""

    initial: timedelta = timedelta(milliseconds=100)
    maximum: timedelta = timedelta(seconds=10)
    multiplier: float = 2.0

    def ceiling(self, failures: int) -> timedelta:
        # The exponent is bounded, for a loop may fail for days.
        grown = self.initial.total_seconds() * self.multiplier ** min(failures - 1, 64)
        return timedelta(seconds=min(grown, self.maximum.total_seconds()))

    def delay(self, failures: int, *, rng: random.Random) -> timedelta:
        return self.ceiling(failures) * rng.random()


@dataclass(slots=True, kw_only=True)
class RetryBudget:
    """Shared by all calls to one dependency; starts full."""

    ratio: float = 0.1
    capacity: float = 10.0
    _tokens: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self._tokens = self.capacity

    def note_attempt(self) -> None:
        self._tokens = min(self.capacity, self._tokens + self.ratio)

    def spend(self) -> bool:
        """Takes a retry out of the budget; False when there is none left."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def is_transient(error: Exception) -> bool:
    """The default test: outages, and answers of peers that may differ next time."""
    return isinstance(error, Unavailable | ConnectionError | TimeoutError) or (
        isinstance(error, RemoteError) and error.transient
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Runs idempotent work again while it fails transiently.

    Gives up with the last error when the attempts or the budget are spent, or when the
    delay would outlast the current deadline. A `retry_delay` of the error is a floor.
    """

    attempts: int = 4
    backoff: Backoff = field(default_factory=Backoff)
    budget: RetryBudget | None = None
    transient: Callable[[Exception], bool] = is_transient
    rng: random.Random = field(default_factory=random.Random)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        if self.budget is not None:
            self.budget.note_attempt()
        while True:
            try:
                return await work()
            except Exception as error:
                failures += 1
                delay = self._next_delay(error, failures)
                if delay is None:
                    raise
            await asyncio.sleep(delay.total_seconds())

    def _next_delay(self, error: Exception, failures: int) -> timedelta | None:
        """None: do not try again."""
        if failures >= self.attempts or not self.transient(error):
            return None
        floor: timedelta = getattr(error, "retry_delay", None) or timedelta()
        delay = max(self.backoff.delay(failures, rng=self.rng), floor)
        left = deadlines.remaining()
        if left is not None and left <= delay.total_seconds():
            return None
        if self.budget is not None and not self.budget.spend():
            return None
        return delay
