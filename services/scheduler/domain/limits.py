"""Limits of a key: how many of its jobs may run at once, how many may start per second, and its gate.

The caller holds the key for the length of the decision, so that the counts are exact
across replicas.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.scheduler.domain.ready_index import Entry

# How long a key at its cap rests here when no end of one of its jobs is noticed before.
CAPPED_RECHECK = timedelta(seconds=1)

_BURST_SHARE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyLimit:
    """`max_in_flight` and `max_per_second` 0 mean no limit. `tokens` is as of `refill_time`."""

    limit_key: str
    max_in_flight: int
    max_per_second: float
    tokens: float
    refill_time: datetime
    gate_until_time: datetime | None

    @property
    def burst(self) -> float:
        return max(1.0, self.max_per_second // _BURST_SHARE)

    @property
    def refill_rate(self) -> float:
        """Tokens per second: what is left of the rate after a full burst, so that no second exceeds it."""
        return self.max_per_second if self.burst == 1.0 else self.max_per_second - self.burst

    def available(self, now: datetime) -> float:
        elapsed = max(0.0, (now - self.refill_time).total_seconds())
        return min(self.burst, self.tokens + elapsed * self.refill_rate)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyShut:
    """No job with this key may be leased before `until`, or before one of them ends if `or_freed`."""

    limit_key: str
    until: datetime
    or_freed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    admitted: Sequence[Entry]
    refused: Sequence[Entry]
    shut: Sequence[KeyShut]


def admit(
    entries: Sequence[Entry], *, limits: Mapping[str, KeyLimit], running: Mapping[str, int], now: datetime
) -> Admission:
    """Admits jobs in order, as far as the limits of their keys allow."""
    admitted: list[Entry] = []
    refused: list[Entry] = []
    shut: dict[str, KeyShut] = {}
    started: Counter[str] = Counter()
    for entry in entries:
        key = entry.limit_key
        limit = limits.get(key)
        closed = shut.get(key) or (limit and judge(limit, running=running.get(key, 0), started=started[key], now=now))
        if closed:
            shut[key] = closed
            refused.append(entry)
        else:
            started[key] += 1
            admitted.append(entry)
    return Admission(admitted=admitted, refused=refused, shut=list(shut.values()))


def judge(limit: KeyLimit, *, running: int, started: int, now: datetime) -> KeyShut | None:
    """Why the next job of the key must wait; None when it need not. `started` are those of this decision."""
    if is_gated(limit, now):
        return KeyShut(limit_key=limit.limit_key, until=limit.gate_until_time or now)
    if is_at_cap(limit, running + started):
        return KeyShut(limit_key=limit.limit_key, until=now + CAPPED_RECHECK, or_freed=True)
    if is_over_rate(limit, started, now):
        missing = 1.0 + started - limit.available(now)
        return KeyShut(limit_key=limit.limit_key, until=now + timedelta(seconds=missing / limit.refill_rate))
    return None


def is_gated(limit: KeyLimit, now: datetime) -> bool:
    return limit.gate_until_time is not None and now < limit.gate_until_time


def is_at_cap(limit: KeyLimit, in_flight: int) -> bool:
    return 0 < limit.max_in_flight <= in_flight


def is_over_rate(limit: KeyLimit, started: int, now: datetime) -> bool:
    return limit.max_per_second > 0 and limit.available(now) < started + 1
