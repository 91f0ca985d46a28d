"""Projects in PostgreSQL."""

from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text

from services.extractor.domain.grounding import GroundingPolicy
from services.extractor.domain.project import NewProject, Project
from services.extractor.domain.schema import ExtractionSchema, FieldGroup
from services.shared.database.unit_of_work import Transaction
from services.shared.errors import AlreadyExists

_COLUMNS = """p.project_id, p.display_name, p.description, p.schema, p.model, p.grounding_policy, p.revision,
    p.create_time, p.update_time"""

_INSERT = text(f"""
INSERT INTO extractor.projects AS p
    (project_id, display_name, description, schema, model, grounding_policy, request_id, request_hash)
VALUES (:project_id, :display_name, :description, CAST(:schema AS jsonb), :model, :grounding_policy,
        :request_id, :request_hash)
ON CONFLICT DO NOTHING
RETURNING {_COLUMNS}
""")

_BY_REQUEST = text(f"SELECT {_COLUMNS}, p.request_hash FROM extractor.projects p WHERE p.request_id = :request_id")

_BY_NAME = text("SELECT project_id FROM extractor.projects WHERE display_name = :display_name")

_GET = """
SELECT {columns},
       (SELECT count(*) FROM extractor.sources s WHERE s.project_id = p.project_id) AS source_count,
       (SELECT count(*) FROM extractor.extractions e WHERE e.project_id = p.project_id) AS extraction_count
  FROM extractor.projects p WHERE {key}
"""
_GET_BY_ID = text(_GET.format(columns=_COLUMNS, key="p.project_id = :project_id"))
_GET_BY_NAME = text(_GET.format(columns=_COLUMNS, key="p.display_name = :display_name"))

# Ids are UUIDv7: their order is that of creation.
_LIST = text(f"""
SELECT {_COLUMNS} FROM extractor.projects p
 WHERE CAST(:after AS uuid) IS NULL OR p.project_id < CAST(:after AS uuid)
 ORDER BY p.project_id DESC LIMIT :limit
""")

_LOCK = text(f"SELECT {_COLUMNS} FROM extractor.projects p WHERE p.project_id = :project_id FOR UPDATE")

_HOLD = text(f"SELECT {_COLUMNS} FROM extractor.projects p WHERE p.project_id = :project_id FOR KEY SHARE")

_UPDATE = text(f"""
UPDATE extractor.projects AS p
   SET display_name = :display_name, description = :description, schema = CAST(:schema AS jsonb), model = :model,
       grounding_policy = :grounding_policy, revision = p.revision + 1, update_time = now()
 WHERE p.project_id = :project_id
RETURNING {_COLUMNS}
""")

_NAME_TAKEN = text("""
SELECT project_id FROM extractor.projects WHERE display_name = :display_name AND project_id <> :project_id
""")

_DELETE = text("""
WITH marker AS (DELETE FROM extractor.markers WHERE project_id = :project_id)
DELETE FROM extractor.projects WHERE project_id = :project_id
""")


class PostgresProjects:
    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    async def create(
        self, project_id: UUID, new: NewProject, schema: ExtractionSchema, *, request_id: UUID, request_hash: bytes
    ) -> tuple[Project, bytes]:
        """The project of this request, made now or before, and the hash of the request that made it."""
        parameters = {
            "project_id": project_id,
            "display_name": new.display_name,
            "description": new.description,
            "schema": _encode(schema),
            "model": new.model,
            "grounding_policy": new.grounding_policy.value,
            "request_id": request_id,
            "request_hash": request_hash,
        }
        created = await self._one(_INSERT, **parameters)
        if created is not None:
            return _project(created), request_hash
        known = await self._one(_BY_REQUEST, request_id=request_id)
        if known is not None:
            return _project(known), known["request_hash"]
        taken = await self._one(_BY_NAME, display_name=new.display_name)
        raise AlreadyExists.of("project", taken["project_id"] if taken else new.display_name)

    async def get(self, project_id: UUID) -> Project | None:
        row = await self._one(_GET_BY_ID, project_id=project_id)
        return None if row is None else _project(row)

    async def get_by_name(self, display_name: str) -> Project | None:
        row = await self._one(_GET_BY_NAME, display_name=display_name)
        return None if row is None else _project(row)

    async def page(self, *, after: UUID | None, limit: int) -> list[Project]:
        result = await self._transaction.execute(_LIST, {"after": after, "limit": limit})
        return [_project(row) for row in result.mappings()]

    async def lock(self, project_id: UUID) -> Project | None:
        """Keeps everybody else from changing, deleting or filling the project until the transaction ends."""
        row = await self._one(_LOCK, project_id=project_id)
        return None if row is None else _project(row)

    async def hold(self, project_id: UUID) -> Project | None:
        """Keeps the project from being deleted until the transaction ends."""
        row = await self._one(_HOLD, project_id=project_id)
        return None if row is None else _project(row)

    async def update(self, project: Project) -> Project:
        """Stores a project that is locked."""
        taken = await self._one(_NAME_TAKEN, display_name=project.display_name, project_id=project.project_id)
        if taken is not None:
            raise AlreadyExists.of("project", taken["project_id"])
        parameters = {
            "project_id": project.project_id,
            "display_name": project.display_name,
            "description": project.description,
            "schema": _encode(project.schema),
            "model": project.model,
            "grounding_policy": project.grounding_policy.value,
        }
        result = await self._transaction.execute(_UPDATE, parameters)
        return _project(result.mappings().one())

    async def delete(self, project_id: UUID) -> None:
        await self._transaction.execute(_DELETE, {"project_id": project_id})

    async def _one(self, statement: Any, **parameters: object) -> RowMapping | None:
        return (await self._transaction.execute(statement, parameters)).mappings().one_or_none()


def _project(row: RowMapping) -> Project:
    return Project(
        project_id=row["project_id"],
        display_name=row["display_name"],
        description=row["description"],
        schema=_decode(row["schema"]),
        model=row["model"],
        grounding_policy=GroundingPolicy(row["grounding_policy"]),
        revision=row["revision"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        source_count=row.get("source_count", 0),
        extraction_count=row.get("extraction_count", 0),
    )


def _encode(schema: ExtractionSchema) -> str:
    return orjson.dumps(schema).decode()


def _decode(raw: dict[str, Any]) -> ExtractionSchema:
    groups = tuple(_group(group) for group in raw["groups"])
    return ExtractionSchema(groups=groups, template=raw["template"], instructions=raw["instructions"])


def _group(raw: dict[str, Any]) -> FieldGroup:
    raw["key_fields"] = tuple(raw["key_fields"])
    return FieldGroup(**raw)
