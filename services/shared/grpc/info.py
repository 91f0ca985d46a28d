"""`ServerInfoService`, registered on every server."""

# ruff: noqa: N802, ARG002 - methods and parameters are named by gRPC

from collections.abc import Iterable

from scristill.common.v1 import server_info_service_pb2 as pb
from scristill.common.v1 import server_info_service_pb2_grpc as pb_grpc

from services.shared.grpc.interceptors.base import Context


class ServerInfo(pb_grpc.ServerInfoServiceServicer):
    def __init__(self, *, service: str, version: str, capabilities: Iterable[str]) -> None:
        self._response = pb.GetServerInfoResponse(service=service, version=version, capabilities=sorted(capabilities))

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        return self._response
