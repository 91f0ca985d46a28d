"""Follows any number of Redis streams through one connection, without polling.

One blocking XREAD waits for all followed streams. When the set of streams changes, it is
unblocked from another connection (CLIENT UNBLOCK) and asked anew. After an outage it
reads on from the last entry it has seen, so that nothing is lost.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, cast

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.llm_gateway.adapters.redis.connection import answering
from services.shared.errors import Unavailable

# A blocked read is renewed after this long; one that is silent for longer has a dead connection.
_BLOCK_SECONDS = 30.0
_PATIENCE_SECONDS = 10.0
_RECONNECT_SECONDS = 0.5
_UNBLOCK_SECONDS = 0.001
_MAX_ENTRIES = 256
_BEGINNING = "0-0"

# Per stream its key and its entries: id and fields.
_Answer = list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]

logger = structlog.stdlib.get_logger(__name__)


class _Follower:
    """Entries of one stream for one consumer; `position` is the last entry it was given."""

    def __init__(self, key: bytes, position: str) -> None:
        self.key = key
        self.position = position
        self.entries: list[bytes] = []
        self.some = asyncio.Event()


class StreamTail:
    def __init__(self, client: Redis) -> None:
        self._client = client
        self._followers: dict[bytes, set[_Follower]] = {}
        self._changed = asyncio.Event()
        self._client_id: int | None = None

    async def follow(self, key: bytes, *, position: str) -> AsyncGenerator[list[bytes]]:
        """Field `r` of the entries after `position`, as they come. `$` is the end of the stream as it is now."""
        if position == "$":
            position = await self._last(key)
        follower = _Follower(key, position)
        self._followers.setdefault(key, set()).add(follower)
        try:
            await self._interrupt()
            while True:
                await follower.some.wait()
                follower.some.clear()
                entries, follower.entries = follower.entries, []
                yield entries
        finally:
            self._remove(follower)

    def _remove(self, follower: _Follower) -> None:
        same = self._followers[follower.key]
        same.discard(follower)
        if not same:
            del self._followers[follower.key]

    async def run(self, stop: asyncio.Event) -> None:
        stopping = asyncio.create_task(stop.wait())
        reading = asyncio.create_task(self._read_for_ever())
        try:
            await asyncio.wait({stopping, reading}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            reading.cancel()
            await asyncio.wait({reading})
        if not stop.is_set():
            reading.result()

    async def _read_for_ever(self) -> None:
        while True:
            if not self._followers:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                async with self._client.client() as connection:
                    async with answering():
                        self._client_id = await connection.client_id()  # pyright: ignore[reportUnknownMemberType]
                    while self._followers:
                        await self._read_once(connection)
            except (RedisError, Unavailable) as error:
                logger.warning("stream_tail_lost", error=type(error).__name__)
                await asyncio.sleep(_RECONNECT_SECONDS)
            finally:
                self._client_id = None

    async def _read_once(self, connection: Redis) -> None:
        self._changed.clear()
        positions: Any = {
            key: min((follower.position for follower in followers), key=_order)
            for key, followers in self._followers.items()
        }
        async with answering(_BLOCK_SECONDS + _PATIENCE_SECONDS):
            answer = await connection.xread(  # pyright: ignore[reportUnknownMemberType]
                positions, count=_MAX_ENTRIES, block=round(_BLOCK_SECONDS * 1000)
            )
        for key, entries in cast("_Answer", answer or ()):
            for entry_id, fields in entries:
                self._deliver(key, entry_id.decode(), fields[b"r"], asked=positions[key])

    def _deliver(self, key: bytes, entry_id: str, data: bytes, *, asked: str) -> None:
        """Gives the entry to who has all up to `asked`; who came later and has less is served by the next read."""
        for follower in self._followers.get(key, ()):
            if _order(asked) <= _order(follower.position) < _order(entry_id):
                follower.position = entry_id
                follower.entries.append(data)
                follower.some.set()

    async def _interrupt(self) -> None:
        """Makes the reader ask anew, now. A read that has not begun to block yet is interrupted again shortly."""
        self._changed.set()
        while self._changed.is_set() and self._client_id is not None:
            # When Redis is away the reader notices too, and asks anew by itself.
            with suppress(Unavailable):
                async with answering():
                    await self._client.client_unblock(self._client_id)  # pyright: ignore[reportUnknownMemberType]
            if self._changed.is_set():
                await asyncio.sleep(_UNBLOCK_SECONDS)

    async def _last(self, key: bytes) -> str:
        async with answering():
            entries: Any = await self._client.xrevrange(key, count=1)  # pyright: ignore[reportUnknownMemberType]
        return entries[0][0].decode() if entries else _BEGINNING


def _order(position: str) -> tuple[int, int]:
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number or 0)
