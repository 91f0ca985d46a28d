"""The outbox and its dead letters in PostgreSQL.

Rows are leased with SKIP LOCKED by moving their due time on, so that several relays
share one table and a row of a relay that died comes back by itself. Every answer of a
peer is applied to the version that it is about, and to no other.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text

from services.extractor.adapters.postgres.doubts import OUTRUN, SUSPECT
from services.extractor.adapters.postgres.values import said
from services.extractor.domain.outbox import (
    Backlog,
    DeadLetter,
    FactContent,
    FactIntent,
    Intent,
    Operation,
    Postponed,
    Rejection,
    Topic,
)
from services.shared.database.unit_of_work import Transaction
from services.shared.errors import Reason

# The rows of one statement share a token, which is drawn once: key and token together name a lease. They are chosen
# once too, by an array and not by a join: a planner that takes the table for empty, as it was when it was last looked
# at, would put the choice on the inner side of a join and make it again for every row.
_LEASED = """
leased AS (
    UPDATE extractor.outbox o
       SET lease_owner = :owner, lease_token = (SELECT gen_random_uuid()), due_time = now() + CAST(:lease AS interval),
           attempts = o.attempts + 1, away = false
     WHERE o.ctid = ANY (ARRAY(
        SELECT ctid FROM extractor.outbox
         WHERE topic = :topic AND due_time <= now() ORDER BY due_time LIMIT :limit FOR UPDATE SKIP LOCKED
     ))
    RETURNING o.*
)
"""

_LEASE = text(f"WITH {_LEASED} SELECT * FROM leased")

# The content is that of the version leased, or none: a row may change between the snapshot and its lock.
_LEASE_FACTS = text(f"""
WITH {_LEASED}
SELECT l.topic, l.key, l.operation, l.version, l.since, l.project_id, l.source_id, l.attempts, l.lease_token,
       l.traceparent, e.extraction_id IS NOT NULL AS found, e.content_hash, e.statement, e.group_name, e.category,
       e.field_values, e.quote, e.start_offset, e.end_offset, e.context_before, e.context_after, e.entities,
       e.confidence, e.extract_time, v.title, s.uri, v.group_name AS source_group, s.visible_version
  FROM leased l
  LEFT JOIN extractor.extractions e ON e.extraction_id = l.key AND e.version = l.version
  LEFT JOIN extractor.sources s ON s.source_id = e.source_id
  LEFT JOIN extractor.source_versions v ON v.source_id = s.source_id AND v.version = s.visible_version
""")

_ANSWERED = """o.topic = :topic AND o.key = a.key AND o.version = a.version AND o.lease_token = a.lease_token"""

_POSTPONE = text(f"""
UPDATE extractor.outbox o SET lease_owner = NULL, due_time = now() + a.delay, away = a.away
  FROM unnest(CAST(:keys AS uuid[]), CAST(:versions AS bigint[]), CAST(:lease_tokens AS uuid[]),
              CAST(:delays AS interval[]), CAST(:away AS boolean[])) AS a (key, version, lease_token, delay, away)
 WHERE {_ANSWERED}
""")

_PULL_FORWARD = text("""
UPDATE extractor.outbox SET due_time = now(), away = false
 WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM extractor.outbox WHERE away AND due_time > now()
     ORDER BY due_time LIMIT :limit FOR UPDATE SKIP LOCKED
 ))
""")

# Where a newer intent has come in the meantime, the lease is given back for it.
_FREE = text("""
UPDATE extractor.outbox o SET lease_owner = NULL, due_time = now()
  FROM unnest(CAST(:keys AS uuid[]), CAST(:versions AS bigint[]), CAST(:lease_tokens AS uuid[]))
       AS a (key, version, lease_token)
 WHERE o.topic = :topic AND o.key = a.key AND o.version > a.version AND o.lease_token = a.lease_token
""")

_BURY = text(f"""
WITH rejected AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:keys AS uuid[]), CAST(:versions AS bigint[]), CAST(:lease_tokens AS uuid[]),
                         CAST(:reasons AS smallint[]), CAST(:messages AS text[]), CAST(:contexts AS jsonb[]))
                  AS a (key, version, lease_token, reason, message, context)
), dead AS (
    DELETE FROM extractor.outbox o USING rejected a WHERE {_ANSWERED}
    RETURNING o.*, a.reason, a.message, a.context
)
INSERT INTO extractor.dead_letters
    (topic, key, operation, version, project_id, source_id, reason, message, attempts, context)
