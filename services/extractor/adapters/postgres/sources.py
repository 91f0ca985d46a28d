"""Sources and what clients see of them, in PostgreSQL."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, TextClause, text

from services.extractor.application.ports import StagedSource
from services.extractor.domain import identity
from services.extractor.domain.chunk import ChunkState
from services.extractor.domain.outbox import Operation
from services.extractor.domain.source import Source, SourceFilter, SourceState
from services.shared.database.unit_of_work import Transaction
from services.shared.errors import Reason

# Rows are locked in one order by everybody, so that two calls with the same sources cannot deadlock.
_INSERT = text("""
INSERT INTO extractor.sources (source_id, project_id, uri, version)
SELECT u.source_id, CAST(:project_id AS uuid), u.uri, 0
  FROM unnest(CAST(:source_ids AS uuid[]), CAST(:uris AS text[])) AS u (source_id, uri)
 ORDER BY u.source_id
ON CONFLICT (source_id) DO NOTHING
""")

_LOCK = text("""
SELECT source_id FROM extractor.sources
 WHERE source_id = ANY(CAST(:source_ids AS uuid[])) ORDER BY source_id FOR UPDATE
""")

# A statement of its own, because it must see what was committed while the lock was waited for.
_NEWEST = text("""
SELECT s.source_id, s.version, v.content_hash
  FROM extractor.sources s
  LEFT JOIN extractor.source_versions v ON v.source_id = s.source_id AND v.version = s.version
 WHERE s.source_id = ANY(CAST(:source_ids AS uuid[]))
""")

_ADD_VERSIONS = text(f"""
WITH fresh AS (
    SELECT * FROM unnest(
        CAST(:source_ids AS uuid[]), CAST(:versions AS bigint[]), CAST(:job_ids AS uuid[]), CAST(:titles AS text[]),
        CAST(:groups AS text[]), CAST(:media_types AS text[]), CAST(:contents AS bytea[]), CAST(:hashes AS bytea[])
    ) AS f (source_id, version, job_id, title, group_name, media_type, content, content_hash)
), newest AS (
    UPDATE extractor.sources s SET version = f.version, update_time = now()
      FROM fresh f WHERE s.source_id = f.source_id
), versions AS (
    INSERT INTO extractor.source_versions
        (source_id, version, job_id, state, title, group_name, media_type, content, content_hash)
    SELECT f.source_id, f.version, f.job_id, :pending, f.title, f.group_name, f.media_type, f.content, f.content_hash
      FROM fresh f
)
INSERT INTO extractor.outbox (topic, key, operation, version, project_id, source_id, traceparent)
SELECT 'job', f.job_id, {Operation.UPSERT:d}, f.version, CAST(:project_id AS uuid), f.source_id, :traceparent
  FROM fresh f
""")

_SELECT = f"""
SELECT s.source_id, s.project_id, s.uri, s.version, s.visible_version, s.create_time, s.update_time,
       v.title, v.group_name, v.media_type, v.state, v.reason, v.message, v.content_hash, v.text_length, v.job_id,
       octet_length(v.content) AS size_bytes,
       c.chunk_count, c.extracted_chunk_count, c.failed_chunk_count, c.ungrounded_count,
       e.extraction_count, e.indexed_count
  FROM extractor.sources s
  JOIN extractor.source_versions v ON v.source_id = s.source_id AND v.version = s.version
 CROSS JOIN LATERAL (
    SELECT count(*) AS chunk_count,
           count(*) FILTER (WHERE state IN ({ChunkState.DONE:d}, {ChunkState.EMPTY:d})) AS extracted_chunk_count,
           count(*) FILTER (WHERE state = {ChunkState.FAILED:d}) AS failed_chunk_count,
           coalesce(sum(ungrounded_count), 0) AS ungrounded_count
      FROM extractor.chunks WHERE source_id = s.source_id AND version = s.version
 ) c
 CROSS JOIN LATERAL (
    SELECT count(*) AS extraction_count, count(embedding_id) AS indexed_count
      FROM extractor.extractions WHERE source_id = s.source_id
 ) e
"""

_GET = text(f"{_SELECT} WHERE s.source_id = ANY(CAST(:source_ids AS uuid[]))")

_TEXT = text("""
SELECT v.text FROM extractor.source_versions v JOIN extractor.sources s USING (source_id)
 WHERE s.source_id = :source_id AND v.text IS NOT NULL
 ORDER BY (v.version = s.visible_version) DESC, v.version DESC LIMIT 1
