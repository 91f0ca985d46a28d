"""Results and running calls in Redis: one hash and one stream per request id.

The hash holds the payload's fingerprint, the state and the lease with its fence; the
stream holds the records, which are at once the live feed for other replicas and the
stored result. Each step is one script, so that a stale holder can change nothing. Time is
the server's. The keys of a call share a hash tag, as Redis Cluster needs it.

A call may belong to a scope, which knows its calls in a set with a hash tag of its own. A
call enters the set before it is claimed, and a deletion closes the set before it forgets
the calls in it, so that none escapes: it is refused, or forgotten.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any

from services.llm_gateway.adapters.redis import records
from services.llm_gateway.adapters.redis.scripts import Scripts
from services.llm_gateway.adapters.redis.tail import StreamTail
from services.llm_gateway.application.ports import Claimed, Failed, Record, RunningElsewhere, Stored
from services.llm_gateway.domain.errors import ScopeDeleted
from services.llm_gateway.domain.frames import Done, Started
from services.shared.errors import RequestIdReused

# Calls of a scope that are forgotten at one time.
_FORGET_TOGETHER = 256


class RedisResults:
    """`keep` is how long results are kept, `lease` how long a silent run is believed to be alive.

    `longest` bounds a run. What is deleted stays so for longer than any call can run.
    """

    def __init__(
        self, *, scripts: Scripts, tail: StreamTail, keep: timedelta, lease: timedelta, longest: timedelta
    ) -> None:
        self._scripts = scripts
        self._tail = tail
        self._keep = round(keep.total_seconds() * 1000)
        self._lease = round(lease.total_seconds() * 1000)
        self._membership = round((keep + longest + lease).total_seconds() * 1000)
        self._tombstone = round(max(keep, longest + lease).total_seconds() * 1000)

    @property
    def lease_seconds(self) -> float:
        return self._lease / 1000

    @property
    def now(self) -> str:
        return "$"

    async def claim(
        self, request_id: str, *, fingerprint: str, owner: str, scope: str = ""
    ) -> Claimed | RunningElsewhere | Stored:
        if scope and not await self._scripts.run("enroll", keys=_scope(scope), args=[request_id, self._membership]):
            raise ScopeDeleted.of(scope)
        keys = [_call(request_id), _log(request_id), _followers(request_id)]
        answer: list[Any] = await self._scripts.run(
            "claim", keys=keys, args=[owner, fingerprint, self._lease, self._keep]
        )
        match answer:
            case [b"claimed", fence, attempts]:
                return Claimed(fence=fence, attempts=attempts)
            case [b"running", fence, position]:
                return RunningElsewhere(fence=fence, position=position.decode())
            case [b"stored", fence, entries]:
                stored = [record for _, fields in entries for record in records.load(fields[1])]
                return Stored(fence=fence, records=stored)
            case [b"deleted"]:
                raise ScopeDeleted.of(scope)
            case _:
                raise RequestIdReused("the request id stands for another request", metadata={"request_id": request_id})

    async def append(self, request_id: str, *, fence: int, number: int, records: Sequence[Record]) -> bool:
        keys = [_call(request_id), _log(request_id)]
        attempts = max((record.attempt for record in records if isinstance(record, Started)), default="")
        arguments = [fence, number, self._lease, self._keep, _dump(records), _status_after(records), attempts]
        return bool(await self._scripts.run("append", keys=keys, args=arguments))

    async def abandon(self, request_id: str, *, fence: int) -> bool:
        return bool(await self._scripts.run("abandon", keys=[_call(request_id), _followers(request_id)], args=[fence]))

    async def release(self, request_id: str, *, owner: str) -> None:
        keys = [_call(request_id), _log(request_id), _followers(request_id)]
        await self._scripts.run("release", keys=keys, args=[owner, self._keep, records.HANDED_OVER])

    async def leave(self, request_id: str, *, owner: str) -> None:
        keys = [_call(request_id), _log(request_id), _followers(request_id)]
        await self._scripts.run("leave", keys=keys, args=[owner, records.CANCEL_REQUESTED])

    async def delete_scope(self, scope: str) -> int:
        keys = _scope(scope)
        while True:
            count, request_ids = await self._scripts.run(
                "close_scope", keys=keys, args=[self._tombstone, _FORGET_TOGETHER]
            )
            if not request_ids:
                return count
            had = await asyncio.gather(*(self._forget(request_id.decode()) for request_id in request_ids))
            forgotten = [part for pair in zip(request_ids, had, strict=True) for part in pair]
            await self._scripts.run("settle_scope", keys=keys, args=forgotten)

    async def _forget(self, request_id: str) -> int:
        keys = [_call(request_id), _log(request_id), _followers(request_id)]
        return await self._scripts.run("forget", keys=keys, args=[self._tombstone])

    async def follow(self, request_id: str, *, position: str) -> AsyncGenerator[Sequence[Record]]:
        async with aclosing(self._tail.follow(_log(request_id), position=position)) as batches:
            async for entries in batches:
                yield [record for data in entries for record in records.load(data)]


def _dump(batch: Sequence[Record]) -> bytes:
    return records.dump(list(batch))


def _status_after(batch: Sequence[Record]) -> str:
    last = batch[-1] if batch else None
    return "done" if isinstance(last, Done) else "failed" if isinstance(last, Failed) else "running"


def _call(request_id: str) -> bytes:
    return b"scristill:llm:{%b}:call" % request_id.encode()


def _log(request_id: str) -> bytes:
    return b"scristill:llm:{%b}:log" % request_id.encode()


def _scope(scope: str) -> list[bytes]:
    """The calls of the scope, and its tombstone."""
    prefix = b"scristill:llm:{scope:%b}:" % scope.encode()
    return [prefix + b"calls", prefix + b"gone"]


def _followers(request_id: str) -> bytes:
    return b"scristill:llm:{%b}:followers" % request_id.encode()
