"""The guards of the scheduler, each of which some check must miss when it is taken away.

Those of the domain are found in its source by `mutants.questions`; a guard that is new
there and not listed here fails a test. Those of the SQL are conditions in the text of the
statements that run in production.
"""

from dataclasses import dataclass
from types import ModuleType

from services.scheduler.adapters.postgres import cancelling, claiming, control, creation, leasing, limiting, ready
from tests.model.scheduler.mutants import Effect, Guard

LIFECYCLE_GUARDS = (
    Guard("lease", "is_waiting"),
    Guard("lease", "is_due"),
    Guard("require_held", "is_held"),
    Guard("require_held", "token_matches"),
    Guard("renew", "is_held"),
    Guard("renew", "token_matches"),
    Guard("renew", "wants_to_end", passes=False),
    Guard("complete", "was_answered", passes=False),
    Guard("fail", "was_answered", passes=False),
    Guard("fail", "attempts_left"),
    Guard("fail", "deadline_allows"),
    Guard("release", "was_answered", passes=False),
    Guard("expire", "lease_has_run_out"),
    Guard("expire", "deadline_allows"),
    Guard("expire", "stalls_left"),
    Guard("cancel", "is_waiting"),
    Guard("cancel", "is_held"),
    Guard("cancel", "wants_to_end", passes=False),
    Guard("retry", "is_revivable"),
    Guard("_requeued", "wants_to_end", passes=False),
)

LIFECYCLE_EFFECTS = (
    Effect("lease", "fencing_token"),
    Effect("lease", "attempt"),
    Effect("lease", "lease_end"),
    Effect("lease", "deadline_time"),
    Effect("lease", "lease_expire_time"),
    Effect("renew", "lease_expire_time"),
    Effect("complete", "lease_end"),
    Effect("fail", "lease_end"),
    Effect("release", "attempt"),
    Effect("release", "lease_end"),
    Effect("expire", "attempt"),
    Effect("expire", "stall_count"),
    Effect("cancel", "cancel_requested"),
    Effect("retry", "attempt"),
    Effect("retry", "stall_count"),
    Effect("retry", "cancel_requested"),
    Effect("retry", "deadline_time"),
    Effect("_requeued", "schedule_time"),
    Effect("_requeued", "lease_expire_time"),
    Effect("_ended", "lease_expire_time"),
    Effect("_ended", "end_time"),
)

LIMIT_GUARDS = (
    Guard("judge", "is_gated", passes=False),
    Guard("judge", "is_at_cap", passes=False),
    Guard("judge", "is_over_rate", passes=False),
)


@dataclass(frozen=True, slots=True)
class SqlGuard:
    """`condition` occurs in the statement once; `without` stands in its place when it is removed."""

    module: ModuleType
    statement: str
    condition: str
    without: str = ""

    def __str__(self) -> str:
        return f"{self.statement}: {' '.join(self.condition.split())}"

    def removed(self) -> str:
        text: str = getattr(self.module, self.statement)
        if text.count(self.condition) != 1:
            raise LookupError(f"{self} occurs {text.count(self.condition)} times")
        return text.replace(self.condition, self.without)


_STATE = " AND j.state = 2"
_ONCE = "ON CONFLICT (job_id) DO NOTHING"
_AGAIN = "ON CONFLICT (job_id) DO UPDATE SET attempt = 0"
_TOKEN = " AND j.fencing_token = i.fencing_token"

