"""The whole extractor inside the test's own loop, served over real gRPC on a free port."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc.aio
from scristill.extractor.v1 import (
    consistency_service_pb2_grpc,
    extraction_service_pb2,
    extraction_service_pb2_grpc,
    project_service_pb2,
    project_service_pb2_grpc,
    source_pb2,
    source_service_pb2,
    source_service_pb2_grpc,
)

from services.extractor.bootstrap import bootstrap
from services.extractor.settings import ExtractorSettings
from services.shared.lifecycle import Drain, LoopSupervisor
from services.shared.process import build_server
from services.shared.service import Runtime
from services.shared.telemetry.metrics import Metrics


@dataclass(slots=True, kw_only=True)
class Extractor:
    """A client of the running service."""

    projects: project_service_pb2_grpc.ProjectServiceStub
    sources: source_service_pb2_grpc.SourceServiceStub
    extractions: extraction_service_pb2_grpc.ExtractionServiceStub
    consistency: consistency_service_pb2_grpc.ConsistencyServiceStub
    metrics: Metrics
    drain: Drain

    async def project(self, **fields: Any) -> str:
        new = project_service_pb2.NewProject(**{"display_name": f"project {uuid4()}"} | fields)
        response = await self.projects.CreateProject(
            project_service_pb2.CreateProjectRequest(request_id=str(uuid4()), project=new)
        )
        return response.project.project_id

    async def create(self, project_id: str, **texts: str) -> list[source_service_pb2.CreateSourceResult]:
        """One source per keyword."""
        request = source_service_pb2.CreateSourcesRequest(
            project_id=project_id,
            sources=[
                source_service_pb2.NewSource(spec=source_pb2.SourceSpec(uri=f"file:///{name}.txt"), text=text)
                for name, text in texts.items()
            ],
        )
        return list((await self.sources.CreateSources(request)).results)

    async def source(self, source_id: str) -> source_pb2.Source:
        request = source_service_pb2.GetSourceRequest(source_id=source_id)
        return (await self.sources.GetSource(request)).source

    async def facts(self, project_id: str) -> list[Any]:
        request = extraction_service_pb2.ListExtractionsRequest(project_id=project_id, page_size=1000)
        return list((await self.extractions.ListExtractions(request)).extractions)


@asynccontextmanager
async def serving_extractor(url: str, **overrides: Any) -> AsyncIterator[Extractor]:
    settings = ExtractorSettings(
        **{"database_url": url, "port": 0, "drain_seconds": 2.0, "relay_poll_seconds": 0.1} | overrides
    )
    runtime = Runtime(
        name="extractor", version="0", drain=Drain(), metrics=Metrics(), instance=f"test-{uuid4().hex[:6]}"
    )
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(bootstrap(settings, runtime))
        server = build_server(settings, runtime, service)
        loops = LoopSupervisor(service.loops)
        port = await server.start()
        loops.start()
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        try:
            yield Extractor(
                projects=project_service_pb2_grpc.ProjectServiceStub(channel),
                sources=source_service_pb2_grpc.SourceServiceStub(channel),
                extractions=extraction_service_pb2_grpc.ExtractionServiceStub(channel),
                consistency=consistency_service_pb2_grpc.ConsistencyServiceStub(channel),
                metrics=runtime.metrics,
                drain=runtime.drain,
            )
        finally:
            runtime.drain.start()
            await server.stop(1)
            await loops.stop(patience=8)
            assert not loops.crashed.is_set()
