"""Runs of the reconciliation and the fact side of the comparison, in PostgreSQL."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text

from services.extractor.adapters.postgres.doubts import COMPARED, DOUBT_TIME, OUTRUN, SETTLED_TIME
from services.extractor.domain.outbox import Operation
from services.extractor.domain.reconciliation import (
    DIGEST_BYTES,
    Bucket,
    Drift,
    DriftKind,
    FactState,
    IdRange,
    RecordedDrift,
    Run,
    RunRequest,
    RunState,
    id_range,
)
from services.shared.database.unit_of_work import Transaction

_KEPT_RUNS = 20

_OPEN = text(f"""
INSERT INTO extractor.reconciliations (run_id, epoch, dry_run, pace, state, owner, lease_time, watermark)
SELECT :run_id, :epoch, :dry_run, :pace, {RunState.RUNNING:d}, :owner, now() + CAST(:lease AS interval),
       last_value FROM extractor.fact_versions
ON CONFLICT DO NOTHING
RETURNING *
""")

_CURRENT = text(f"SELECT * FROM extractor.reconciliations WHERE state = {RunState.RUNNING:d}")

_GET = text("SELECT * FROM extractor.reconciliations WHERE run_id = :run_id")

_LAST = text(f"""
SELECT * FROM extractor.reconciliations WHERE state = {RunState.DONE:d} ORDER BY start_time DESC LIMIT 1
""")

# The newest one that ended well stays, however many failed after it.
_FORGET = text(f"""
DELETE FROM extractor.reconciliations WHERE run_id IN (
    SELECT run_id FROM extractor.reconciliations ORDER BY start_time DESC OFFSET :kept
) AND run_id <> ALL (
    SELECT run_id FROM extractor.reconciliations WHERE state = {RunState.DONE:d} ORDER BY start_time DESC LIMIT 1
)
""")

# After a doubt at once, since that repairs most of it, and again when nothing from before it can arrive any more.
_DUE = text(f"""
SELECT NOT EXISTS (
    SELECT FROM extractor.reconciliations r LEFT JOIN extractor.timeline t ON true
     WHERE {COMPARED} AND r.start_time > now() - CAST(:period AS interval)
       AND r.start_time >= CASE WHEN {SETTLED_TIME} <= now() THEN {SETTLED_TIME} ELSE {DOUBT_TIME} END
)
""")

_TAKE_OVER = text(f"""
UPDATE extractor.reconciliations SET owner = :owner, lease_time = now() + CAST(:lease AS interval)
 WHERE state = {RunState.RUNNING:d} AND lease_time < now()
RETURNING *
""")

_ADVANCE = text(f"""
UPDATE extractor.reconciliations
   SET lease_time = now() + CAST(:lease AS interval), next_bucket = :next_bucket, differing = :differing,
       fact_count = :fact_count, point_count = :point_count, fact_digest = :fact_digest,
       point_digest = :point_digest, drift_counts = CAST(:drift_counts AS jsonb), repaired = :repaired,
       epoch = :epoch, state = CAST(:state AS smallint),
       end_time = CASE WHEN CAST(:state AS smallint) = {RunState.RUNNING:d} THEN NULL ELSE now() END
 WHERE run_id = :run_id AND owner = :owner AND state = {RunState.RUNNING:d}
""")

_RECORD = text("""
INSERT INTO extractor.drifts (run_id, fact_id, kind, stored_version, indexed_version, repaired)
SELECT :run_id, d.fact_id, d.kind, d.stored_version, d.indexed_version, d.fact_id = ANY(CAST(:repaired AS uuid[]))
  FROM unnest(CAST(:fact_ids AS uuid[]), CAST(:kinds AS smallint[]), CAST(:stored_versions AS bigint[]),
              CAST(:indexed_versions AS bigint[])) AS d (fact_id, kind, stored_version, indexed_version)
