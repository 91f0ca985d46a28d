"""Cutting a stream of results short."""

from collections.abc import AsyncIterator
from typing import TypeVar

Item = TypeVar("Item")


async def first(items: AsyncIterator[Item], limit: int) -> AsyncIterator[Item]:
    """At most `limit` of them; 0 for all."""
    count = 0
    async for item in items:
        yield item
        count += 1
        if count == limit:
            return
