"""The metrics port: `/metrics` for Prometheus and `/healthz` for whoever has no gRPC probe.

A hundred bytes of HTTP served by the event loop itself; rendering takes milliseconds and
runs in a thread.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import structlog

from services.shared.telemetry.metrics import Metrics

logger = structlog.stdlib.get_logger(__name__)

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_TIMEOUT = 5.0


@asynccontextmanager
async def serve(metrics: Metrics, *, host: str, port: int, serving: Callable[[], bool]) -> AsyncGenerator[int | None]:
    """Serves inside the block and yields the port; a negative port serves nothing and yields None.

    `serving` decides between 200 and 503 of `/healthz`.
    """
    if port < 0:
        yield None
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _respond(head.split(b" ", 2)[1], metrics, serving))
                await writer.drain()
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            logger.debug("no_http_request", peer=writer.get_extra_info("peername"))
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, port)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


async def _respond(path: bytes, metrics: Metrics, serving: Callable[[], bool]) -> bytes:
    match path.partition(b"?")[0]:
        case b"/metrics":
            return _response("200 OK", await asyncio.to_thread(metrics.render))
        case b"/healthz" if serving():
            return _response("200 OK", b"ok\n")
        case b"/healthz":
            return _response("503 Service Unavailable", b"not serving\n")
        case _:
            return _response("404 Not Found", b"not found\n")


def _response(status: str, body: bytes) -> bytes:
    lines = (
        f"HTTP/1.1 {status}",
        f"Content-Type: {_CONTENT_TYPE}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + body
