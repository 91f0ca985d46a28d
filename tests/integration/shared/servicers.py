"""Servicers whose behaviour each test passes in; requests and responses are those of the contract."""

# ruff: noqa: N802 - methods are named by gRPC

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from scristill.common.v1.server_info_service_pb2 import GetServerInfoRequest
from scristill.common.v1.server_info_service_pb2_grpc import ServerInfoServiceStub
from scristill.extractor.v1 import source_service_pb2 as source_pb
from scristill.extractor.v1 import source_service_pb2_grpc as source_grpc
from scristill.indexer.v1 import indexer_service_pb2 as indexer_pb
from scristill.indexer.v1 import indexer_service_pb2_grpc as indexer_grpc
from scristill.scheduler.v1 import scheduler_service_pb2 as scheduler_pb
from scristill.scheduler.v1 import scheduler_service_pb2_grpc as scheduler_grpc

from services.shared.grpc.server import Registration, register

JOB_ID = "018f4e5c-7d3a-7c11-9d8e-0123456789ab"

GET_JOB = "scristill.scheduler.v1.SchedulerService/GetJob"
WATCH_JOBS = "scristill.scheduler.v1.SchedulerService/WatchJobs"


class UnaryUnary(scheduler_grpc.SchedulerServiceServicer):
    def __init__(self, handle: Callable[[Any, Any], Awaitable[Any]]) -> None:
        self._handle = handle

    async def GetJob(self, request, context):
        return await self._handle(request, context)

    async def CreateJob(self, request, context):
        return await self._handle(request, context)


class UnaryStream(scheduler_grpc.SchedulerServiceServicer):
    def __init__(self, handle: Callable[[Any, Any], AsyncIterator[Any]]) -> None:
        self._handle = handle

    async def WatchJobs(self, request, context):
        async for frame in self._handle(request, context):
            yield frame


class UnaryStreamByContext(scheduler_grpc.SchedulerServiceServicer):
    def __init__(self, handle: Callable[[Any, Any], Awaitable[None]]) -> None:
        self._handle = handle

    async def WatchJobs(self, request, context):
        await self._handle(request, context)


class StreamUnary(source_grpc.SourceServiceServicer):
    def __init__(self, handle: Callable[[Any, Any], Awaitable[Any]]) -> None:
        self._handle = handle

    async def UploadSource(self, request_iterator, context):
        return await self._handle(request_iterator, context)


class StreamStream(indexer_grpc.IndexerServiceServicer):
    def __init__(self, handle: Callable[[Any, Any], AsyncIterator[Any]]) -> None:
        self._handle = handle

    async def IndexFacts(self, request_iterator, context):
        async for frame in self._handle(request_iterator, context):
            yield frame


def scheduler(servicer: scheduler_grpc.SchedulerServiceServicer) -> Registration:
    return register(scheduler_grpc.add_SchedulerServiceServicer_to_server, servicer)


def sources(servicer: source_grpc.SourceServiceServicer) -> Registration:
    return register(source_grpc.add_SourceServiceServicer_to_server, servicer)


def indexer(servicer: indexer_grpc.IndexerServiceServicer) -> Registration:
    return register(indexer_grpc.add_IndexerServiceServicer_to_server, servicer)


def job_request(job_id: str = JOB_ID) -> scheduler_pb.GetJobRequest:
    return scheduler_pb.GetJobRequest(job_id=job_id)


def chunk(data: bytes = b"x") -> source_pb.UploadSourceRequest:
    return source_pb.UploadSourceRequest(chunk=data)


def opening(client_id: str = "test") -> indexer_pb.IndexFactsRequest:
    return indexer_pb.IndexFactsRequest(open=indexer_pb.IndexStreamOpen(client_id=client_id))


async def health(channel: Any, service: str = "") -> Any:
    return await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))


async def server_info(channel: Any) -> Any:
    return await ServerInfoServiceStub(channel).GetServerInfo(GetServerInfoRequest())
