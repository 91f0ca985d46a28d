"""Search: one query that Qdrant answers, with dense and sparse retrieval fused in the server.

A search ranks a fixed number of candidates by id and then reads the content of one page.
So a later page continues the first one exactly, whatever its size; paging ends where the
candidates end.
"""

# The stubs of qdrant_client import their siblings by names that do not resolve, so some message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from collections.abc import Sequence

from qdrant_client import grpc as qdrant

from services.indexer.adapters.qdrant import conditions, payload
from services.indexer.adapters.qdrant.connection import QdrantConnection
from services.indexer.adapters.qdrant.points import DENSE, SPARSE
from services.indexer.application.ports import SparseVector
from services.indexer.domain.epochs import Epoch
from services.indexer.domain.fact import FactId, Vector
from services.indexer.domain.search import Hit, Query, Ranked, SearchFilter, SearchMode

Retriever = tuple[str, qdrant.VectorInput]
"""Name of the vector to search by, and the query in its form."""


class QdrantSearcher:
    """`candidates` is how deep each retriever looks; hits beyond it cannot be paged to.

    `rrf_k` is the constant of reciprocal rank fusion: the higher, the less the first ranks stand out.
    """

    def __init__(self, connection: QdrantConnection, *, candidates: int, rrf_k: int) -> None:
        self._connection = connection
        self._candidates = candidates
        self._rrf_k = rrf_k

    async def rank(
        self, epoch: Epoch, query: Query, *, dense: Vector | None, sparse: SparseVector | None, seconds: float
    ) -> Sequence[Ranked]:
        retrievers = _retrievers(query.mode, dense=dense, sparse=sparse)
        if not retrievers:
            return []
        response = await self._connection.query(self._request(epoch, query, retrievers), seconds=seconds)
        return [_ranked(point) for point in response.result]

    async def load(self, epoch: Epoch, places: Sequence[Ranked]) -> Sequence[Hit]:
        request = qdrant.GetPoints(
            collection_name=epoch.collection,
            ids=[qdrant.PointId(uuid=place.embedding_id) for place in places],
            with_payload=qdrant.WithPayloadSelector(enable=True),
        )
        response = await self._connection.get(request)
        found = {point.id.uuid: point.payload for point in response.result}
        return [
            _hit(found[place.embedding_id], place.score)
            for place in places
            if place.embedding_id in found and not found[place.embedding_id][payload.TOMBSTONE].bool_value
        ]

    def _request(self, epoch: Epoch, query: Query, retrievers: Sequence[Retriever]) -> qdrant.QueryPoints:
        request = qdrant.QueryPoints(collection_name=epoch.collection, limit=self._candidates * len(retrievers))
        if query.max_hits_per_source:
            request.with_payload.CopyFrom(payload.include([payload.SOURCE_ID]))
        matching = _filter(query.project_id, query.filter)
        if len(retrievers) == 1:
            name, vector = retrievers[0]
            request.query.nearest.CopyFrom(vector)
            request.using = name
            request.filter.CopyFrom(matching)
            return request
        for name, vector in retrievers:
            prefetch = request.prefetch.add(using=name, limit=self._candidates, filter=matching)
            prefetch.query.nearest.CopyFrom(vector)
        request.query.rrf.k = self._rrf_k
        return request


def _retrievers(mode: SearchMode, *, dense: Vector | None, sparse: SparseVector | None) -> list[Retriever]:
    """A query without a single word (only punctuation, only stop words) has no sparse vector to look for."""
    found: list[Retriever] = []
    if mode is not SearchMode.SPARSE and dense is not None:
        found.append((DENSE, qdrant.VectorInput(dense=qdrant.DenseVector(data=dense))))
    if sparse is not None and sparse.indices:
        words = qdrant.SparseVector(indices=sparse.indices, values=sparse.values)
        found.append((SPARSE, qdrant.VectorInput(sparse=words)))
    return found


def _filter(project_id: str, wanted: SearchFilter) -> qdrant.Filter:
    """Tombstones need no condition: without vectors they are in no ranking."""
    must = [conditions.keyword(payload.PROJECT_ID, project_id)]
    lists = {
        payload.SOURCE_ID: wanted.source_ids,
        payload.SOURCE_GROUP: wanted.source_groups,
        payload.GROUP: wanted.groups,
        payload.ENTITIES: wanted.entities,
        payload.CATEGORY: wanted.categories,
    }
    must.extend(conditions.any_keyword(name, values) for name, values in lists.items() if values)
    if wanted.min_confidence > 0:
        must.append(conditions.at_least(payload.CONFIDENCE, wanted.min_confidence))
    if wanted.extract_start or wanted.extract_end:
        must.append(conditions.between(payload.EXTRACTED_AT, start=wanted.extract_start, end=wanted.extract_end))
    return qdrant.Filter(must=must)


def _ranked(point: qdrant.ScoredPoint) -> Ranked:
    return Ranked(
        embedding_id=point.id.uuid,
        source_id=payload.text(point.payload, payload.SOURCE_ID),
        score=point.score,
    )


def _hit(found: payload.Payload, score: float) -> Hit:
    return Hit(
        fact_id=FactId(payload.text(found, payload.FACT_ID)),
        source_id=payload.text(found, payload.SOURCE_ID),
        version=payload.integer(found, payload.VERSION),
        score=score,
        content=payload.content_of(found),
    )
