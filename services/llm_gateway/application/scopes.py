"""Deletion of everything that is kept of the calls of a scope."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from services.llm_gateway.application.ports import DeadLetterStore, ResultStore
from services.shared.errors import ServiceError

_SCOPES_TOGETHER = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedScope:
    """What was removed by all deletions of the scope so far. With a `failure` something may be left."""

    scope: str
    result_count: int = 0
    dead_letter_count: int = 0
    failure: ServiceError | None = None


class DeleteScopes:
    def __init__(self, *, results: ResultStore, dead_letters: DeadLetterStore) -> None:
        self._results = results
        self._dead_letters = dead_letters

    async def __call__(self, scopes: Sequence[str]) -> list[DeletedScope]:
        """One outcome per scope, in order."""
        room = asyncio.Semaphore(_SCOPES_TOGETHER)

        async def one(scope: str) -> DeletedScope:
            async with room:
                return await self._delete(scope)

        return await asyncio.gather(*(one(scope) for scope in scopes))

    async def _delete(self, scope: str) -> DeletedScope:
        try:
            result_count = await self._results.delete_scope(scope)
            dead_letter_count = await self._dead_letters.delete_scope(scope)
        except ServiceError as error:
            return DeletedScope(scope=scope, failure=error)
        return DeletedScope(scope=scope, result_count=result_count, dead_letter_count=dead_letter_count)