""")

# A job that is still open is to be cancelled: the version above the one that asks for it tells the two apart.
_CANCEL_JOBS = text(f"""
INSERT INTO extractor.outbox AS o (topic, key, operation, version, project_id, source_id, traceparent)
SELECT 'job', v.job_id, {Operation.DELETE:d}, v.version + 1, s.project_id, s.source_id, :traceparent
  FROM extractor.source_versions v JOIN extractor.sources s USING (source_id)
 WHERE v.source_id = ANY(CAST(:source_ids AS uuid[])) AND v.end_time IS NULL
ON CONFLICT (topic, key) DO UPDATE
   SET operation = EXCLUDED.operation, version = EXCLUDED.version, attempts = 0,
       due_time = CASE WHEN o.lease_owner IS NULL THEN now() ELSE o.due_time END
""")

_CHUNKS = text("""
SELECT count(*) AS chunk_count, count(result) AS result_count FROM extractor.chunks WHERE source_id = :source_id
""")

_OF_PROJECT = text("""
SELECT source_id FROM extractor.sources WHERE project_id = :project_id ORDER BY source_id FOR UPDATE
""")

_PROJECT = text("SELECT project_id FROM extractor.sources WHERE source_id = :source_id")

_FORGET_RESULTS = text(f"""
INSERT INTO extractor.outbox (topic, key, operation, version, project_id, source_id, traceparent)
SELECT 'cache', incarnation, {Operation.DELETE:d}, 1, project_id, source_id, :traceparent
  FROM extractor.sources WHERE source_id = ANY(CAST(:source_ids AS uuid[]))
RETURNING source_id, key
""")

_BEGIN_ANEW = text("""
UPDATE extractor.sources SET incarnation = gen_random_uuid()
 WHERE source_id = :source_id AND incarnation = :incarnation
