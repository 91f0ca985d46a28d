"""A source version under work: its fence, its text, its chunks, its end.

Every statement that writes names the job and the fencing token, so that a holder whose
lease has gone to another one changes nothing.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text

from services.extractor.domain.chunk import ChunkOutcome, ChunkRow, ChunkState
from services.extractor.domain.chunking import Chunk
from services.extractor.domain.errors import StaleHolder
from services.extractor.domain.outbox import Operation
from services.extractor.domain.source import Ending, SourceState, SourceVersion, VersionRef
from services.shared.database.unit_of_work import Transaction
from services.shared.errors import Reason

_MINE = "v.source_id = :source_id AND v.version = :version AND v.job_id = :job_id AND v.fence = :fence"

_LOCK = text("""
SELECT v.fence, v.title, v.group_name, v.media_type, v.text, v.end_time IS NOT NULL AS published,
       CASE WHEN v.text IS NULL THEN v.content ELSE '' END AS content, s.project_id, s.incarnation, s.uri,
       s.version AS newest
  FROM extractor.source_versions v JOIN extractor.sources s USING (source_id)
 WHERE v.source_id = :source_id AND v.version = :version AND v.job_id = :job_id
   FOR UPDATE OF v
""")

_BEGIN = text("""
UPDATE extractor.source_versions v
   SET fence = :fence, state = :extracting, reason = 0, message = '', end_time = NULL,
       start_time = coalesce(start_time, now())
 WHERE v.source_id = :source_id AND v.version = :version AND v.job_id = :job_id
""")

_EXISTS = text("""
SELECT EXISTS (
    SELECT FROM extractor.source_versions WHERE source_id = :source_id AND version = :version AND job_id = :job_id
)
""")

_TOUCH = text("UPDATE extractor.sources SET update_time = now() WHERE source_id = :source_id")

_RETRY_CHUNKS = text(f"""
UPDATE extractor.chunks SET state = {ChunkState.PENDING:d}, attempts = 0, reason = 0, message = ''
 WHERE source_id = :source_id AND version = :version AND state = {ChunkState.FAILED:d}
""")

_STORE_TEXT = text(f"""
UPDATE extractor.source_versions v SET text = :text, text_length = :length, title = :title, media_type = :media_type
 WHERE {_MINE}
""")

_CLEAR_CHUNKS = text("""
DELETE FROM extractor.chunks
 WHERE source_id = :source_id AND version = :version AND (result IS NULL OR chunk_index >= :count)
""")

# A chunk whose text was answered for before, with the same schema and model, takes that result over.
_ADD_CHUNKS = text(f"""
INSERT INTO extractor.chunks
    (source_id, version, chunk_index, start_offset, end_offset, content_hash, fingerprint,
     state, result, item_count, ungrounded_count)
SELECT :source_id, :version, u.chunk_index, u.start_offset, u.end_offset, u.content_hash, :fingerprint,
       coalesce(known.state, {ChunkState.PENDING:d}), known.result, coalesce(known.item_count, 0),
       coalesce(known.ungrounded_count, 0)
  FROM unnest(CAST(:indexes AS integer[]), CAST(:starts AS integer[]), CAST(:ends AS integer[]),
              CAST(:hashes AS bytea[])) AS u (chunk_index, start_offset, end_offset, content_hash)
  LEFT JOIN LATERAL (
    SELECT c.state, c.result, c.item_count, c.ungrounded_count FROM extractor.chunks c
     WHERE c.source_id = :source_id AND c.content_hash = u.content_hash AND c.fingerprint = :fingerprint
       AND c.result IS NOT NULL
     LIMIT 1
  ) known ON true
ON CONFLICT (source_id, version, chunk_index) DO UPDATE
   SET start_offset = EXCLUDED.start_offset, end_offset = EXCLUDED.end_offset,
       content_hash = EXCLUDED.content_hash, fingerprint = EXCLUDED.fingerprint, state = EXCLUDED.state,
       result = EXCLUDED.result, item_count = EXCLUDED.item_count, ungrounded_count = EXCLUDED.ungrounded_count,
       attempts = 0, reason = 0, message = ''
""")

_CHUNKS = text("""
SELECT chunk_index, start_offset, end_offset, content_hash, fingerprint, state, result, item_count, attempts,
       reason, message
  FROM extractor.chunks WHERE source_id = :source_id AND version = :version ORDER BY chunk_index
