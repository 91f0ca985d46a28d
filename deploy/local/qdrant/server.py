# The generated registration functions of qdrant_client and the health service have no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""The server's life: lock, port, collections, serving, and the way back."""

import asyncio
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2_grpc
from qdrant_client import grpc as qdrant

from deploy.local.qdrant.collections_service import CollectionsService, QdrantService
from deploy.local.qdrant.errors import StandInError
from deploy.local.qdrant.interceptor import AnswerInterceptor
from deploy.local.qdrant.points_service import PointsService
from deploy.local.qdrant.registry import Registry
from deploy.local.qdrant.shards import Lanes
from deploy.local.qdrant.storage import Storage

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_CONCURRENT_REQUESTS = 256
READ_THREADS = 4
DRAIN_SECONDS = 5.0

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
]


async def serve(*, root: Path, host: str, port: int, stop: asyncio.Event) -> None:
    """Serves until `stop` is set, then closes the collections. Raises StandInError when it cannot start or go on."""
    storage = Storage(root)
    storage.acquire()
    writes = ThreadPoolExecutor(1, thread_name_prefix="write")
    scans = ThreadPoolExecutor(1, thread_name_prefix="scan")
    reads = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read")
    try:
        async with asyncio.TaskGroup() as tasks:
            registry = Registry(storage=storage, lanes=Lanes(writes=writes, scans=scans, reads=reads), tasks=tasks)
            server, readiness = _build(registry)
            bound = _bind(server, host, port)
            await registry.open()
            await server.start()
            log.info("serving address=%s:%d collections=%d", host, bound, len(registry.catalog.collections))
            try:
                await stop.wait()
                log.info("stopping")
            finally:
                await readiness.enter_graceful_shutdown()
                # When a shard has failed the writes that wait for it never end.
                await server.stop(DRAIN_SECONDS if stop.is_set() else 0)
            await registry.close()
    except BaseExceptionGroup as group:
        # Not `except*`: before Python 3.11.4 that puts what is raised in it into a group again.
        ours, others = group.split(StandInError)
        if ours is None or others is not None:
            raise
        raise _first(ours) from group
    finally:
        writes.shutdown(wait=False, cancel_futures=True)
        scans.shutdown(wait=False, cancel_futures=True)
        reads.shutdown(wait=False, cancel_futures=True)
        storage.release()
    log.info("stopped")


def _build(registry: Registry) -> tuple[grpc.aio.Server, Any]:
    server = grpc.aio.server(
        interceptors=[AnswerInterceptor()], options=_OPTIONS, maximum_concurrent_rpcs=MAX_CONCURRENT_REQUESTS
    )
    readiness: Any = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
    health_pb2_grpc.add_HealthServicer_to_server(readiness, server)
    qdrant.add_QdrantServicer_to_server(QdrantService(), server)
    qdrant.add_CollectionsServicer_to_server(CollectionsService(registry), server)
    qdrant.add_PointsServicer_to_server(PointsService(registry), server)
    qdrant.add_SnapshotsServicer_to_server(qdrant.SnapshotsServicer(), server)
    return server, readiness


def _bind(server: grpc.aio.Server, host: str, port: int) -> int:
    try:
        # gRPC says why only on stderr, in lines of its own.
        socket.create_server((host, port)).close()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise StandInError(f"cannot listen on {host}:{port}: {reason}") from error
    return server.add_insecure_port(f"{host}:{port}")


def _first(group: BaseExceptionGroup[StandInError]) -> StandInError:
    for error in group.exceptions:
        return _first(error) if isinstance(error, BaseExceptionGroup) else error
    raise AssertionError("an exception group is never empty")