SELECT topic, key, operation, version, project_id, source_id, reason, message, attempts, context FROM dead
ON CONFLICT (topic, key) DO UPDATE
   SET operation = EXCLUDED.operation, version = EXCLUDED.version, reason = EXCLUDED.reason,
       message = EXCLUDED.message, attempts = EXCLUDED.attempts, context = EXCLUDED.context, fail_time = now()
RETURNING key
""")

_COMPLETE = text(f"""
DELETE FROM extractor.outbox o
 USING unnest(CAST(:keys AS uuid[]), CAST(:versions AS bigint[]), CAST(:lease_tokens AS uuid[]))
       AS a (key, version, lease_token)
 WHERE {_ANSWERED}
""")

# Facts before intents, in the order of their ids. What is read after this does not change until the end.
_LOCK_FACTS = text("""
SELECT FROM extractor.extractions WHERE extraction_id = ANY(CAST(:keys AS uuid[])) ORDER BY extraction_id FOR UPDATE
""")

# The index holds a newer version than the fact has: the database was restored from an earlier time. New versions
# must lie above all that were ever issued, and the time in microseconds does.
_BEHIND = text(f"""
SELECT o.key FROM extractor.outbox o
  JOIN unnest(CAST(:keys AS uuid[]), CAST(:versions AS bigint[]), CAST(:lease_tokens AS uuid[]))
       AS a (key, version, lease_token) ON {_ANSWERED}
 ORDER BY o.key FOR UPDATE OF o
""")

_REISSUE = text("""
WITH stale AS MATERIALIZED (
    SELECT key, nextval('extractor.fact_versions') AS version FROM unnest(CAST(:keys AS uuid[])) AS a (key)
), facts AS (
    UPDATE extractor.extractions e SET version = s.version, embedding_id = NULL, embedding_epoch = NULL
      FROM stale s WHERE e.extraction_id = s.key
)
UPDATE extractor.outbox o SET version = s.version, lease_owner = NULL, due_time = now()
  FROM stale s WHERE o.topic = :topic AND o.key = s.key
""")

# Facts that nothing will ever index: not acknowledged, no intent, no dead letter.
_REQUEUE = text(f"""
INSERT INTO extractor.outbox (topic, key, operation, version, since, project_id, source_id, traceparent)
SELECT 'fact', e.extraction_id, {Operation.UPSERT:d}, e.version, e.version, e.project_id, e.source_id, :traceparent
  FROM extractor.extractions e
 WHERE e.embedding_id IS NULL AND e.extract_time < now() - CAST(:older_than AS interval)
   AND NOT EXISTS (SELECT FROM extractor.outbox o WHERE o.topic = 'fact' AND o.key = e.extraction_id)
   AND NOT EXISTS (SELECT FROM extractor.dead_letters d WHERE d.topic = 'fact' AND d.key = e.extraction_id)
 LIMIT :limit
ON CONFLICT (topic, key) DO NOTHING
""")

_BACKLOG = text("""
SELECT topic, count(*) AS depth, min(create_time) AS oldest_time
  FROM extractor.outbox WHERE topic <> 'fact' OR since IS NOT NULL GROUP BY topic
""")

_WAITING = text("""
SELECT count(*) FROM extractor.outbox WHERE topic = 'fact' AND key = ANY(CAST(:keys AS uuid[]))
""")

_COUNT_DEAD = text("SELECT count(*) FROM extractor.dead_letters")

_DEAD_LETTERS = text("""
SELECT topic, key, operation, version, project_id, source_id, reason, message, attempts, context, fail_time
  FROM extractor.dead_letters
 WHERE (CAST(:project_id AS uuid) IS NULL OR project_id = CAST(:project_id AS uuid))
   AND (CAST(:after_time AS timestamptz) IS NULL
        OR (fail_time, key) < (CAST(:after_time AS timestamptz), CAST(:after_key AS uuid)))
 ORDER BY fail_time DESC, key DESC LIMIT :limit
