"""What a handler may raise.

Fail          the job ends as FAILED, whatever attempts are left
Retry         this attempt failed; another follows after `delay`, or the type's backoff
Snooze        no failure: the job goes back and costs no attempt
LeaseIsLost   raised to a handler that writes for a job it no longer holds; let it through
"""

from datetime import datetime, timedelta
from typing import Any

from services.shared.errors import Reason


class Fail(Exception):
    """`message` is one sentence for a person; it is stored and shown to clients."""

    def __init__(self, message: str, *, reason: Reason = Reason.UNSPECIFIED) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class Retry(Exception):
    """`gate_until` holds back every job with the same `limit_key`, for `Retry-After`."""

    def __init__(
        self,
        message: str,
        *,
        reason: Reason = Reason.UNSPECIFIED,
        delay: timedelta | None = None,
        gate_until: datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.delay = delay
        self.gate_until = gate_until


class Snooze(Exception):
    def __init__(self, delay: timedelta, *, checkpoint: Any = None) -> None:
        super().__init__(f"snoozed for {delay}")
        self.delay = delay
        self.checkpoint = checkpoint


class LeaseIsLost(Exception):
    pass
