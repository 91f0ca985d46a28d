"""Readiness, one probe per protocol. A probe returns when the server answers and raises `NotReady` when it does not."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import asyncpg
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Probe = Callable[[], Awaitable[None]]

# Neither ships types.
driver = cast("Any", asyncpg)
health = cast("Any", health_pb2)

ATTEMPT_SECONDS = 2.0
INTERVAL_SECONDS = 0.05


class NotReady(Exception):
    """The server does not serve yet."""


async def until_ready(probe: Probe, *, within: float) -> None:
    """Raises the probe's last answer once the time is up."""
    deadline = time.monotonic() + within
    while True:
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await probe()
        except (NotReady, TimeoutError):
            if time.monotonic() > deadline:
                raise
        else:
            return
        await asyncio.sleep(INTERVAL_SECONDS)


def postgres(url: str) -> Probe:
    return partial(_query_postgres, url)


def valkey(*, port: int, password: str) -> Probe:
    return partial(_ping_valkey, port, password)


def grpc_health(address: str) -> Probe:
    return partial(_check_health, address)


async def _query_postgres(url: str) -> None:
    try:
        connection = await driver.connect(url, timeout=ATTEMPT_SECONDS)
        try:
            await connection.fetchval("SELECT 1")
        finally:
            await connection.close(timeout=ATTEMPT_SECONDS)
    except (OSError, asyncpg.PostgresError) as error:
        raise NotReady(str(error)) from error


async def _ping_valkey(port: int, password: str) -> None:
    async with _connection("127.0.0.1", port) as (reader, writer):
        writer.write(f"AUTH {password}\r\nPING\r\n".encode())
        answers = [await reader.readline(), await reader.readline()]
    # While the append-only file is read, the second answer is -LOADING.
    if answers != [b"+OK\r\n", b"+PONG\r\n"]:
        raise NotReady(b" ".join(answers).decode(errors="replace").strip())


async def _check_health(address: str) -> None:
    host, _, port = address.rpartition(":")
    # A channel costs much more than a refused connection, and a start is when the processor has other things to do.
    async with _connection(host, int(port)):
        pass
    async with grpc.aio.insecure_channel(address) as channel:
        stub = cast("Any", health_pb2_grpc.HealthStub(channel))
        try:
            answer = await stub.Check(health.HealthCheckRequest(), timeout=ATTEMPT_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise NotReady(error.details() or error.code().name) from error
    if answer.status != health.HealthCheckResponse.SERVING:
        raise NotReady(health.HealthCheckResponse.ServingStatus.Name(answer.status))


@asynccontextmanager
async def _connection(host: str, port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            yield reader, writer
        finally:
            writer.close()
            await writer.wait_closed()
    except OSError as error:
        raise NotReady(str(error)) from error
