"""Scans over all points of an epoch: payload only, page by page, the next page under way while one is used."""

# The stubs of qdrant_client import their siblings by names that do not resolve, so some message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress

from qdrant_client import grpc as qdrant

from services.indexer.adapters.qdrant import conditions, payload
from services.indexer.adapters.qdrant.connection import QdrantConnection
from services.indexer.domain.digest import Shares
from services.indexer.domain.epochs import Epoch
from services.indexer.domain.fact import StoredPoint
from services.indexer.domain.identity import BUCKET_COUNT


class QdrantScanner:
    """`page_size` bounds the memory of a scan: two pages at one time."""

    def __init__(self, connection: QdrantConnection, *, page_size: int) -> None:
        self._connection = connection
        self._page_size = page_size

    async def scan(
        self, epoch: Epoch, *, buckets: Collection[int] | None = None
    ) -> AsyncIterator[Sequence[StoredPoint]]:
        async for page in self._pages(epoch, buckets, payload.LIST_FIELDS):
            yield await asyncio.to_thread(_points, page)

    async def shares(
        self, epoch: Epoch, *, buckets: Collection[int] | None = None, as_epoch: int | None = None
    ) -> AsyncIterator[Shares]:
        async for page in self._pages(epoch, buckets, payload.DIGEST_FIELDS):
            yield await asyncio.to_thread(_shares, page, as_epoch)

    async def _pages(
        self, epoch: Epoch, buckets: Collection[int] | None, fields: Sequence[str]
    ) -> AsyncIterator[qdrant.ScrollResponse]:
        request = qdrant.ScrollPoints(
            collection_name=epoch.collection,
            filter=_in_buckets(buckets),
            limit=self._page_size,
            with_payload=payload.include(fields),
        )
        pending = asyncio.ensure_future(self._connection.scroll(request))
        try:
            while True:
                page = await pending
                more = page.HasField("next_page_offset")
                if more:
                    request.offset.CopyFrom(page.next_page_offset)
                    pending = asyncio.ensure_future(self._connection.scroll(request))
                if page.result:
                    yield page
                if not more:
                    return
        finally:
            pending.cancel()
            with suppress(asyncio.CancelledError):
                await pending


def _points(page: qdrant.ScrollResponse) -> list[StoredPoint]:
    return [payload.stored_point(point.id.uuid, point.payload) for point in page.result]


def _shares(page: qdrant.ScrollResponse, as_epoch: int | None) -> Shares:
    live = [payload.share_of(point.payload, as_epoch) for point in page.result]
    found = [share for share in live if share is not None]
    return Shares(live=found, tombstone_count=len(live) - len(found))


def _in_buckets(buckets: Collection[int] | None) -> qdrant.Filter | None:
    if buckets is None or len(buckets) == BUCKET_COUNT:
        return None
    return qdrant.Filter(must=[conditions.any_integer(payload.BUCKET, sorted(buckets))])
