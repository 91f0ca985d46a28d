"""HTTP to an OpenAI-compatible endpoint: one session, errors as `ProviderError`."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from services.llm_gateway.adapters.openai import failures
from services.llm_gateway.domain.errors import ProviderFailure
from services.shared.clock import Clock

_CONNECT_SECONDS = 10.0
_MAX_ERROR_BYTES = 64 * 1024
_MAX_CODE_CHARACTERS = 64


@asynccontextmanager
async def session(*, api_key: str, idle_seconds: float, connections: int) -> AsyncGenerator[aiohttp.ClientSession]:
    """`idle_seconds` is the longest silence of a provider, before the first byte too."""
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with aiohttp.ClientSession(
        headers=headers,
        connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=60),
        # Endpoints of models set no cookies that matter, and looking for some costs every call.
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=idle_seconds),
        json_serialize=lambda value: orjson.dumps(value).decode(),
    ) as opened:
        yield opened


class OpenAiClient:
    def __init__(self, *, http: aiohttp.ClientSession, base_url: str, clock: Clock) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._clock = clock

    @asynccontextmanager
    async def post(self, path: str, body: dict[str, Any]) -> AsyncGenerator[aiohttp.ClientResponse]:
        """A response with status 200. When the block is left before its end, the socket is closed."""
        try:
            async with self._http.post(
                self._base_url + path,
                data=orjson.dumps(body),
                headers={"Content-Type": "application/json"},
                # A redirect would carry the key to another host.
                allow_redirects=False,
            ) as response:
                if response.status != 200:  # noqa: PLR2004 - OK
                    raise await self._failure(response)
                try:
                    yield response
                finally:
                    if not response.content.is_eof():
                        response.close()
        except TimeoutError as error:
            raise ProviderFailure("no answer in time") from error
        except aiohttp.ClientConnectorError as error:
            raise ProviderFailure("cannot be reached") from error
        except aiohttp.ClientError as error:
            raise ProviderFailure("the connection broke off") from error

    async def _failure(self, response: aiohttp.ClientResponse) -> Exception:
        code = ""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                code = _code_in(await response.content.read(_MAX_ERROR_BYTES))
        except (TimeoutError, aiohttp.ClientError):
            # The status alone says enough.
            code = ""
        return failures.of_status(
            response.status, retry_after=response.headers.get("Retry-After"), code=code, now=self._clock.now()
        )


def _code_in(body: bytes) -> str:
    """`error.code` or `error.type`, if they look like names; free text may hold anything and is not passed on."""
    try:
        error = orjson.loads(body)["error"]
        code = error.get("code") or error.get("type") or ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    name = str(code)[:_MAX_CODE_CHARACTERS]
    return name if name.replace("_", "").replace("-", "").isalnum() else ""
