"""Commands and queries on projects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from uuid import UUID

import orjson

from services.extractor.application.ports import UnitOfWork, Wake
from services.extractor.domain import schema as schemas
from services.extractor.domain.outbox import Topic
from services.extractor.domain.project import NewProject, Project
from services.extractor.domain.schema import ExtractionSchema
from services.extractor.domain.templates import TEMPLATES, Template
from services.shared.errors import Aborted, InvalidRequest, NotFound, RequestIdReused
from services.shared.telemetry.tracing import current_traceparent

DEFAULT_TEMPLATE = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What a deletion took away; points follow by tombstones."""

    source_count: int
    extraction_count: int


class ProjectCommands:
    def __init__(self, *, unit_of_work: UnitOfWork, wake: Wake, new_id: Callable[[], UUID]) -> None:
        self._unit_of_work = unit_of_work
        self._wake = wake
        self._new_id = new_id

    async def create(self, new: NewProject, *, request_id: UUID) -> Project:
        schema = _schema_of(new)
        schemas.validate(schema)
        _refuse_nul(new, schema)
        request_hash = sha256(orjson.dumps([new, schema])).digest()
        async with self._unit_of_work() as repositories:
            project, known_hash = await repositories.projects.create(
                self._new_id(), new, schema, request_id=request_id, request_hash=request_hash
            )
        if known_hash != request_hash:
            raise RequestIdReused(
                "the request_id was used before with another project", metadata={"request_id": request_id}
            )
        return project

    async def update(self, project_id: UUID, changes: Callable[[Project], Project], *, etag: str) -> Project:
        """Applies `changes`. With an etag, only to the very state that the caller has seen."""
        async with self._unit_of_work() as repositories:
            present = await repositories.projects.lock(project_id)
            if present is None:
                raise NotFound.of("project", project_id)
            if etag and etag != str(present.revision):
                raise Aborted("the project was changed by someone else", metadata={"current_etag": present.revision})
            changed = changes(present)
            schemas.validate(changed.schema)
            _refuse_nul(changed, changed.schema)
            return await repositories.projects.update(changed)

    async def delete(self, project_id: UUID) -> Deleted:
        """Sources, facts and rows go now, in one transaction with the tombstones that take the points away."""
        async with self._unit_of_work() as repositories:
            if await repositories.projects.lock(project_id) is None:
                return Deleted(source_count=0, extraction_count=0)
            sources = await repositories.sources.lock_project(project_id)
            traceparent = current_traceparent()
            extraction_count = await repositories.facts.delete(sources, traceparent=traceparent)
            await repositories.sources.delete(sources, traceparent=traceparent)
            await repositories.projects.delete(project_id)
        for topic in Topic:
            self._wake(topic)
        return Deleted(source_count=len(sources), extraction_count=extraction_count)


class ProjectQueries:
    def __init__(self, *, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    async def get(self, project_id: UUID) -> Project:
        async with self._unit_of_work() as repositories:
            project = await repositories.projects.get(project_id)
        if project is None:
            raise NotFound.of("project", project_id)
        return project

    async def get_by_name(self, display_name: str) -> Project:
        async with self._unit_of_work() as repositories:
            project = await repositories.projects.get_by_name(display_name)
        if project is None:
            raise NotFound.of("project", display_name)
        return project

    async def page(self, *, after: UUID | None, limit: int) -> Sequence[Project]:
        """Newest first, without counts."""
        async with self._unit_of_work() as repositories:
            return await repositories.projects.page(after=after, limit=limit)

    def templates(self, *, after: str, limit: int) -> Sequence[Template]:
        names = sorted(name for name in TEMPLATES if name > after)
        return [TEMPLATES[name] for name in names[:limit]]


def _schema_of(new: NewProject) -> ExtractionSchema:
    name = new.template or DEFAULT_TEMPLATE
    if new.schema is not None:
        return replace(new.schema, template=new.template) if new.template else new.schema
    template = TEMPLATES.get(name)
    if template is None:
        raise NotFound.of("template", name)
    return template.schema


def _refuse_nul(project: NewProject | Project, schema: ExtractionSchema) -> None:
    """PostgreSQL cannot hold NUL, neither in text nor in JSON."""
    texts = [project.display_name, project.description, project.model, schema.instructions, schema.template]
    for group in schema.groups:
        texts += [group.name, group.description, group.item_schema, group.statement_field, *group.key_fields]
    if any("\x00" in text for text in texts):
        raise InvalidRequest.of("project", "holds a NUL character, which cannot be stored")
