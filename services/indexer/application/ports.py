"""What the use cases need from the outside: Qdrant, the model gateway and a sparse encoder.

Every failure of a port is a `ServiceError` that may be shown to a client.
"""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.indexer.domain.digest import Shares
from services.indexer.domain.epochs import Catalogue, Epoch
from services.indexer.domain.fact import Intent, PointState, StoredPoint, Vector
from services.indexer.domain.search import Hit, Query, Ranked
from services.shared.errors import ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseVector:
    indices: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class PointWrite:
    """An intent with the id of its point and its vectors; a delete has none."""

    intent: Intent
    embedding_id: str
    dense: Vector | None = None
    sparse: SparseVector | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """One entry per text, in the same order: its vector, or why it has none."""

    model: str
    dimension: int
    vectors: Sequence[Vector | ServiceError]


class Embedder(Protocol):
    async def embed(self, texts: Sequence[str], *, project_id: str, model: str, priority: int) -> Embedded:
        """Raises `RemoteUnavailable` … as `ServiceError` when the whole call failed; never more texts than the
        gateway takes in one call."""
        ...


class SparseEncoder(Protocol):
    def document(self, text: str) -> SparseVector: ...

    def query(self, text: str) -> SparseVector: ...


class WriteRefused(Exception):
    """The store calls the request itself invalid; it was not applied, and the same request never will be."""


class FactStore(Protocol):
    async def write(self, epoch: Epoch, groups: Sequence[Sequence[PointWrite]]) -> None:
        """Stores the writes in one request; returns when all is durable.

        One guard holds for a whole group: a point is inserted if there is none, and replaced only if its
        stored version is below the lowest version of the group. So a group may hold a write back that
        its own version would allow; it never lets one through that it would not.

        Raises `WriteRefused`, `CollectionMissing`, or `OutcomeUnknown` when it cannot be told whether
        the writes were applied.
        """
        ...

    async def states(self, epoch: Epoch, embedding_ids: Iterable[str]) -> Mapping[str, PointState]:
        """What is stored now, by id of the point; points that do not exist are left out."""
        ...

    async def intents(self, epoch: Epoch, embedding_ids: Iterable[str]) -> Sequence[Intent]:
        """The intents that made these points what they are, without vectors; tombstones give deletes."""
        ...

    async def count(self, epoch: Epoch, *, tombstones: bool, project_id: str = "") -> int:
        """Exact."""
        ...

    async def approximate_count(self, epoch: Epoch) -> int:
        """All points, tombstones included; cheap."""
        ...

    async def collect_tombstones(self, epoch: Epoch, *, older_than: datetime, limit: int) -> int:
        """Removes at most `limit` tombstones written before `older_than`; returns how many it found."""
        ...


class PointScanner(Protocol):
    def scan(self, epoch: Epoch, *, buckets: Collection[int] | None = None) -> AsyncIterator[Sequence[StoredPoint]]:
        """Pages of points in the order of their ids, all of them or those of some buckets."""
        ...

    def shares(
        self, epoch: Epoch, *, buckets: Collection[int] | None = None, as_epoch: int | None = None
    ) -> AsyncIterator[Shares]:
        """The same pages as shares of their buckets' digests, which reads and makes less.

        `as_epoch` counts every point as one of that epoch, so that two epochs can be compared.
        """
        ...


class FactSearcher(Protocol):
    async def rank(
        self, epoch: Epoch, query: Query, *, dense: Vector | None, sparse: SparseVector | None, seconds: float
    ) -> Sequence[Ranked]:
        """All candidates of the query that its filter lets through; sources only when their hits are limited."""
        ...

    async def load(self, epoch: Epoch, places: Sequence[Ranked]) -> Sequence[Hit]:
        """The same places with their content; facts that were deleted meanwhile are left out."""
        ...


class EpochStore(Protocol):
    async def load(self) -> Catalogue:
        """The catalogue; an empty one when Qdrant holds none."""
        ...

    async def replace(self, catalogue: Catalogue) -> bool:
        """Stores the catalogue over revision `catalogue.revision - 1`; False when another one was faster."""
        ...

    async def ensure_collection(self, epoch: Epoch) -> None:
        """Creates collection and payload indexes; what exists already stays."""
        ...

    async def serve(self, epoch: Epoch) -> None:
        """Points the public alias at the epoch; nothing is sent when it points there already."""
        ...

    async def drop_collection(self, epoch: Epoch) -> None:
        """Dropping what does not exist succeeds."""
        ...
