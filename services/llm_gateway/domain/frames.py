"""What a generation tells its callers, in order.

`Queued` while it waits, `Started` per attempt, `Delta`, `UsageReport`, and one of `Done`
or an error at the end. A later `Started` makes everything before it void, and `Delta.seq`
starts at 1 again.
"""

from dataclasses import dataclass
from datetime import timedelta

from services.llm_gateway.domain.calls import FinishReason, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    position: int
    predicted_wait: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    provider: str
    model: str
    attempt: int
    stored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    seq: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    finish_reason: FinishReason
    usage: Usage
    last_seq: int
    model: str
    repaired_output: str = ""


Frame = Queued | Started | Delta | UsageReport | Done
