"""Markers of consistency tokens: how far the index has followed each project, in versions.

A token is given out for a version above all that was committed before. The marker goes to
the index at a version below the first that any fact of the project still waits for, as an
intent like all others; so what the index holds of it is a watermark without gaps. Where the
index may have lost it, it is sent again, once nothing waits up to where it was before.
"""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text

from services.extractor.adapters.postgres.doubts import IN_DOUBT
from services.extractor.domain.outbox import Operation
from services.shared.database.unit_of_work import Transaction

_ISSUE = text("""
INSERT INTO extractor.markers AS m (project_id, marker, issued)
SELECT p.project_id, :marker, nextval('extractor.fact_versions')
  FROM extractor.projects p WHERE p.project_id = :project_id
ON CONFLICT (project_id) DO UPDATE SET issued = nextval('extractor.fact_versions')
RETURNING m.issued
""")

# While the index is in doubt, nothing is said of how far it has come.
_BEHIND = text(f"""
SELECT project_id FROM extractor.markers
 WHERE (sent < issued OR resend)
   AND NOT {IN_DOUBT}
   FOR UPDATE SKIP LOCKED
""")

# After the lock, because a token may have been given out while it was waited for, and facts committed before that.
_RELEASE = text(f"""
WITH due AS MATERIALIZED (
    SELECT m.project_id, m.marker, m.issued, m.sent, m.resend,
           least(m.issued, coalesce(w.first - 1, m.issued)) AS watermark
      FROM extractor.markers m
     CROSS JOIN LATERAL (
        SELECT min(o.since) AS first FROM extractor.outbox o WHERE o.project_id = m.project_id AND o.since IS NOT NULL
     ) w
     WHERE m.project_id = ANY(CAST(:project_ids AS uuid[]))
), moved AS (
    UPDATE extractor.markers m SET sent = d.watermark, resend = false
      FROM due d WHERE m.project_id = d.project_id AND d.watermark >= d.sent + CASE WHEN d.resend THEN 0 ELSE 1 END
    RETURNING m.project_id, m.marker, m.sent
), intents AS (
    INSERT INTO extractor.outbox AS o (topic, key, operation, version, project_id, source_id)
    SELECT 'fact', marker, {Operation.DELETE:d}, sent, project_id, project_id FROM moved
    ON CONFLICT (topic, key) DO UPDATE
       SET version = greatest(o.version, EXCLUDED.version), attempts = 0,
           due_time = CASE WHEN o.lease_owner IS NULL THEN now() ELSE o.due_time END
)
SELECT count(*) FILTER (WHERE watermark < issued) FROM due
""")


class PostgresMarkers:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def issue(self, project_id: UUID, *, marker: UUID) -> int | None:
        """A version above everything that is committed of the project, or that this transaction wrote before.

        None when there is no such project.
        """
        result = await self._transaction.execute(_ISSUE, {"project_id": project_id, "marker": marker})
        return result.scalar_one_or_none()

    async def release(self, *, settle: timedelta) -> bool:
        """Puts every marker into the outbox at the version up to which nothing waits. Whether one is still behind.

        None goes out until a comparison has ended well that began `settle` after the last doubt about the index.
        """
        behind = list((await self._transaction.execute(_BEHIND, {"settle": settle})).scalars())
        if not behind:
            return False
        return bool((await self._transaction.execute(_RELEASE, {"project_ids": behind})).scalar_one())
