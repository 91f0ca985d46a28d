"""Claims of jobs that have a limit key, under the lock of that key's row.

The row is the one place where replicas meet: whoever holds it counts the running jobs
of the key, leases what fits and commits before anybody else may look. A gate is set in
the transaction that reports the failure, so that it is shut from that commit on.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from services.scheduler.adapters.postgres.session import Connection, Row
from services.scheduler.domain.limits import KeyLimit

_REMEMBERED_KEYS = 100_000

ENSURE = "INSERT INTO scheduler.key_limits (limit_key) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING"

HOLD = """
SELECT limit_key, max_in_flight, max_per_second, tokens, refill_time, gate_until_time, clock_timestamp() AS now
FROM scheduler.key_limits WHERE limit_key = ANY($1::text[]) ORDER BY limit_key FOR NO KEY UPDATE
"""

RUNNING = """
SELECT limit_key, count(*) FROM scheduler.jobs
WHERE lease_expire_time IS NOT NULL AND limit_key = ANY($1::text[]) GROUP BY limit_key
"""

SPEND = """
UPDATE scheduler.key_limits k SET tokens = s.tokens, refill_time = s.now
FROM unnest($1::text[], $2::float8[], $3::timestamptz[]) AS s(limit_key, tokens, now) WHERE k.limit_key = s.limit_key
"""

SHUT = """
INSERT INTO scheduler.key_limits AS k (limit_key, gate_until_time)
SELECT limit_key, max(until) FROM unnest($1::text[], $2::timestamptz[]) AS g(limit_key, until)
GROUP BY limit_key ORDER BY limit_key
ON CONFLICT (limit_key) DO UPDATE SET gate_until_time = greatest(k.gate_until_time, excluded.gate_until_time)
"""


class KeyRows:
    """The rows of limit keys. Remembers which exist, so that most claims need not ask."""

    def __init__(self) -> None:
        self._existing: set[str] = set()

    async def hold(self, connection: Connection, keys: Iterable[str]) -> tuple[dict[str, KeyLimit], datetime]:
        """Locks the rows until the transaction ends. Also the time, read after the last lock was granted."""
        wanted = sorted(set(keys))
        new = [key for key in wanted if key not in self._existing]
        if new:
            await connection.execute(ENSURE, new)
        records = await connection.fetch(HOLD, wanted)
        if new:
            self._remember(new)
        limits = {record["limit_key"]: _to_limit(record) for record in records}
        return limits, max(record["now"] for record in records)

    def _remember(self, keys: Sequence[str]) -> None:
        if len(self._existing) > _REMEMBERED_KEYS:
            self._existing.clear()
        self._existing.update(keys)

    async def running(self, connection: Connection, limits: Iterable[KeyLimit]) -> dict[str, int]:
        """Jobs that run now, of the keys with a cap; in a snapshot younger than the locks."""
        capped = [limit.limit_key for limit in limits if limit.max_in_flight]
        records = await connection.fetch(RUNNING, capped) if capped else []
        return {record[0]: record[1] for record in records}

    async def spend(
        self, connection: Connection, limits: Iterable[KeyLimit], *, leased: Counter[str], now: datetime
    ) -> None:
        rated = [limit for limit in limits if limit.max_per_second and leased[limit.limit_key]]
        if rated:
            keys = [limit.limit_key for limit in rated]
            tokens = [limit.available(now) - leased[limit.limit_key] for limit in rated]
            await connection.execute(SPEND, keys, tokens, [now] * len(rated))


async def shut_gates(connection: Connection, gates: Sequence[tuple[str, datetime]]) -> None:
    if gates:
        await connection.execute(SHUT, [key for key, _ in gates], [until for _, until in gates])


def _to_limit(record: Row) -> KeyLimit:
    return KeyLimit(
        limit_key=record["limit_key"],
        max_in_flight=record["max_in_flight"],
        max_per_second=record["max_per_second"],
        tokens=record["tokens"],
        refill_time=record["refill_time"],
        gate_until_time=record["gate_until_time"],
    )
