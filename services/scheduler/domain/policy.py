"""How long a job of a type may be held, how often it is tried, and how long it waits in between."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

LEASE_PER_HEARTBEAT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TypePolicy:
    """The rules of one type of job.

    `lease_duration` is also the time after which a holder that no longer renews counts
    as stalled. Directives such as a cancel travel with heartbeats, so these are short also
    where leases are long. `total_deadline` runs from the first lease, over all attempts.
    """

    lease_duration: timedelta = timedelta(minutes=5)
    heartbeat_interval: timedelta = timedelta(seconds=15)
    total_deadline: timedelta | None = None
    max_attempts: int = 5
    max_stalls: int = 3
    backoff_base: timedelta = timedelta(seconds=1)
    backoff_cap: timedelta = timedelta(minutes=5)

    @property
    def heartbeat(self) -> timedelta:
        """How often a holder must renew: what is configured, but never less often than a third of the lease."""
        return min(self.heartbeat_interval, self.lease_duration / LEASE_PER_HEARTBEAT)

    def backoff(self, *, attempt: int, jitter: float) -> timedelta:
        """Wait after failed attempt number `attempt` (from 1): exponential, with full jitter in [0, 1)."""
        doubled = self.backoff_base.total_seconds() * 2.0 ** min(attempt - 1, 32)
        return timedelta(seconds=jitter * min(doubled, self.backoff_cap.total_seconds()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The policy of each type; types that are not named get the default one."""

    by_type: Mapping[str, TypePolicy]
    default: TypePolicy

    def of(self, job_type: str) -> TypePolicy:
        return self.by_type.get(job_type, self.default)

    @property
    def shortest_lease(self) -> timedelta:
        return min(policy.lease_duration for policy in (self.default, *self.by_type.values()))


DEFAULT_POLICIES: Mapping[str, TypePolicy] = {
    "scrape": TypePolicy(lease_duration=timedelta(minutes=2)),
    "extract": TypePolicy(lease_duration=timedelta(minutes=10)),
    "crawl": TypePolicy(lease_duration=timedelta(minutes=30)),
}
