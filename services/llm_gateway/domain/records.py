"""What is kept of calls after they have ended: usage by hour, and dead letters."""

from dataclasses import dataclass
from datetime import datetime

from services.llm_gateway.domain.calls import GenerateCall, Usage
from services.shared.errors import Reason

MAX_KEPT_OUTPUT = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """What one project has used of one model."""

    project_id: str
    model: str
    requests: int
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedCall:
    """One attempt that failed. `output` is what had come until then, cut to `MAX_KEPT_OUTPUT` characters."""

    provider: str
    model: str
    reason: Reason
    message: str
    provider_status: int
    output: str
    fail_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A call that failed for good, whole, so that it can be sent again."""

    call: GenerateCall
    attempts: tuple[FailedCall, ...]
    reason: Reason
    fail_time: datetime
    usage: Usage
