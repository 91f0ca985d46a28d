"""Lua scripts, one step each: what a script reads and writes, no other command comes between."""

from collections.abc import Sequence
from hashlib import sha1
from importlib import resources
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError

from services.llm_gateway.adapters.redis.connection import answering
from services.llm_gateway.adapters.redis.line import Line

_SUFFIX = ".lua"


class Scripts:
    """The scripts of this folder by name, called by their digest once Redis knows them.

    When the connection breaks a script is sent once more, so each must be harmless when it
    runs twice.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._sources = {
            file.name.removesuffix(_SUFFIX): file.read_text()
            for file in resources.files(__name__).iterdir()
            if file.name.endswith(_SUFFIX)
        }
        # Redis knows a script by the SHA-1 of its text.
        self._digests = {name: sha1(text.encode()).hexdigest() for name, text in self._sources.items()}  # noqa: S324

    async def run(self, name: str, *, keys: Sequence[bytes], args: Sequence[Any] = ()) -> Any:
        """The answer of the script. Raises `Unavailable` when Redis is away."""
        async with answering():
            try:
                return await self._send(name, keys, args)
            except RedisConnectionError:
                return await self._send(name, keys, args)

    async def _send(self, name: str, keys: Sequence[bytes], args: Sequence[Any]) -> Any:
        try:
            return await self._line.call("EVALSHA", self._digests[name], len(keys), *keys, *args)
        except NoScriptError:
            return await self._line.call("EVAL", self._sources[name], len(keys), *keys, *args)
