"""When intents that an outage has put off may go at once: with the first success after it, and not too often.

An outage is a batch of answers in which nothing was available, or a stream that broke. What
fails alone among successes waits for its backoff, however often others succeed.
"""

from collections.abc import Sequence

from services.extractor.domain.outbox import Acknowledgement, Outcome
from services.shared.errors import Code

_CALM_SECONDS = 5.0
"""Between the end of one recovery and the beginning of the next one."""


class Recovery:
    """Begins in an outage: what the processes before this one have met is not known. Times are monotonic."""

    def __init__(self) -> None:
        self._outage = True
        self._calm_until = float("-inf")

    def interrupted(self) -> None:
        self._outage = True

    def begins(self, answers: Sequence[Acknowledgement], *, now: float) -> bool:
        """Whether intents that were put off may go now."""
        if answers and all(is_away(each) for each in answers):
            self._outage = True
            return False
        succeeded = any(each.outcome is Outcome.APPLIED for each in answers)
        return succeeded and self._outage and now >= self._calm_until

    def ended(self, *, now: float) -> None:
        """Nothing more is put off."""
        self._outage = False
        self._calm_until = now + _CALM_SECONDS


def is_away(answer: Acknowledgement) -> bool:
    """Whether it is not the intent that failed, but something that it needs and that comes back."""
    failure = answer.failure
    return answer.outcome is Outcome.RETRY and failure is not None and failure.code is Code.UNAVAILABLE
