"""Dead letters in Redis: each a compressed document, with an index by time over all and one per project.

Index entries are `milliseconds:request id`, all of score 0, so that a page is a range of
them and starts exactly after the last one. Old letters expire; beyond the limit the oldest
go first. Letters of a scope are deleted together, and no more are taken of it then. All keys
share one hash tag.
"""

import zlib
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from redis.asyncio import Redis

from services.llm_gateway.adapters.redis.connection import answering
from services.llm_gateway.adapters.redis.scripts import Scripts
from services.llm_gateway.application.ports import DeadLetterPage
from services.llm_gateway.domain.calls import (
    ChatMessage,
    Document,
    GenerateCall,
    JsonSchema,
    Prompt,
    Role,
    Sampling,
    Usage,
)
from services.llm_gateway.domain.records import DeadLetter, FailedCall
from services.shared.errors import Reason

_INDEX = b"scristill:llm:{dead}:index"


class RedisDeadLetters:
    def __init__(self, *, client: Redis, scripts: Scripts, keep: timedelta, limit: int, tombstone: timedelta) -> None:
        """`tombstone` is how long a scope stays deleted."""
        self._client = client
        self._scripts = scripts
        self._keep = round(keep.total_seconds() * 1000)
        self._limit = limit
        self._tombstone = round(tombstone.total_seconds() * 1000)

    async def put(self, letter: DeadLetter) -> None:
        """A letter with the same request id takes over the attempts of the one before."""
        before = (await self.get([letter.call.request_id])).get(letter.call.request_id)
        attempts = (*before.attempts, *letter.attempts) if before else letter.attempts
        usage = before.usage + letter.usage if before else letter.usage
        body = zlib.compress(orjson.dumps(asdict(letter) | {"attempts": attempts, "usage": usage}))
        call = letter.call
        entry = f"{letter.fail_time.timestamp() * 1000:013.0f}:{call.request_id}"
        keys = [_letter(call.request_id), _INDEX, _project(call.project_id)]
        await self._scripts.run(
            "bury",
            keys=[*keys, *_scope(call.scope)] if call.scope else keys,
            args=[entry, body, self._keep, self._limit, _letter(""), call.request_id],
        )

    async def get(self, request_ids: Sequence[str]) -> dict[str, DeadLetter]:
        async with answering(), self._client.pipeline(transaction=False) as pipeline:
            for request_id in request_ids:
                pipeline.hget(_letter(request_id), "body")
            bodies: list[bytes | None] = await pipeline.execute()
        return {
            request_id: _loaded(body) for request_id, body in zip(request_ids, bodies, strict=True) if body is not None
        }

    async def page(self, *, project_id: str, size: int, after: str) -> DeadLetterPage:
        index = _project(project_id) if project_id else _INDEX
        async with answering():
            found: Any = await self._client.zrange(  # pyright: ignore[reportUnknownMemberType]
                index, f"({after}" if after else "+", "-", desc=True, bylex=True, offset=0, num=size + 1
            )
        entries = [entry.decode() for entry in found]
        ids = [entry.partition(":")[2] for entry in entries[:size]]
        letters = await self.get(ids) if ids else {}
        return DeadLetterPage(
            letters=[letters[request_id] for request_id in ids if request_id in letters],
            next_position=entries[size - 1] if len(entries) > size else "",
        )

    async def delete(self, request_ids: Sequence[str]) -> int:
        deleted = 0
        for request_id in request_ids:
            deleted += int(await self._scripts.run("unbury", keys=[_letter(request_id), _INDEX], args=[request_id]))
        return deleted

    async def delete_scope(self, scope: str) -> int:
        return await self._scripts.run(
            "unbury_scope", keys=[*_scope(scope), _INDEX], args=[self._tombstone, _letter("")]
        )


def _letter(request_id: str) -> bytes:
    return b"scristill:llm:{dead}:letter:%b" % request_id.encode()


def _project(project_id: str) -> bytes:
    return b"scristill:llm:{dead}:project:%b" % project_id.encode()


def _scope(scope: str) -> tuple[bytes, bytes]:
    """The letters of the scope, and its tombstone."""
    prefix = b"scristill:llm:{dead}:scope:%b" % scope.encode()
    return prefix + b":letters", prefix + b":gone"


def _loaded(body: bytes) -> DeadLetter:
    value = orjson.loads(zlib.decompress(body))
    return DeadLetter(
        call=_call(value["call"]),
        attempts=tuple(_attempt(each) for each in value["attempts"]),
        reason=Reason(value["reason"]),
        fail_time=_moment(value["fail_time"]),
        usage=Usage(**value["usage"]),
    )


def _call(value: dict[str, Any]) -> GenerateCall:
    prompt, sampling, output_format = value["prompt"], value["sampling"], value["output_format"]
    parts: dict[str, Any] = {
        "prompt": Prompt(
            system=prompt["system"],
            messages=tuple(ChatMessage(role=Role(each["role"]), text=each["text"]) for each in prompt["messages"]),
            documents=tuple(Document(**each) for each in prompt["documents"]),
        ),
        "sampling": Sampling(**sampling) if sampling else None,
        "output_format": JsonSchema(**output_format) if output_format else None,
    }
    return GenerateCall(**value | parts)


def _attempt(value: dict[str, Any]) -> FailedCall:
    parts: dict[str, Any] = {"reason": Reason(value["reason"]), "fail_time": _moment(value["fail_time"])}
    return FailedCall(**value | parts)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
