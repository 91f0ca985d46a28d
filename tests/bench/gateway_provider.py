"""An endpoint that answers at once, for benchmarks: `python -m tests.bench.gateway_provider TOKENS PER_READ`.

Answers every chat completion with a stream of that many tokens, so many of them per write. Prints its port.
"""

import asyncio
import json
import sys

from aiohttp import web


def event(value: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def answer(tokens: int, per_read: int) -> list[bytes]:
    """The writes of one answer."""
    events = [event({"choices": [{"index": 0, "delta": {"content": f"token{number} "}}]}) for number in range(tokens)]
    end = [
        event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        event({"choices": [], "usage": {"prompt_tokens": 250, "completion_tokens": tokens}}),
        b"data: [DONE]\n\n",
    ]
    writes = [b"".join(events[start : start + per_read]) for start in range(0, tokens, per_read)]
    writes[-1] += b"".join(end)
    return writes


async def main() -> None:
    writes = answer(int(sys.argv[1]), int(sys.argv[2]))
    whole = b"".join(writes) if len(writes) == 1 else None

    async def chat(request: web.Request) -> web.StreamResponse:
        await request.read()
        if whole is not None:
            return web.Response(body=whole, content_type="text/event-stream")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for part in writes:
            await response.write(part)
        await response.write_eof()
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
