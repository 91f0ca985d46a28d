"""What clients read: facts by position, entities by mention, counts."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, TextClause, text

from services.extractor.adapters.postgres.values import said
from services.extractor.domain.extraction import (
    Consistency,
    Entity,
    EntityFilter,
    EntityPosition,
    Extraction,
    ExtractionFilter,
    ExtractionPosition,
)
from services.extractor.domain.source import SourceState
from services.shared.database.unit_of_work import Transaction

# All live facts of a source belong to its visible version: the database keeps no others.
_SELECT = """
SELECT e.extraction_id, e.project_id, e.source_id, s.visible_version AS source_version, e.group_name, e.item_key,
       e.statement, e.category, e.field_values, e.quote, e.start_offset, e.end_offset, e.context_before,
       e.context_after, e.entities, e.confidence, e.model, e.chunk_index, e.version, e.embedding_id, e.extract_time
  FROM extractor.extractions e JOIN extractor.sources s USING (source_id)
"""

_GET = text(f"{_SELECT} WHERE e.extraction_id = :extraction_id")

_ENTITIES = """
WITH links AS (
    SELECT entity_id, count(*) AS extraction_count FROM extractor.entity_links
     WHERE project_id = :project_id GROUP BY entity_id
), mentions AS (
    SELECT entity_id, type, name, sum(mention_count) AS weight FROM extractor.entity_mentions
     WHERE project_id = :project_id {mentioned} GROUP BY entity_id, type, name
), sources AS (
    SELECT entity_id, count(DISTINCT source_id) AS source_count FROM extractor.entity_mentions
     WHERE project_id = :project_id GROUP BY entity_id
), entities AS (
    SELECT DISTINCT ON (m.entity_id) m.entity_id, m.type, m.name, s.source_count,
           coalesce(l.extraction_count, 0) AS extraction_count
      FROM mentions m JOIN sources s USING (entity_id) LEFT JOIN links l USING (entity_id)
     ORDER BY m.entity_id, m.weight DESC, m.name
)
SELECT entity_id, type, name, extraction_count, source_count FROM entities
 WHERE {wanted}
 ORDER BY extraction_count DESC, entity_id LIMIT :limit
"""

_CONSISTENCY = text(
    f"""
SELECT
    (SELECT count(*) FROM extractor.extractions e WHERE {{scope}}) AS fact_count,
    (SELECT count(e.embedding_id) FROM extractor.extractions e WHERE {{scope}}) AS indexed_count,
    (SELECT count(*) FROM extractor.outbox e WHERE e.since IS NOT NULL AND {{scope}}) AS pending_intent_count,
    (SELECT min(e.create_time) FROM extractor.outbox e WHERE e.since IS NOT NULL AND {{scope}}) AS oldest_intent_time,
    (SELECT count(*) FROM extractor.dead_letters e WHERE {{scope}}) AS dead_letter_count,
    (SELECT count(*) FROM extractor.source_versions v JOIN extractor.sources e
        ON e.source_id = v.source_id AND e.version = v.version
      WHERE v.state IN ({SourceState.PENDING:d}, {SourceState.EXTRACTING:d}) AND {{scope}}) AS open_source_count
""".format(scope="(CAST(:project_id AS uuid) IS NULL OR e.project_id = CAST(:project_id AS uuid))")
)

_UNINDEXED = text("""
SELECT count(*) FROM extractor.extractions
 WHERE embedding_id IS NULL AND extract_time < now() - CAST(:older_than AS interval)