""")

_SAVE = text(f"""
UPDATE extractor.chunks c
   SET state = u.state, result = u.result, item_count = u.item_count, ungrounded_count = u.ungrounded_count,
       attempts = u.attempts, reason = u.reason, message = u.message
  FROM unnest(CAST(:indexes AS integer[]), CAST(:states AS smallint[]), CAST(:results AS jsonb[]),
              CAST(:item_counts AS integer[]), CAST(:ungrounded_counts AS integer[]), CAST(:attempts AS integer[]),
              CAST(:reasons AS smallint[]), CAST(:messages AS text[]))
       AS u (chunk_index, state, result, item_count, ungrounded_count, attempts, reason, message)
 WHERE c.source_id = :source_id AND c.version = :version AND c.chunk_index = u.chunk_index
   AND EXISTS (SELECT FROM extractor.source_versions v WHERE {_MINE})
""")

_LOCK_SOURCE = text("SELECT visible_version FROM extractor.sources WHERE source_id = :source_id FOR UPDATE")

_LOCK_MINE = text(f"SELECT v.version FROM extractor.source_versions v WHERE {_MINE} FOR UPDATE")

_SHOW = text("""
UPDATE extractor.sources SET visible_version = :version, update_time = now() WHERE source_id = :source_id
""")

_FORGET = text("DELETE FROM extractor.source_versions WHERE source_id = :source_id AND version < :version")

_FINISH = text(f"""
UPDATE extractor.source_versions v
   SET state = :state, reason = :reason, message = :message, end_time = now()
 WHERE {_MINE}
""")


_DURATION = text("""
SELECT end_time - start_time FROM extractor.source_versions WHERE source_id = :source_id AND version = :version
""")

_STRANDED = text("""
SELECT v.source_id, v.version, v.job_id, v.fence
  FROM extractor.source_versions v JOIN extractor.sources s USING (source_id)
 WHERE v.end_time IS NULL AND s.update_time < now() - CAST(:older_than AS interval)
   AND (CAST(:job_ids AS uuid[]) IS NULL OR v.job_id = ANY(CAST(:job_ids AS uuid[])))
   AND NOT EXISTS (SELECT FROM extractor.outbox o WHERE o.topic = 'job' AND o.key = v.job_id)
 ORDER BY s.update_time LIMIT :limit
