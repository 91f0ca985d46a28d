"""Epochs in Qdrant: the catalogue point, the collections, the public alias.

The catalogue is one point in a collection of its own. It is replaced under an
`update_filter` on its revision and read back, which makes a compare-and-swap out of
what Qdrant offers: the indexer needs no second store. The alias is a consequence of the
catalogue, for people and other tools; the indexer itself names collections, so that a
query never meets the vectors of another model.
"""

# The stubs of qdrant_client import their siblings by names that do not resolve, so some message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import cast

import orjson
from qdrant_client import grpc as qdrant

from services.indexer.adapters.qdrant import conditions, payload
from services.indexer.adapters.qdrant.connection import QdrantConnection
from services.indexer.adapters.qdrant.points import DENSE, SPARSE
from services.indexer.domain.epochs import Catalogue, Epoch, EpochState
from services.shared import ids
from services.shared.errors import OutcomeUnknown

_CATALOGUE_ID = str(ids.derived(ids.namespace("epoch_catalogue"), "catalogue"))
_VECTOR = "none"

_REVISION = "revision"
_WRITER = "writer"
_EPOCHS = "epochs"

_KEYWORDS = (
    payload.PROJECT_ID,
    payload.SOURCE_ID,
    payload.SOURCE_GROUP,
    payload.GROUP,
    payload.CATEGORY,
    payload.ENTITIES,
)
_INDEXES: Mapping[str, qdrant.FieldType.ValueType] = {
    **dict.fromkeys(_KEYWORDS, qdrant.FieldType.FieldTypeKeyword),
    # Not for speed: servers in strict mode refuse conditional writes on a field without an index.
    payload.VERSION: qdrant.FieldType.FieldTypeInteger,
    payload.BUCKET: qdrant.FieldType.FieldTypeInteger,
    payload.DELETED_AT: qdrant.FieldType.FieldTypeInteger,
    payload.CONFIDENCE: qdrant.FieldType.FieldTypeFloat,
    payload.TOMBSTONE: qdrant.FieldType.FieldTypeBool,
    payload.EXTRACTED_AT: qdrant.FieldType.FieldTypeDatetime,
}


class QdrantEpochStore:
    """`prefix` is the public alias, `<prefix>_epochs` the collection of the catalogue."""

    def __init__(self, connection: QdrantConnection, *, prefix: str) -> None:
        self._connection = connection
        self._prefix = prefix
        self._collection = f"{prefix}_epochs"

    async def load(self) -> Catalogue:
        if self._collection not in await self._connection.collection_names():
            return Catalogue()
        found = await self._read()
        return _catalogue_of(found) if found is not None else Catalogue()

    async def replace(self, catalogue: Catalogue) -> bool:
        if catalogue.revision == 1:
            await self._create_catalogue()
        writer = secrets.token_hex(8)
        request = qdrant.UpsertPoints(
            collection_name=self._collection,
            wait=True,
            ordering=qdrant.WriteOrdering(type=qdrant.WriteOrderingType.Strong),
            points=[_point_of(catalogue, writer)],
            update_filter=qdrant.Filter(must=[conditions.less_than(_REVISION, catalogue.revision)]),
        )
        await self._connection.upsert(request)
        stored = await self._read()
        if stored is None:
            raise OutcomeUnknown.of("qdrant")
        return stored[_WRITER].string_value == writer

    async def ensure_collection(self, epoch: Epoch) -> None:
        if epoch.collection in await self._connection.collection_names():
            return
        dense = qdrant.VectorParams(size=epoch.dimension, distance=qdrant.Distance.Cosine)
        sparse = qdrant.SparseVectorParams(modifier=qdrant.Modifier.Idf)
        request = qdrant.CreateCollection(
            collection_name=epoch.collection,
            vectors_config=qdrant.VectorsConfig(params_map=qdrant.VectorParamsMap(map={DENSE: dense})),
            sparse_vectors_config=qdrant.SparseVectorConfig(map={SPARSE: sparse}),
        )
        await self._connection.create_collection(request)
        for field, kind in _INDEXES.items():
            await self._connection.create_field_index(
                qdrant.CreateFieldIndexCollection(
                    collection_name=epoch.collection, wait=True, field_name=field, field_type=kind
                )
            )

    async def serve(self, epoch: Epoch) -> None:
        current = (await self._connection.aliases()).get(self._prefix)
        if current == epoch.collection:
            return
        create = qdrant.CreateAlias(collection_name=epoch.collection, alias_name=self._prefix)
        actions = [qdrant.AliasOperations(create_alias=create)]
        if current is not None:
            delete = qdrant.DeleteAlias(alias_name=self._prefix)
            actions.insert(0, qdrant.AliasOperations(delete_alias=delete))
        await self._connection.change_aliases(qdrant.ChangeAliases(actions=actions))

    async def drop_collection(self, epoch: Epoch) -> None:
        if epoch.collection in await self._connection.collection_names():
            await self._connection.delete_collection(epoch.collection)

    async def _create_catalogue(self) -> None:
        params = qdrant.VectorParams(size=1, distance=qdrant.Distance.Dot)
        await self._connection.create_collection(
            qdrant.CreateCollection(
                collection_name=self._collection,
                vectors_config=qdrant.VectorsConfig(params_map=qdrant.VectorParamsMap(map={_VECTOR: params})),
            )
        )

    async def _read(self) -> payload.Payload | None:
        request = qdrant.GetPoints(
            collection_name=self._collection,
            ids=[qdrant.PointId(uuid=_CATALOGUE_ID)],
            with_payload=qdrant.WithPayloadSelector(enable=True),
        )
        points = (await self._connection.get(request)).result
        return points[0].payload if points else None


def _point_of(catalogue: Catalogue, writer: str) -> qdrant.PointStruct:
    point = qdrant.PointStruct(id=qdrant.PointId(uuid=_CATALOGUE_ID))
    point.vectors.vectors.SetInParent()
    point.payload[_REVISION].integer_value = catalogue.revision
    point.payload[_WRITER].string_value = writer
    point.payload[_EPOCHS].string_value = orjson.dumps(catalogue.epochs).decode()
    return point


def _catalogue_of(found: payload.Payload) -> Catalogue:
    rows = cast("list[dict[str, str | int]]", orjson.loads(found[_EPOCHS].string_value))
    return Catalogue(revision=found[_REVISION].integer_value, epochs=tuple(_epoch_of(row) for row in rows))


def _epoch_of(row: Mapping[str, str | int]) -> Epoch:
    return Epoch(
        number=int(row["number"]),
        state=EpochState(str(row["state"])),
        model=str(row["model"]),
        dimension=int(row["dimension"]),
        collection=str(row["collection"]),
        created=datetime.fromisoformat(str(row["created"])),
        request_id=str(row["request_id"]),
    )