""")


class PostgresExtractions:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def get(self, extraction_id: UUID) -> Extraction | None:
        result = await self._transaction.execute(_GET, {"extraction_id": extraction_id})
        row = result.mappings().one_or_none()
        return None if row is None else _extraction(row)

    async def page(
        self, project_id: UUID, wanted: ExtractionFilter, *, after: ExtractionPosition | None, limit: int
    ) -> list[Extraction]:
        """By source and position."""
        statement, parameters = _list(project_id, wanted, after=after, limit=limit)
        result = await self._transaction.execute(statement, parameters)
        return [_extraction(row) for row in result.mappings()]

    async def entities(
        self, project_id: UUID, wanted: EntityFilter, *, after: EntityPosition | None, limit: int
    ) -> list[Entity]:
        """Most mentioned first."""
        statement, parameters = _list_entities(project_id, wanted, after=after, limit=limit)
        result = await self._transaction.execute(statement, parameters)
        return [
            Entity(
                entity_id=row["entity_id"],
                project_id=project_id,
                type=row["type"],
                name=row["name"],
                extraction_count=row["extraction_count"],
                source_count=row["source_count"],
            )
            for row in result.mappings()
        ]

    async def consistency(self, project_id: UUID | None) -> Consistency:
        """Counts of one project, or of all."""
        result = await self._transaction.execute(_CONSISTENCY, {"project_id": project_id})
        return Consistency(**result.mappings().one())

    async def unindexed(self, *, older_than: timedelta) -> int:
        """Facts that the index has not acknowledged for so long."""
        return (await self._transaction.execute(_UNINDEXED, {"older_than": older_than})).scalar_one()


def _list(
    project_id: UUID, wanted: ExtractionFilter, *, after: ExtractionPosition | None, limit: int
) -> tuple[TextClause, dict[str, Any]]:
    conditions = ["e.project_id = :project_id"]
    parameters: dict[str, Any] = {"project_id": project_id, "limit": limit}

    def any_of(column: str, kind: str, values: Sequence[object]) -> None:
        if values:
            conditions.append(f"e.{column} = ANY(CAST(:{column} AS {kind}[]))")
            parameters[column] = list(values)

    any_of("source_id", "uuid", wanted.source_ids)
    any_of("group_name", "text", wanted.groups)
    any_of("category", "text", wanted.categories)
    if wanted.min_confidence:
        conditions.append("e.confidence >= :min_confidence")
        parameters["min_confidence"] = wanted.min_confidence
    if wanted.unindexed_only:
        conditions.append("e.embedding_id IS NULL")
    if after is not None:
        conditions.append("(e.source_id, e.start_offset, e.extraction_id) > (:after_source, :after_start, :after_id)")
        parameters |= {
            "after_source": after.source_id,
            "after_start": after.start,
            "after_id": after.extraction_id,
        }
    order = "ORDER BY e.source_id, e.start_offset, e.extraction_id LIMIT :limit"
    return text(f"{_SELECT} WHERE {' AND '.join(conditions)} {order}"), parameters


def _list_entities(
    project_id: UUID, wanted: EntityFilter, *, after: EntityPosition | None, limit: int
) -> tuple[TextClause, dict[str, Any]]:
    conditions = ["true"]
    mentioned = ""
    parameters: dict[str, Any] = {"project_id": project_id, "limit": limit}
    if wanted.types:
        mentioned = "AND type = ANY(CAST(:types AS text[]))"
        parameters["types"] = list(wanted.types)
    if wanted.name_prefix:
        conditions.append("starts_with(lower(name), lower(:prefix))")
        parameters["prefix"] = wanted.name_prefix
    if after is not None:
        conditions.append(
            "(extraction_count < :after_count OR extraction_count = :after_count AND entity_id > :after_id)"
        )
        parameters |= {"after_count": after.extraction_count, "after_id": after.entity_id}
    return text(_ENTITIES.format(mentioned=mentioned, wanted=" AND ".join(conditions))), parameters


def _extraction(row: RowMapping) -> Extraction:
    return Extraction(
        extraction_id=row["extraction_id"],
        project_id=row["project_id"],
        source_id=row["source_id"],
        source_version=row["source_version"],
        **said(row),
        item_key=row["item_key"],
        model=row["model"],
        chunk_index=row["chunk_index"],
        version=row["version"],
        embedding_id=row["embedding_id"],
    )
