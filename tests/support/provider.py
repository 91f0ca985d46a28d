"""A scriptable OpenAI-compatible endpoint: what it shall answer is queued, what it was asked is recorded.

    async with FakeProvider() as provider:
        provider.script(Answer(text="{}"), Refusal(status=429, retry_after="2"))

Each call takes the next script; without one left, `provider.default` answers. Streams are
`text/event-stream` as OpenAI sends them.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A streamed answer. `pieces` are sent one by one, `pause` seconds apart; `text` is the short form for one piece.

    `hang_after` pieces the stream stays silent until it is closed; `cut_after` pieces the socket is closed without an
    end. `gate`, once set, lets the answer begin.
    """

    text: str = ""
    pieces: Sequence[str] = ()
    pause: float = 0.0
    latency: float = 0.0
    hang_after: int | None = None
    cut_after: int | None = None
    finish_reason: str = "stop"
    usage: tuple[int, int] | None = (10, 5)
    gate: asyncio.Event | None = None

    @property
    def parts(self) -> Sequence[str]:
        return self.pieces or ((self.text,) if self.text else ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer with an HTTP error."""

    status: int
    retry_after: str = ""
    code: str = ""
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """Bytes sent as they are, as an event stream."""

    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """Headers never come."""


Script = Answer | Refusal | Raw | Hang


@dataclass(slots=True, kw_only=True, eq=False)
class Call:
    """One request. `closed` is set when its connection has gone before the answer was whole."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    at: float
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    finished: asyncio.Event = field(default_factory=asyncio.Event)


class FakeProvider:
    def __init__(self, *, default: Script | None = None) -> None:
        self.default: Script = default or Answer(text="ok")
        self.calls: list[Call] = []
        self.dimension = 8
        self._scripts: deque[Script] = deque()
        self._arrived = asyncio.Condition()
        self._runner: web.AppRunner | None = None
        self.base_url = ""

    def script(self, *scripts: Script) -> None:
        self._scripts.extend(scripts)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def wait_for_calls(self, count: int) -> list[Call]:
        """Returns once so many calls have arrived in all."""
        async with asyncio.timeout(10), self._arrived:
            await self._arrived.wait_for(lambda: len(self.calls) >= count)
        return self.calls

    async def _record(self, request: web.Request) -> Call:
        call = Call(
            path=request.path,
            body=await request.json(),
            headers=dict(request.headers),
            at=asyncio.get_running_loop().time(),
        )
        async with self._arrived:
            self.calls.append(call)
            self._arrived.notify_all()
        return call

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        call = await self._record(request)
        script = self._scripts.popleft() if self._scripts else self.default
        try:
            response = await self._answer(request, script)
        except (asyncio.CancelledError, ConnectionError):
            call.closed.set()
            raise
        call.finished.set()
        return response

    async def _answer(self, request: web.Request, script: Script) -> web.StreamResponse:
        match script:
            case Refusal():
                headers = {"Retry-After": script.retry_after} if script.retry_after else {}
                body = script.body or json.dumps({"error": {"code": script.code, "message": "secret detail"}})
                return web.Response(status=script.status, headers=headers, text=body)
            case Raw():
                return web.Response(body=script.body, content_type="text/event-stream")
            case Hang():
                await asyncio.Event().wait()
                raise AssertionError
            case Answer():
                return await self._stream(request, script)

    async def _stream(self, request: web.Request, script: Answer) -> web.StreamResponse:
        if script.gate is not None:
            await script.gate.wait()
        await asyncio.sleep(script.latency)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async for event in self._events(script):
            if event is None:
                if request.transport is not None:
                    request.transport.abort()
                raise ConnectionError("cut")
            await response.write(event)
        await response.write_eof()
        return response

    async def _events(self, script: Answer) -> AsyncIterator[bytes | None]:
        for number, piece in enumerate(script.parts):
            if number == script.hang_after:
                await asyncio.Event().wait()
            if number == script.cut_after:
                yield None
            if number and script.pause:
                await asyncio.sleep(script.pause)
            yield _event({"choices": [{"index": 0, "delta": {"content": piece}}]})
        if script.hang_after == len(script.parts):
            await asyncio.Event().wait()
        if script.cut_after == len(script.parts):
            yield None
        yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": script.finish_reason}]})
        if script.usage is not None:
            prompt, completion = script.usage
            yield _event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}})
        yield b"data: [DONE]\n\n"

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        call = await self._record(request)
        if self._scripts and isinstance(self._scripts[0], Refusal):
            return await self._answer(request, self._scripts.popleft())
        data = [
            {"index": index, "embedding": [float(len(text) + position) for position in range(self.dimension)]}
            for index, text in enumerate(call.body["input"])
        ]
        return web.json_response({"data": list(reversed(data)), "usage": {"prompt_tokens": len(data)}})


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