""")

# With new versions: the index holds tombstones of those that it refused.
_REPLAY = text("""
WITH asked AS MATERIALIZED (
    SELECT DISTINCT key FROM unnest(CAST(:keys AS uuid[])) AS a (key)
), dead AS (
    DELETE FROM extractor.dead_letters d USING asked a WHERE d.key = a.key RETURNING d.*
), facts AS (
    UPDATE extractor.extractions e
       SET version = nextval('extractor.fact_versions'), embedding_id = NULL, embedding_epoch = NULL
      FROM dead d WHERE d.topic = 'fact' AND e.extraction_id = d.key
    RETURNING e.extraction_id, e.version
), living AS MATERIALIZED (
    SELECT d.topic, d.key, d.project_id, d.source_id,
           CASE WHEN d.topic = 'fact' AND f.extraction_id IS NULL THEN 2 ELSE 1 END AS operation,
           CASE WHEN d.topic = 'job' THEN d.version
                ELSE coalesce(f.version, nextval('extractor.fact_versions')) END AS version
      FROM dead d LEFT JOIN facts f ON d.topic = 'fact' AND f.extraction_id = d.key
), revived AS (
    INSERT INTO extractor.outbox (topic, key, operation, version, since, project_id, source_id, traceparent)
    SELECT topic, key, operation, version, CASE WHEN topic = 'fact' THEN version END, project_id, source_id,
           :traceparent
      FROM living
    ON CONFLICT (topic, key) DO NOTHING
)
SELECT key FROM dead UNION SELECT o.key FROM extractor.outbox o JOIN asked a USING (key)
""")


class PostgresOutbox:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def lease(self, topic: Topic, *, owner: str, limit: int, lease: timedelta) -> list[Intent]:
        """Intents that are due, oldest first. Those of facts come with their content, by `lease_facts`."""
        rows = await self._lease(_LEASE, topic, owner=owner, limit=limit, lease=lease)
        return [_intent(row) for row in rows]

    async def lease_facts(self, *, owner: str, limit: int, lease: timedelta) -> tuple[list[FactIntent], list[Intent]]:
        """Intents that are due, oldest first, with the facts as they are now.

        The second list holds intents that were replaced at this very moment: give them back.
        """
        ready: list[FactIntent] = []
        replaced: list[Intent] = []
        for row in await self._lease(_LEASE_FACTS, Topic.FACT, owner=owner, limit=limit, lease=lease):
            intent = _intent(row)
            if intent.operation is Operation.DELETE:
                ready.append(FactIntent(intent=intent, content_hash=bytes(32)))
            elif row["found"]:
                ready.append(FactIntent(intent=intent, content_hash=row["content_hash"], content=_content(row)))
            else:
                replaced.append(intent)
        return ready, replaced

    async def postpone(self, topic: Topic, postponed: Sequence[Postponed]) -> None:
        """Gives leases back until the delay is over; where a newer intent has come, for that one at once."""
        parameters = _answered(topic, postponed)
        put_off = {"delays": [each.delay for each in postponed], "away": [each.away for each in postponed]}
        await self._transaction.execute(_POSTPONE, {**parameters, **put_off})
        await self._transaction.execute(_FREE, parameters)

    async def pull_forward(self, *, limit: int) -> int:
        """Makes intents due that were put off because the index was away. Returns how many."""
        return (await self._transaction.execute(_PULL_FORWARD, {"limit": limit})).rowcount

    async def bury(self, topic: Topic, rejections: Sequence[Rejection]) -> list[UUID]:
        """Makes dead letters of intents that can never be applied; where a newer one has come, frees that.

        Returns the dead.
        """
        answered = _answered(topic, rejections)
        parameters = {
            **answered,
            "reasons": [int(each.reason) for each in rejections],
            "messages": [each.message for each in rejections],
            "contexts": [orjson.dumps(each.context).decode() for each in rejections],
        }
        buried = list((await self._transaction.execute(_BURY, parameters)).scalars())
        await self._transaction.execute(_FREE, answered)
        return buried

    async def complete(self, topic: Topic, intents: Sequence[Intent]) -> None:
        """Takes intents out that the peer has obeyed; where a newer one has come, frees it."""
        parameters = _answered(topic, intents)
        await self._transaction.execute(_COMPLETE, parameters)
        await self._transaction.execute(_FREE, parameters)

    async def reissue(self, intents: Sequence[Intent]) -> list[UUID]:
        """Answers an index that is ahead: the facts get versions above everything ever issued and are sent again.

        Where a newer intent has come in the meantime, that one is freed and nothing else is done. Returns the facts
        that have a new version; a reconciliation is then due.
        """
        parameters = _answered(Topic.FACT, intents)
        await self._transaction.execute(_LOCK_FACTS, {"keys": parameters["keys"]})
        await self._transaction.execute(_FREE, parameters)
        behind = list((await self._transaction.execute(_BEHIND, parameters)).scalars())
        if behind:
            await self._transaction.execute(OUTRUN)
            await self._transaction.execute(_REISSUE, {"topic": Topic.FACT.value, "keys": behind})
            # What the index knows and the database does not is found by a comparison.
            await self._transaction.execute(SUSPECT)
        return behind

    async def requeue_orphans(self, *, older_than: timedelta, limit: int, traceparent: str) -> int:
        """Sends facts again that have waited so long without an intent. Returns how many."""
        parameters = {"older_than": older_than, "limit": limit, "traceparent": traceparent}
        return (await self._transaction.execute(_REQUEUE, parameters)).rowcount

    async def backlog(self) -> list[Backlog]:
        result = await self._transaction.execute(_BACKLOG)
        return [
            Backlog(topic=Topic(row["topic"]), depth=row["depth"], oldest_time=row["oldest_time"])
            for row in result.mappings()
        ]

    async def count_dead_letters(self) -> int:
        return (await self._transaction.execute(_COUNT_DEAD)).scalar_one()

    async def waiting(self, fact_ids: Sequence[UUID]) -> int:
        """How many of these facts have an intent that the index has not acknowledged."""
        return (await self._transaction.execute(_WAITING, {"keys": list(fact_ids)})).scalar_one()

    async def dead_letters(
        self, *, project_id: UUID | None, after: tuple[datetime, UUID] | None, limit: int
    ) -> list[DeadLetter]:
        """Newest first."""
        time, key = after or (None, None)
        result = await self._transaction.execute(
            _DEAD_LETTERS, {"project_id": project_id, "after_time": time, "after_key": key, "limit": limit}
        )
        return [_dead_letter(row) for row in result.mappings()]

    async def replay(self, keys: Sequence[UUID], *, traceparent: str) -> set[UUID]:
        """Puts dead letters back, as the facts are now. Returns the keys that now wait in the outbox."""
        await self._transaction.execute(_LOCK_FACTS, {"keys": list(keys)})
        result = await self._transaction.execute(_REPLAY, {"keys": list(keys), "traceparent": traceparent})
        return set(result.scalars())

    async def _lease(
        self, statement: Any, topic: Topic, *, owner: str, limit: int, lease: timedelta
    ) -> Sequence[RowMapping]:
        parameters = {"topic": topic.value, "owner": owner, "limit": limit, "lease": lease}
        return (await self._transaction.execute(statement, parameters)).mappings().all()


def _answered(topic: Topic, answers: Sequence[Intent | Postponed | Rejection]) -> dict[str, Any]:
    """Which lease of which version each answer is about."""
    return {
        "topic": topic.value,
        "keys": [each.key for each in answers],
        "versions": [each.version for each in answers],
        "lease_tokens": [each.lease_token for each in answers],
    }


def _stated(row: RowMapping) -> dict[str, Any]:
    """What an intent and a dead letter have in common."""
    return {
        "topic": Topic(row["topic"]),
        "key": row["key"],
        "operation": Operation(row["operation"]),
        "version": row["version"],
        "project_id": row["project_id"],
        "source_id": row["source_id"],
        "attempts": row["attempts"],
    }


def _intent(row: RowMapping) -> Intent:
    return Intent(
        **_stated(row),
        lease_token=row["lease_token"],
        traceparent=row["traceparent"],
        marker=row["topic"] == Topic.FACT and row["since"] is None,
    )


def _content(row: RowMapping) -> FactContent:
    return FactContent(
        **said(row),
        source_title=row["title"],
        source_uri=row["uri"],
        source_group=row["source_group"],
        source_version=row["visible_version"],
    )


def _dead_letter(row: RowMapping) -> DeadLetter:
    return DeadLetter(
        **_stated(row),
        reason=Reason(row["reason"]),
        message=row["message"],
        context=orjson.dumps(row["context"]).decode(),
        fail_time=row["fail_time"],
    )
