"""Finds facts: the query in the form of each retriever, one search in one epoch, one page."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.indexer.application.await_watermark import AwaitWatermark
from services.indexer.application.epochs import Epochs
from services.indexer.application.ports import FactSearcher, SparseEncoder, SparseVector
from services.indexer.application.vectors import Vectorizer
from services.indexer.domain.epochs import Epoch
from services.indexer.domain.errors import CollectionMissing
from services.indexer.domain.fact import Vector
from services.indexer.domain.search import Hit, Query, SearchMode, ranking
from services.shared import deadlines
from services.shared.errors import DeadlineUnreachable

_LONGEST_WAIT = 30.0
_SEARCH_RESERVE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    hits: Sequence[Hit]
    epoch: int
    next_offset: int | None
    """Where the next page starts; None when this is the last one."""


class SearchFacts:
    def __init__(
        self,
        *,
        epochs: Epochs,
        searcher: FactSearcher,
        vectorizer: Vectorizer,
        sparse: SparseEncoder,
        await_watermark: AwaitWatermark,
        timeout_seconds: float,
    ) -> None:
        self._epochs = epochs
        self._searcher = searcher
        self._vectorizer = vectorizer
        self._sparse = sparse
        self._await_watermark = await_watermark
        self._timeout = timeout_seconds

    async def __call__(self, query: Query) -> Page:
        epoch = (await self._epochs.view()).serving
        try:
            return await self._search(epoch, query)
        except CollectionMissing:
            # The epoch was dropped after another one was promoted; the view was a little old.
            self._epochs.forget()
            return await self._search((await self._epochs.view()).serving, query)

    async def _search(self, epoch: Epoch, query: Query) -> Page:
        if query.watermark is not None:
            await self._await_watermark(epoch, query.watermark, seconds=self._patience())
        dense: Vector | None = None
        if query.mode is not SearchMode.SPARSE:
            dense = await self._vectorizer.query(epoch, query.text, project_id=query.project_id)
        sparse: SparseVector | None = None
        if query.mode is not SearchMode.DENSE:
            sparse = self._sparse.query(query.text)
        candidates = await self._searcher.rank(epoch, query, dense=dense, sparse=sparse, seconds=self._seconds_left())
        places = ranking(candidates, query)
        end = query.offset + query.limit
        page = places[query.offset : end]
        hits: Sequence[Hit] = await self._searcher.load(epoch, page) if page else ()
        return Page(hits=hits, epoch=epoch.number, next_offset=end if len(places) > end else None)

    def _patience(self) -> float:
        """What may be spent on waiting, so that time is left for the search itself."""
        remaining = deadlines.remaining()
        return _LONGEST_WAIT if remaining is None else max(0.0, remaining - _SEARCH_RESERVE)

    def _seconds_left(self) -> float:
        remaining = deadlines.remaining()
        if remaining is None:
            return self._timeout
        if remaining <= 0:
            raise DeadlineUnreachable("the deadline passed before the search", metadata={"predicted_wait_ms": 0})
        return min(remaining, self._timeout)
