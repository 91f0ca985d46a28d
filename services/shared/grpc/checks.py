"""The check of a peer for `--check`: does it answer and serve?"""

from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.shared.checks import Check, CheckFailed
from services.shared.grpc.channel import connect

_TIMEOUT = 5.0


def peer_check(name: str, address: str) -> Check:
    """`name` as in `scheduler`, for the output."""

    async def run() -> None:
        async with connect(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT)
            except grpc.RpcError as error:
                raise CheckFailed(f"{address}: {error.code().name}") from error
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise CheckFailed(f"{address} is not serving")

    return Check(name=name, run=run)