ON CONFLICT (run_id, fact_id) DO NOTHING
RETURNING fact_id
""")

_DRIFTS = text("""
SELECT number, fact_id, kind, stored_version, indexed_version, repaired FROM extractor.drifts
 WHERE run_id = :run_id AND number > :after ORDER BY number LIMIT :limit
""")

_DIGESTS = text(f"""
SELECT (get_byte(uuid_send(extraction_id), 0) << 4) | (get_byte(uuid_send(extraction_id), 1) >> 4) AS bucket,
       count(*) AS fact_count,
       CAST(bit_xor(CAST('x' || encode(substr(sha256(
           uuid_send(extraction_id) || int8send(version) || content_hash || int8send(CAST(:epoch AS bigint))
           || uuid_send(project_id)
       ), 1, {DIGEST_BYTES}), 'hex') AS bit(128))) AS text) AS digest
  FROM extractor.extractions WHERE extraction_id BETWEEN :low AND :high
 GROUP BY 1
""")

_FACTS = text("""
SELECT e.extraction_id, e.project_id, e.source_id, e.version, e.content_hash
  FROM unnest(CAST(:lows AS uuid[]), CAST(:highs AS uuid[])) AS b (low, high)
  JOIN extractor.extractions e ON e.extraction_id BETWEEN b.low AND b.high
""")

_PENDING = text("""
SELECT i.key
  FROM unnest(CAST(:lows AS uuid[]), CAST(:highs AS uuid[])) AS b (low, high)
  JOIN (
    SELECT key FROM extractor.outbox WHERE topic = 'fact'
     UNION ALL
    SELECT key FROM extractor.dead_letters WHERE topic = 'fact'
  ) i ON i.key BETWEEN b.low AND b.high
""")

_RAISE_VERSIONS = text("""
SELECT setval('extractor.fact_versions', greatest(nextval('extractor.fact_versions'), CAST(:floor AS bigint)))
""")

_DRIFTING = """
drifting AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:fact_ids AS uuid[]), CAST(:versions AS bigint[]), CAST(:project_ids AS uuid[]),
                         CAST(:source_ids AS uuid[])) AS d (fact_id, version, project_id, source_id)
)"""

# The fact has waited since the version that should have been there, of which a token may speak.
# A fresh version in every case: what the index holds may have the present one, or one above it. An intent that has
# come meanwhile states the version that was just replaced, since the fact's row is locked: it states the new one now.
_REVISE = text(f"""
WITH {_DRIFTING}, revised AS (
    UPDATE extractor.extractions e
       SET version = nextval('extractor.fact_versions'), embedding_id = NULL, embedding_epoch = NULL
      FROM drifting d WHERE e.extraction_id = d.fact_id AND e.version = d.version
    RETURNING e.extraction_id, e.version, d.version AS since, e.project_id, e.source_id
)
INSERT INTO extractor.outbox (topic, key, operation, version, since, project_id, source_id, traceparent)
SELECT 'fact', r.extraction_id, {Operation.UPSERT:d}, r.version, r.since, r.project_id, r.source_id, :traceparent
  FROM revised r
ON CONFLICT (topic, key) DO UPDATE SET operation = EXCLUDED.operation, version = EXCLUDED.version
RETURNING key
""")

# A statement of its own, which sees facts that came while the one before waited. An intent that has come meanwhile
# belongs to a writer, who knows better. When the fact was deleted is not known, so whoever has a token waits.
_BANISH = text(f"""
WITH {_DRIFTING}, ghosts AS MATERIALIZED (
    SELECT d.fact_id, nextval('extractor.fact_versions') AS version, d.project_id, d.source_id
      FROM drifting d
     WHERE d.version = 0 AND NOT EXISTS (SELECT FROM extractor.extractions e WHERE e.extraction_id = d.fact_id)
)
INSERT INTO extractor.outbox (topic, key, operation, version, since, project_id, source_id, traceparent)
SELECT 'fact', g.fact_id, {Operation.DELETE:d}, g.version, 0, g.project_id, g.source_id, :traceparent
  FROM ghosts g
