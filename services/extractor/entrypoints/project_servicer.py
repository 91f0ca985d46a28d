"""`ProjectService`."""

from functools import partial
from uuid import UUID

from scristill.extractor.v1 import project_service_pb2 as pb
from scristill.extractor.v1.project_service_pb2_grpc import ProjectServiceServicer

from services.extractor.application.projects import ProjectCommands, ProjectQueries
from services.extractor.entrypoints import mapping
from services.shared.errors import InvalidRequest
from services.shared.grpc.interceptors.base import Context
from services.shared.paging import decode_token, encode_token, page_size

_PROJECTS = {"list": "projects"}
_TEMPLATES = {"list": "templates"}


class ProjectServicer(ProjectServiceServicer):
    def __init__(self, *, commands: ProjectCommands, queries: ProjectQueries) -> None:
        self._commands = commands
        self._queries = queries

    async def CreateProject(self, request: pb.CreateProjectRequest, context: Context) -> pb.CreateProjectResponse:
        new = mapping.to_new_project(request.project)
        project = await self._commands.create(new, request_id=UUID(request.request_id))
        return pb.CreateProjectResponse(project=mapping.from_project(project))

    async def GetProject(self, request: pb.GetProjectRequest, context: Context) -> pb.GetProjectResponse:
        if request.WhichOneof("selector") == "project_id":
            project = await self._queries.get(UUID(request.project_id))
        else:
            project = await self._queries.get_by_name(request.display_name)
        return pb.GetProjectResponse(project=mapping.from_project(project))

    async def ListProjects(self, request: pb.ListProjectsRequest, context: Context) -> pb.ListProjectsResponse:
        limit = page_size(request.page_size)
        after = decode_token(request.page_token, arguments=_PROJECTS)
        projects = await self._queries.page(after=UUID(after["id"]) if after else None, limit=limit)
        full = len(projects) == limit
        return pb.ListProjectsResponse(
            projects=[mapping.from_project(project) for project in projects],
            next_page_token=encode_token({"id": str(projects[-1].project_id)}, arguments=_PROJECTS) if full else "",
        )

    async def UpdateProject(self, request: pb.UpdateProjectRequest, context: Context) -> pb.UpdateProjectResponse:
        paths = list(request.update_mask.paths)
        if not paths:
            raise InvalidRequest.of("update_mask", "names no field")
        try:
            project_id = UUID(request.project.project_id)
        except ValueError as error:
            raise InvalidRequest.of("project.project_id", "must be a UUID") from error
        project = await self._commands.update(
            project_id,
            partial(mapping.changed_project, message=request.project, paths=paths),
            etag=request.project.etag,
        )
        return pb.UpdateProjectResponse(project=mapping.from_project(project))

    async def DeleteProject(self, request: pb.DeleteProjectRequest, context: Context) -> pb.DeleteProjectResponse:
        deleted = await self._commands.delete(UUID(request.project_id))
        return pb.DeleteProjectResponse(source_count=deleted.source_count, extraction_count=deleted.extraction_count)

    async def ListTemplates(self, request: pb.ListTemplatesRequest, context: Context) -> pb.ListTemplatesResponse:
        limit = page_size(request.page_size)
        after = decode_token(request.page_token, arguments=_TEMPLATES)
        templates = self._queries.templates(after=after["name"] if after else "", limit=limit)
        full = len(templates) == limit
        return pb.ListTemplatesResponse(
            templates=[mapping.from_template(template) for template in templates],
            next_page_token=encode_token({"name": templates[-1].name}, arguments=_TEMPLATES) if full else "",
        )