""")

_NEW_JOB = text(f"""
WITH mine AS (
    UPDATE extractor.source_versions v SET job_id = :new_job_id, fence = 0, state = {SourceState.PENDING:d}
      FROM extractor.sources s
     WHERE s.source_id = v.source_id AND {_MINE} AND v.end_time IS NULL
    RETURNING v.source_id, v.version, s.project_id
)
INSERT INTO extractor.outbox (topic, key, operation, version, project_id, source_id)
SELECT 'job', :new_job_id, {Operation.UPSERT:d}, version, project_id, source_id FROM mine
""")


class PostgresVersions:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def begin(self, ref: VersionRef) -> tuple[SourceVersion, int] | None:
        """Takes the version over for this lease. The newest version of the source comes with it.

        None when the version is gone; raises `StaleHolder` when a newer lease has it.
        Content comes only while it has not been read as text.
        """
        result = await self._transaction.execute(_LOCK, _key(ref))
        row = result.mappings().one_or_none()
        if row is None:
            return None
        if row["fence"] > ref.fence:
            raise StaleHolder
        await self._transaction.execute(
            _BEGIN, {**_key(ref), "fence": ref.fence, "extracting": int(SourceState.EXTRACTING)}
        )
        await self._transaction.execute(_TOUCH, {"source_id": ref.source_id})
        if row["published"]:
            await self._transaction.execute(_RETRY_CHUNKS, _place(ref))
        return _version(ref, row), row["newest"]

    async def exists(self, ref: VersionRef) -> bool:
        """Whether the version is still there, whoever holds it."""
        return (await self._transaction.execute(_EXISTS, _key(ref))).scalar_one()

    async def lay_out(
        self, ref: VersionRef, *, text: str, title: str, media_type: str, fingerprint: str, chunks: Sequence[Chunk]
    ) -> None:
        """Stores the text and its chunks. Chunks that are known from before bring their results along."""
        result = await self._transaction.execute(
            _STORE_TEXT,
            {**_fenced(ref), "text": text, "length": len(text), "title": title, "media_type": media_type},
        )
        _require(result.rowcount, 1)
        await self._transaction.execute(_CLEAR_CHUNKS, {**_place(ref), "count": len(chunks)})
        if chunks:
            await self._transaction.execute(
                _ADD_CHUNKS,
                {
                    **_place(ref),
                    "fingerprint": fingerprint,
                    "indexes": [chunk.index for chunk in chunks],
                    "starts": [chunk.start for chunk in chunks],
                    "ends": [chunk.end for chunk in chunks],
                    "hashes": [chunk.content_hash for chunk in chunks],
                },
            )

    async def chunks(self, source_id: UUID, version: int) -> list[ChunkRow]:
        """In order."""
        result = await self._transaction.execute(_CHUNKS, {"source_id": source_id, "version": version})
        return [_chunk(row) for row in result.mappings()]

    async def save(self, ref: VersionRef, outcomes: Sequence[ChunkOutcome]) -> None:
        """Writes down what became of chunks; raises `StaleHolder` when the lease is not the newest."""
        parameters = {
            **_fenced(ref),
            "indexes": [each.index for each in outcomes],
            "states": [int(each.state) for each in outcomes],
            "results": [None if each.result is None else orjson.dumps(each.result).decode() for each in outcomes],
            "item_counts": [each.item_count for each in outcomes],
            "ungrounded_counts": [each.ungrounded_count for each in outcomes],
            "attempts": [each.attempts for each in outcomes],
            "reasons": [int(each.reason) for each in outcomes],
            "messages": [each.message for each in outcomes],
        }
        result = await self._transaction.execute(_SAVE, parameters)
        _require(result.rowcount, len(outcomes))

    async def claim_publish(self, ref: VersionRef) -> int:
        """Locks the source and checks the fence; returns the version that is visible. Raises `StaleHolder`."""
        result = await self._transaction.execute(_LOCK_SOURCE, {"source_id": ref.source_id})
        visible: int | None = result.scalar_one_or_none()
        mine = await self._transaction.execute(_LOCK_MINE, _fenced(ref))
        if visible is None or mine.scalar_one_or_none() is None:
            raise StaleHolder
        return visible

    async def show(self, ref: VersionRef) -> None:
        """Makes the claimed version the visible one and forgets those before it.

        The database refuses the commit unless every fact of the source is then verbatim in the version's text.
        """
        await self._transaction.execute(_SHOW, _place(ref))
        await self._transaction.execute(_FORGET, _place(ref))

    async def finish(self, ref: VersionRef, ending: Ending) -> None:
        parameters = {
            **_fenced(ref),
            "state": int(ending.state),
            "reason": int(ending.reason),
            "message": ending.message,
        }
        result = await self._transaction.execute(_FINISH, parameters)
        _require(result.rowcount, 1)
        await self._transaction.execute(_TOUCH, {"source_id": ref.source_id})

    async def duration(self, source_id: UUID, version: int) -> timedelta | None:
        """From the first lease of its job to its end; None while it is open."""
        result = await self._transaction.execute(_DURATION, {"source_id": source_id, "version": version})
        return result.scalar_one_or_none()

    async def stranded(
        self, *, older_than: timedelta, limit: int, job_ids: Sequence[UUID] | None = None
    ) -> list[VersionRef]:
        """Versions, of these jobs or any, that are open although nothing has moved for so long and no intent waits."""
        parameters = {"older_than": older_than, "limit": limit, "job_ids": None if job_ids is None else list(job_ids)}
        result = await self._transaction.execute(_STRANDED, parameters)
        return [
            VersionRef(source_id=row.source_id, version=row.version, job_id=row.job_id, fence=row.fence)
            for row in result
        ]

    async def give_new_job(self, ref: VersionRef, *, job_id: UUID) -> None:
        """Replaces the job of a version that is open, unless a holder has come in the meantime."""
        await self._transaction.execute(_NEW_JOB, {**_fenced(ref), "new_job_id": job_id})
        await self._transaction.execute(_TOUCH, {"source_id": ref.source_id})


def _require(changed: int, expected: int) -> None:
    if changed != expected:
        raise StaleHolder


def _place(ref: VersionRef) -> dict[str, Any]:
    return {"source_id": ref.source_id, "version": ref.version}


def _key(ref: VersionRef) -> dict[str, Any]:
    return {**_place(ref), "job_id": ref.job_id}


def _fenced(ref: VersionRef) -> dict[str, Any]:
    return {**_key(ref), "fence": ref.fence}


def _version(ref: VersionRef, row: RowMapping) -> SourceVersion:
    return SourceVersion(
        ref=ref,
        project_id=row["project_id"],
        incarnation=row["incarnation"],
        uri=row["uri"],
        title=row["title"],
        group=row["group_name"],
        media_type=row["media_type"],
        content=row["content"],
        text=row["text"],
        published=row["published"],
    )


def _chunk(row: RowMapping) -> ChunkRow:
    return ChunkRow(
        index=row["chunk_index"],
        start=row["start_offset"],
        end=row["end_offset"],
        content_hash=row["content_hash"],
        fingerprint=row["fingerprint"],
        state=ChunkState(row["state"]),
        result=row["result"],
        item_count=row["item_count"],
        attempts=row["attempts"],
        reason=Reason(row["reason"]),
        message=row["message"],
    )
