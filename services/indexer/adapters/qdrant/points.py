"""Points of an epoch: conditional writes, the states they left behind, counts, tombstones.

The guard of a write is an `update_filter` on the stored version; points that do not
exist are inserted whatever the filter says. One filter holds for all points of an upsert.
Writes are ordered through one leader of the shard, because replicas that apply two
conditional writes in different order could end up different.
"""

# The stubs of qdrant_client import their siblings by names that do not resolve, so some message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from qdrant_client import grpc as qdrant

from services.indexer.adapters.qdrant import conditions, payload
from services.indexer.adapters.qdrant.connection import QdrantConnection
from services.indexer.application.ports import PointWrite
from services.indexer.domain.epochs import Epoch
from services.indexer.domain.fact import Intent, PointState
from services.shared.clock import Clock
from services.shared.grpc.floats import fill_floats

DENSE = "dense"
SPARSE = "bm25"

_ORDERING = qdrant.WriteOrdering(type=qdrant.WriteOrderingType.Medium)


class QdrantFacts:
    def __init__(self, connection: QdrantConnection, clock: Clock) -> None:
        self._connection = connection
        self._clock = clock

    async def write(self, epoch: Epoch, groups: Sequence[Sequence[PointWrite]]) -> None:
        now = self._clock.now()
        if len(groups) == 1:
            request = qdrant.UpsertPoints(collection_name=epoch.collection, wait=True, ordering=_ORDERING)
            _fill_group(request, groups[0], epoch=epoch, now=now)
            await self._connection.upsert(request)
            return
        batch = qdrant.UpdateBatchPoints(collection_name=epoch.collection, wait=True, ordering=_ORDERING)
        for group in groups:
            _fill_group(batch.operations.add().upsert, group, epoch=epoch, now=now)
        await self._connection.update_batch(batch)

    async def states(self, epoch: Epoch, embedding_ids: Iterable[str]) -> Mapping[str, PointState]:
        request = qdrant.GetPoints(
            collection_name=epoch.collection,
            ids=[qdrant.PointId(uuid=each) for each in embedding_ids],
            with_payload=payload.include(payload.STATE_FIELDS),
        )
        response = await self._connection.get(request)
        return {point.id.uuid: payload.state_of(point.payload) for point in response.result}

    async def intents(self, epoch: Epoch, embedding_ids: Iterable[str]) -> Sequence[Intent]:
        request = qdrant.GetPoints(
            collection_name=epoch.collection,
            ids=[qdrant.PointId(uuid=each) for each in embedding_ids],
            with_payload=qdrant.WithPayloadSelector(enable=True),
        )
        response = await self._connection.get(request)
        return [payload.intent_of(point.payload) for point in response.result]

    async def count(self, epoch: Epoch, *, tombstones: bool, project_id: str = "") -> int:
        must = [conditions.flag(payload.TOMBSTONE, tombstones)]
        if project_id:
            must.append(conditions.keyword(payload.PROJECT_ID, project_id))
        request = qdrant.CountPoints(collection_name=epoch.collection, filter=qdrant.Filter(must=must), exact=True)
        return await self._connection.count(request)

    async def approximate_count(self, epoch: Epoch) -> int:
        return await self._connection.count(qdrant.CountPoints(collection_name=epoch.collection, exact=False))

    async def collect_tombstones(self, epoch: Epoch, *, older_than: datetime, limit: int) -> int:
        expired = [
            conditions.flag(payload.TOMBSTONE, True),
            conditions.less_than(payload.DELETED_AT, older_than.timestamp()),
        ]
        page = await self._connection.scroll(
            qdrant.ScrollPoints(
                collection_name=epoch.collection,
                filter=qdrant.Filter(must=expired),
                limit=limit,
                with_payload=qdrant.WithPayloadSelector(enable=False),
            )
        )
        found = [point.id.uuid for point in page.result]
        if found:
            # By id and by condition: a fact that came back meanwhile is no tombstone any more and must stay.
            guard = qdrant.Filter(must=[conditions.has_id(found), *expired])
            await self._connection.delete(
                qdrant.DeletePoints(
                    collection_name=epoch.collection,
                    wait=True,
                    ordering=_ORDERING,
                    points=qdrant.PointsSelector(filter=guard),
                )
            )
        return len(found)


def _fill_group(
    target: qdrant.UpsertPoints | qdrant.PointsUpdateOperation.PointStructList,
    writes: Sequence[PointWrite],
    *,
    epoch: Epoch,
    now: datetime,
) -> None:
    lowest = min(write.intent.version for write in writes)
    target.update_filter.must.append(conditions.less_than(payload.VERSION, lowest))
    for write in writes:
        point = target.points.add()
        point.id.uuid = write.embedding_id
        payload.fill(point.payload, intent=write.intent, epoch=epoch, now=now)
        vectors = point.vectors.vectors.vectors
        if write.dense:
            fill_floats(vectors[DENSE].dense, qdrant.DenseVector.DATA_FIELD_NUMBER, write.dense)
        if write.sparse is not None:
            sparse = vectors[SPARSE].sparse
            sparse.indices.extend(write.sparse.indices)
            sparse.values.extend(write.sparse.values)
        if write.intent.content is None:
            point.vectors.vectors.SetInParent()
