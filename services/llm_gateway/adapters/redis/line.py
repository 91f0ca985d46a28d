"""One connection to Redis that many callers share: commands go out as they come, answers come back in order.

The client of redis-py takes a connection from its pool for every command and waits for
the answer before the next one may use it. Here a command costs its bytes and a future,
which is half of what a call through the gateway otherwise spends on Redis.
"""

import asyncio
from collections import deque
from types import TracebackType
from typing import Any, Self, cast

import structlog
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

logger = structlog.stdlib.get_logger(__name__)


class Line:
    """`async with Line(client) as line: answer = await line.call("GET", "key")`.

    Connects on first use, and again after the connection broke, which fails all commands
    under way: whether they took effect is not known. A caller that is cancelled leaves
    its command to its fate.
    """

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._connection: AbstractConnection | None = None
        self._connecting = asyncio.Lock()
        self._pending: deque[asyncio.Future[Any]] = deque()
        self._some = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read(), name="redis-line")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
        await self._break(RedisConnectionError("closed"))

    async def call(self, *command: Any) -> Any:
        """Raises `RedisError`. Bounded by nothing: call it within a time-out."""
        connection = self._connection or await self._connect()
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.append(answer)
        self._some.set()
        try:
            await connection.send_packed_command(connection.pack_command(*command), check_health=False)
        except RedisError as error:
            await self._break(error)
        return await answer

    async def _connect(self) -> AbstractConnection:
        async with self._connecting:
            if self._connection is None:
                connection = self._client.connection_pool.make_connection()
                await connection.connect()
                self._connection = connection
            return self._connection

    async def _read(self) -> None:
        while True:
            await self._some.wait()
            connection = self._connection
            if not self._pending or connection is None:
                self._some.clear()
                continue
            try:
                answer = cast("Any", await connection.read_response(disconnect_on_error=False))
            except ResponseError as error:
                self._resolve(error)
            except RedisError as error:
                await self._break(error)
            else:
                self._resolve(answer)

    def _resolve(self, answer: Any) -> None:
        future = self._pending.popleft()
        if future.done():
            return
        if isinstance(answer, ResponseError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    async def _break(self, error: RedisError) -> None:
        connection, self._connection = self._connection, None
        pending, self._pending = self._pending, deque()
        if pending:
            logger.warning("redis_line_broke", error=type(error).__name__, commands=len(pending))
        for future in pending:
            if not future.done():
                future.set_exception(RedisConnectionError("the connection broke"))
        if connection is not None:
            await connection.disconnect(nowait=True)
