"""Projects by name or id, and the choice of one where the user names none."""

import re
import uuid
from collections.abc import AsyncIterator

from scristill.extractor.v1 import project_service_pb2 as pb
from scristill.extractor.v1.project_pb2 import Project
from scristill.extractor.v1.project_service_pb2_grpc import ProjectServiceStub

from services.cli.connection import PAGE_SIZE, Connection, pages
from services.cli.errors import Missing, Usage
from services.shared.errors import Code, Reason, RemoteError

DEFAULT = "default"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Projects:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = ProjectServiceStub(connection.channel("extractor"))

    async def every(self) -> AsyncIterator[Project]:
        """Newest first, without counts."""

        async def fetch(token: str) -> pb.ListProjectsResponse:
            with self._connection.errors("extractor"):
                return await self._stub.ListProjects(pb.ListProjectsRequest(page_size=PAGE_SIZE, page_token=token))

        async for page in pages(fetch):
            for project in page.projects:
                yield project

    async def get(self, name_or_id: str) -> Project:
        """With counts."""
        request = (
            pb.GetProjectRequest(project_id=name_or_id)
            if UUID.fullmatch(name_or_id)
            else pb.GetProjectRequest(display_name=name_or_id)
        )
        try:
            with self._connection.errors("extractor"):
                return (await self._stub.GetProject(request)).project
        except RemoteError as error:
            if error.code is Code.NOT_FOUND and error.reason is Reason.RESOURCE_NOT_FOUND:
                raise Missing(f"there is no project {name_or_id!r} (`scristill project list`)") from error
            raise

    async def create(self, name: str, *, template: str = DEFAULT, description: str = "") -> Project:
        project = pb.NewProject(display_name=name, template=template, description=description)
        with self._connection.errors("extractor"):
            request = pb.CreateProjectRequest(request_id=str(uuid.uuid4()), project=project)
            return (await self._stub.CreateProject(request)).project

    async def get_or_create(self, name: str) -> tuple[Project, bool]:
        """And whether it was made."""
        try:
            return await self.get(name), False
        except Missing:
            return await self.create(name), True

    async def chosen(self, name_or_id: str | None) -> Project:
        """The one named; else the one called `default`; else the only one."""
        if name_or_id:
            return await self.get(name_or_id)
        existing = [project async for project in self.every()]
        named_default = [project for project in existing if project.display_name == DEFAULT]
        if named_default or len(existing) == 1:
            return (named_default or existing)[0]
        if not existing:
            raise Missing("there is no project yet: `scristill project create NAME`")
        raise Usage("there are several projects: choose one with --project NAME or SCRISTILL_PROJECT")

    async def chosen_or_first(self, name_or_id: str | None) -> Project:
        """As `chosen`, but makes the project `default` where there is none at all."""
        try:
            return await self.chosen(name_or_id)
        except Missing:
            if name_or_id:
                raise
            project, _ = await self.get_or_create(DEFAULT)
            return project