""")

_DELETE = text("DELETE FROM extractor.sources WHERE source_id = ANY(CAST(:source_ids AS uuid[]))")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Newest:
    version: int
    content_hash: bytes | None


class PostgresSources:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def stage(self, project_id: UUID, staged: Sequence[StagedSource], *, traceparent: str) -> set[UUID]:
        """Makes a version, and an intent to create its job, of each source whose content is new. Returns those.

        Sources have distinct ids, and their project is held.
        """
        source_ids = sorted(each.source_id for each in staged)
        uris = {each.source_id: each.source.spec.uri for each in staged}
        await self._transaction.execute(
            _INSERT,
            {"project_id": project_id, "source_ids": source_ids, "uris": [uris[each] for each in source_ids]},
        )
        await self.lock(source_ids)
        newest = await self._newest(source_ids)
        fresh = [each for each in staged if newest[each.source_id].content_hash != each.source.content_hash]
        if fresh:
            await self._transaction.execute(
                _ADD_VERSIONS, _versions(project_id, fresh, newest=newest, traceparent=traceparent)
            )
        return {each.source_id for each in fresh}

    async def lock(self, source_ids: Sequence[UUID]) -> list[UUID]:
        """Those that exist. Nobody else changes them until the transaction ends."""
        result = await self._transaction.execute(_LOCK, {"source_ids": list(source_ids)})
        return list(result.scalars())

    async def lock_project(self, project_id: UUID) -> list[UUID]:
        """All sources of a project that is locked."""
        result = await self._transaction.execute(_OF_PROJECT, {"project_id": project_id})
        return list(result.scalars())

    async def project_of(self, source_id: UUID) -> UUID | None:
        result = await self._transaction.execute(_PROJECT, {"source_id": source_id})
        return result.scalar_one_or_none()

    async def get(self, source_ids: Sequence[UUID]) -> dict[UUID, Source]:
        result = await self._transaction.execute(_GET, {"source_ids": list(source_ids)})
        return {row["source_id"]: _source(row) for row in result.mappings()}

    async def text(self, source_id: UUID) -> str:
        """Of the visible version, else of the newest that was read; empty when there is none."""
        result = await self._transaction.execute(_TEXT, {"source_id": source_id})
        return result.scalar_one_or_none() or ""

    async def page(
        self, project_id: UUID, wanted: SourceFilter, *, after: tuple[datetime, UUID] | None, limit: int
    ) -> list[Source]:
        """Newest first."""
        statement, parameters = _list(project_id, wanted, after=after, limit=limit)
        result = await self._transaction.execute(statement, parameters)
        return [_source(row) for row in result.mappings()]

    async def count_chunks(self, source_id: UUID) -> tuple[int, int]:
        """Chunks of all versions of a source, and results of the model that are kept with them."""
        counts = (await self._transaction.execute(_CHUNKS, {"source_id": source_id})).one()
        return counts.chunk_count, counts.result_count

    async def delete(self, source_ids: Sequence[UUID], *, traceparent: str) -> list[str]:
        """Deletes locked sources whose facts are gone already, with versions and chunks, and cancels open jobs.

        Returns the scopes of what the gateway keeps of them and shall forget.
        """
        parameters = {"source_ids": list(source_ids)}
        await self._transaction.execute(_CANCEL_JOBS, {**parameters, "traceparent": traceparent})
        forgotten = await self._transaction.execute(_FORGET_RESULTS, {**parameters, "traceparent": traceparent})
        await self._transaction.execute(_DELETE, parameters)
        return [identity.result_scope(row.source_id, row.key) for row in forgotten]

    async def begin_anew(self, source_id: UUID, *, incarnation: UUID) -> None:
        """Gives the source a new incarnation in place of this one."""
        await self._transaction.execute(_BEGIN_ANEW, {"source_id": source_id, "incarnation": incarnation})

    async def _newest(self, source_ids: Sequence[UUID]) -> dict[UUID, _Newest]:
        result = await self._transaction.execute(_NEWEST, {"source_ids": list(source_ids)})
        return {
            row["source_id"]: _Newest(version=row["version"], content_hash=row["content_hash"])
            for row in result.mappings()
        }


def _versions(
    project_id: UUID, fresh: Sequence[StagedSource], *, newest: Mapping[UUID, _Newest], traceparent: str
) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "traceparent": traceparent,
        "pending": int(SourceState.PENDING),
        "source_ids": [each.source_id for each in fresh],
        "versions": [newest[each.source_id].version + 1 for each in fresh],
        "job_ids": [each.job_id for each in fresh],
        "titles": [each.source.spec.title for each in fresh],
        "groups": [each.source.spec.group for each in fresh],
        "media_types": [each.source.spec.media_type for each in fresh],
        "contents": [each.source.content for each in fresh],
        "hashes": [each.source.content_hash for each in fresh],
    }


def _list(
    project_id: UUID, wanted: SourceFilter, *, after: tuple[datetime, UUID] | None, limit: int
) -> tuple[TextClause, dict[str, Any]]:
    conditions = ["s.project_id = :project_id"]
    parameters: dict[str, Any] = {"project_id": project_id, "limit": limit}
    if wanted.states:
        conditions.append("v.state = ANY(CAST(:states AS smallint[]))")
        parameters["states"] = [int(state) for state in wanted.states]
    if wanted.groups:
        conditions.append("v.group_name = ANY(CAST(:groups AS text[]))")
        parameters["groups"] = list(wanted.groups)
    if after is not None:
        conditions.append("(s.create_time, s.source_id) < (:after_time, :after_id)")
        parameters |= {"after_time": after[0], "after_id": after[1]}
    order = "ORDER BY s.create_time DESC, s.source_id DESC LIMIT :limit"
    return text(f"{_SELECT} WHERE {' AND '.join(conditions)} {order}"), parameters


def _source(row: RowMapping) -> Source:
    return Source(
        source_id=row["source_id"],
        project_id=row["project_id"],
        uri=row["uri"],
        title=row["title"],
        group=row["group_name"],
        media_type=row["media_type"],
        state=SourceState(row["state"]),
        version=row["version"],
        visible_version=row["visible_version"],
        content_hash=row["content_hash"],
        size_bytes=row["size_bytes"],
        text_length=row["text_length"],
        chunk_count=row["chunk_count"],
        extracted_chunk_count=row["extracted_chunk_count"],
        failed_chunk_count=row["failed_chunk_count"],
        extraction_count=row["extraction_count"],
        indexed_count=row["indexed_count"],
        ungrounded_count=row["ungrounded_count"],
        job_id=row["job_id"],
        reason=Reason(row["reason"]),
        message=row["message"],
        create_time=row["create_time"],
        update_time=row["update_time"],
    )