ON CONFLICT (topic, key) DO NOTHING
RETURNING key
""")

# The timeline that is written to now. The control file tells that of the last checkpoint, which after the promotion of
# a standby may be minutes old. The first look at a database is no reason for doubt.
_NOTICE_TIMELINE = text("""
INSERT INTO extractor.timeline AS t (system_identifier, timeline_id, notice_time)
SELECT CAST(s.system_identifier AS text),
       CAST(CAST('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS bit(32)) AS integer), '-infinity'
  FROM pg_control_system() s
ON CONFLICT (only_row) DO UPDATE
   SET system_identifier = EXCLUDED.system_identifier, timeline_id = EXCLUDED.timeline_id, notice_time = now()
 WHERE (t.system_identifier, t.timeline_id) <> (EXCLUDED.system_identifier, EXCLUDED.timeline_id)
RETURNING xmax <> 0 AS changed
""")

# A run of the other history may never end, and would keep the place of the comparison that is due until its lease ends.
_ABANDON = text(f"""
UPDATE extractor.reconciliations SET state = {RunState.FAILED:d}, end_time = now() WHERE state = {RunState.RUNNING:d}
""")


class PostgresReconciliations:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def open(self, run_id: UUID, request: RunRequest, *, owner: str, lease: timedelta) -> tuple[Run | None, bool]:
        """The run under way, and whether it was opened by this call. None when another one ended just now."""
        await self._transaction.execute(_FORGET, {"kept": _KEPT_RUNS})
        opened = await self._one(
            _OPEN,
            run_id=run_id,
            epoch=request.epoch,
            dry_run=request.dry_run,
            pace=request.pace,
            owner=owner,
            lease=lease,
        )
        if opened is not None:
            return opened, True
        return await self._one(_CURRENT), False

    async def take_over(self, *, owner: str, lease: timedelta) -> Run | None:
        """A run whose owner has vanished."""
        return await self._one(_TAKE_OVER, owner=owner, lease=lease)

    async def get(self, run_id: UUID) -> Run | None:
        return await self._one(_GET, run_id=run_id)

    async def last(self) -> Run | None:
        """The newest run that has ended well."""
        return await self._one(_LAST)

    async def advance(self, run: Run, *, owner: str, lease: timedelta) -> bool:
        """Writes down how far a run has come; False when it has another owner by now."""
        parameters = {
            "run_id": run.run_id,
            "owner": owner,
            "lease": lease,
            "epoch": run.epoch,
            "state": int(run.state),
            "next_bucket": run.next_bucket,
            "differing": run.differing,
            "fact_count": run.facts.count,
            "point_count": run.points.count,
            "fact_digest": run.facts.digest.to_bytes(DIGEST_BYTES),
            "point_digest": run.points.digest.to_bytes(DIGEST_BYTES),
            "drift_counts": orjson.dumps(dict(run.drift_counts)).decode(),
            "repaired": run.repaired,
        }
        return (await self._transaction.execute(_ADVANCE, parameters)).rowcount == 1

    async def record(self, run_id: UUID, drifts: Sequence[Drift], *, repaired: set[UUID]) -> set[UUID]:
        """Writes down what a run has found. Returns the facts that it had not written down before."""
        result = await self._transaction.execute(
            _RECORD,
            {
                "run_id": run_id,
                "fact_ids": [drift.fact_id for drift in drifts],
                "kinds": [int(drift.kind) for drift in drifts],
                "stored_versions": [drift.stored_version for drift in drifts],
                "indexed_versions": [drift.indexed_version for drift in drifts],
                "repaired": list(repaired),
            },
        )
        return set(result.scalars())

    async def drifts(self, run_id: UUID, *, after: int, limit: int) -> list[RecordedDrift]:
        result = await self._transaction.execute(_DRIFTS, {"run_id": run_id, "after": after, "limit": limit})
        return [
            RecordedDrift(
                number=row.number,
                fact_id=row.fact_id,
                kind=DriftKind(row.kind),
                stored_version=row.stored_version,
                indexed_version=row.indexed_version,
                repaired=row.repaired,
            )
            for row in result
        ]

    async def digests(self, *, epoch: int, first: int, last: int) -> dict[int, Bucket]:
        """Of the live facts, as they would stand in the epoch; buckets without facts are left out."""
        low, high = id_range(first, last)
        result = await self._transaction.execute(_DIGESTS, {"epoch": epoch, "low": low, "high": high})
        return {row.bucket: Bucket(digest=int(row.digest, 2), count=row.fact_count) for row in result}

    async def facts_in(self, ranges: Sequence[IdRange]) -> dict[UUID, FactState]:
        result = await self._transaction.execute(_FACTS, _bounds(ranges))
        return {
            row.extraction_id: FactState(
                fact_id=row.extraction_id,
                project_id=row.project_id,
                source_id=row.source_id,
                version=row.version,
                content_hash=row.content_hash,
            )
            for row in result
        }

    async def pending_in(self, ranges: Sequence[IdRange]) -> frozenset[UUID]:
        """Facts with an intent in the outbox, or among the dead letters: the index is known to lack these."""
        return frozenset((await self._transaction.execute(_PENDING, _bounds(ranges))).scalars())

    async def repair(self, drifts: Sequence[Drift], *, traceparent: str) -> set[UUID]:
        """States the truth about each again, with a version above what the index holds. Returns those it did."""
        await self._transaction.execute(
            _RAISE_VERSIONS, {"floor": max((drift.indexed_version for drift in drifts), default=0)}
        )
        parameters = {
            "fact_ids": [drift.fact_id for drift in drifts],
            "versions": [drift.stored_version for drift in drifts],
            "project_ids": [_owner(drift).project_id for drift in drifts],
            "source_ids": [_owner(drift).source_id for drift in drifts],
            "traceparent": traceparent,
        }
        revised = await self._transaction.execute(_REVISE, parameters)
        banished = await self._transaction.execute(_BANISH, parameters)
        return {*revised.scalars(), *banished.scalars()}

    async def notice_timeline(self) -> bool:
        """Whether the database goes on under another history than when last asked: it was restored, or failed over.

        Versions then start above all that the other history can have issued, and its run of the reconciliation is over.
        """
        changed = (await self._transaction.execute(_NOTICE_TIMELINE)).scalar_one_or_none()
        if changed:
            await self._transaction.execute(OUTRUN)
            await self._transaction.execute(_ABANDON)
        return bool(changed)

    async def due(self, *, period: timedelta, settle: timedelta) -> bool:
        """Whether no run has ended well that began so recently, and after the last doubt: at once, and `settle` later.

        `settle` is the time after which nothing arrives any more that was sent before.
        """
        return (await self._transaction.execute(_DUE, {"period": period, "settle": settle})).scalar_one()

    async def _one(self, statement: Any, **parameters: object) -> Run | None:
        row = (await self._transaction.execute(statement, parameters)).mappings().one_or_none()
        return None if row is None else _run(row)


def _owner(drift: Drift) -> Any:
    return drift.fact or drift.point


def _bounds(ranges: Sequence[IdRange]) -> dict[str, list[UUID]]:
    return {"lows": [low for low, _ in ranges], "highs": [high for _, high in ranges]}


def _run(row: RowMapping) -> Run:
    return Run(
        run_id=row["run_id"],
        epoch=row["epoch"],
        dry_run=row["dry_run"],
        pace=row["pace"],
        state=RunState(row["state"]),
        watermark=row["watermark"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        next_bucket=row["next_bucket"],
        differing=row["differing"],
        facts=Bucket(digest=int.from_bytes(row["fact_digest"]), count=row["fact_count"]),
        points=Bucket(digest=int.from_bytes(row["point_digest"]), count=row["point_count"]),
        drift_counts=row["drift_counts"],
        repaired=row["repaired"],
    )