SQL_GUARDS = (
    SqlGuard(claiming, "CLAIM", "j.state = 1 AND "),
    SqlGuard(claiming, "CLAIM", " AND j.schedule_time <= now()"),
    SqlGuard(claiming, "CLAIM", "AND NOT EXISTS (SELECT FROM scheduler.paused_types p WHERE p.type = j.type)"),
    SqlGuard(claiming, "CLAIM", "fencing_token = j.fencing_token + 1", "fencing_token = j.fencing_token"),
    SqlGuard(claiming, "CLAIM", "lease_end = 0", "lease_end = j.lease_end"),
    SqlGuard(leasing, "RENEW", _STATE),
    SqlGuard(leasing, "RENEW", _TOKEN),
    SqlGuard(leasing, "RENEW", ", j.deadline_time)", ")"),
    SqlGuard(leasing, "COMPLETE", _STATE),
    SqlGuard(leasing, "COMPLETE", _TOKEN),
    SqlGuard(leasing, "EXPECT_BACK", _STATE),
    SqlGuard(leasing, "EXPECT_BACK", _TOKEN),
    SqlGuard(leasing, "EXPECT_BACK", "least(j.lease_expire_time, now() + $3::interval)", "now() + $3::interval"),
    SqlGuard(leasing, "FAIL", "j.state = 2 AND "),
    SqlGuard(leasing, "FAIL", _TOKEN),
    SqlGuard(leasing, "FAIL", "attempt >= max_attempts OR "),
    SqlGuard(leasing, "FAIL", " OR now() + make_interval(secs => delay_seconds) >= deadline_time"),
    SqlGuard(leasing, "FAIL", "WHEN cancel_requested THEN 5"),
    SqlGuard(leasing, "RELEASE", "j.state = 2 AND "),
    SqlGuard(leasing, "RELEASE", _TOKEN),
    SqlGuard(leasing, "RELEASE", "CASE WHEN cancel_requested THEN 5 ELSE 1 END", "1"),
    SqlGuard(leasing, "RELEASE", "(attempt - 1)", "attempt"),
    SqlGuard(leasing, "EXPIRE", "j.lease_expire_time < now()", "j.lease_expire_time IS NOT NULL"),
    SqlGuard(leasing, "EXPIRE", "WHEN deadline_time <= now() THEN 12 "),
    SqlGuard(leasing, "EXPIRE", " WHEN stall_count + 1 >= max_stalls THEN 30"),
    SqlGuard(leasing, "EXPIRE", " WHEN cancel_requested THEN 5"),
    SqlGuard(leasing, "EXPIRE", "(attempt - 1)", "attempt"),
    SqlGuard(leasing, "EXPIRE", "(stall_count + 1)", "stall_count"),
    SqlGuard(cancelling, "CANCEL", " AND NOT j.cancel_requested"),
    SqlGuard(cancelling, "CANCEL", "CASE state WHEN 1 THEN 5 ELSE 2 END", "5"),
    SqlGuard(control, "RETRY", " AND e.state IN (4, 5, 6)"),
    SqlGuard(creation, "INSERT", "ON CONFLICT (job_id) DO NOTHING", "ON CONFLICT (job_id) DO UPDATE SET attempt = 0"),
    SqlGuard(
        creation, "INSERT_LEASED", "ON CONFLICT (job_id) DO NOTHING", "ON CONFLICT (job_id) DO UPDATE SET attempt = 0"
    ),
    SqlGuard(
        creation, "INSERT_LEASED", "WHERE NOT EXISTS (SELECT FROM scheduler.paused_types p WHERE p.type = s.type)"
    ),
    SqlGuard(creation, "LOCK_PARENT", " AND fencing_token = $2", " AND $2::bigint > 0"),
    SqlGuard(creation, "LOCK_PARENT", " AND state = 2"),
    SqlGuard(creation, "KNOWN", "scheduler.ended_jobs WHERE job_id", "scheduler.ended_jobs WHERE false AND job_id"),
    SqlGuard(ready, "PROMOTE", " AND schedule_time <= now()"),
    SqlGuard(ready, "PROMOTE", " AND lease_expire_time IS NULL"),
    SqlGuard(limiting, "SPEND", "tokens = s.tokens", "tokens = k.tokens"),
    SqlGuard(limiting, "SHUT", "greatest(k.gate_until_time, excluded.gate_until_time)", "excluded.gate_until_time"),
)
