# The stubs of qdrant_client import each other as top-level modules, so half of their message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false
"""Writes, from Qdrant's messages to the engine's operations.

Vectors are checked here against the collection's schema, so that a request with one bad point changes nothing and
leaves no operation in the log that can only fail again when it is replayed.
"""

# The stubs of qdrant_edge declare types that the module does not have.
from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import qdrant_edge as edge
from qdrant_client import grpc as qdrant

from deploy.local.qdrant import translate_filter, translate_payload
from deploy.local.qdrant.errors import InvalidArgumentError, UnimplementedError
from deploy.local.qdrant.translate_filter import point_id
from deploy.local.qdrant.translate_schema import VectorSchema, refuse

_MODES: Mapping[int, edge.UpdateMode] = {
    qdrant.UpdateMode.Upsert: edge.UpdateMode.Upsert,
    qdrant.UpdateMode.InsertOnly: edge.UpdateMode.InsertOnly,
    qdrant.UpdateMode.UpdateOnly: edge.UpdateMode.UpdateOnly,
}


def upsert(request: Any, schema: VectorSchema) -> edge.UpdateOperation:
    """From an UpsertPoints or the PointStructList of a batch."""
    refuse(request, "shard_key_selector")
    return edge.UpdateOperation.upsert_points(
        [
            edge.Point(point_id(point.id), _vectors(point, schema), translate_payload.to_python(point.payload))
            for point in request.points
        ],
        _update_filter(request),
        _mode(request.update_mode) if request.HasField("update_mode") else None,
    )


def update_vectors(request: Any, schema: VectorSchema) -> edge.UpdateOperation:
    refuse(request, "shard_key_selector")
    points = [edge.PointVectors(point_id(point.id), _vectors(point, schema)) for point in request.points]
    return edge.UpdateOperation.update_vectors(points, _update_filter(request))


def delete_vectors(request: Any, schema: VectorSchema) -> edge.UpdateOperation:
    refuse(request, "shard_key_selector")
    names = list(request.vectors.names)
    for name in names:
        if name not in schema.dimensions and name not in schema.sparse:
            raise InvalidArgumentError(f"Not existing vector name error: {name}")
    return _selected(
        request.points_selector,
        lambda ids: edge.UpdateOperation.delete_vectors(ids, names),
        lambda points: edge.UpdateOperation.delete_vectors_by_filter(points, names),
    )


def delete(request: Any) -> edge.UpdateOperation:
    refuse(request, "shard_key_selector")
    return _selected(request.points, edge.UpdateOperation.delete_points, edge.UpdateOperation.delete_points_by_filter)


def set_payload(request: Any) -> edge.UpdateOperation:
    payload, key = _payload(request)
    return _selected(
        request.points_selector,
        lambda ids: edge.UpdateOperation.set_payload(ids, payload, key),
        lambda points: edge.UpdateOperation.set_payload_by_filter(points, payload, key),
    )


def overwrite_payload(request: Any) -> edge.UpdateOperation:
    payload, key = _payload(request)
    return _selected(
        request.points_selector,
        lambda ids: edge.UpdateOperation.overwrite_payload(ids, payload, key),
        lambda points: edge.UpdateOperation.overwrite_payload_by_filter(points, payload, key),
    )


def delete_payload(request: Any) -> edge.UpdateOperation:
    refuse(request, "shard_key_selector")
    keys = list(request.keys)
    return _selected(
        request.points_selector,
        lambda ids: edge.UpdateOperation.delete_payload(ids, keys),
        lambda points: edge.UpdateOperation.delete_payload_by_filter(points, keys),
    )


def clear_payload(request: Any) -> edge.UpdateOperation:
    refuse(request, "shard_key_selector")
    return _selected(request.points, edge.UpdateOperation.clear_payload, edge.UpdateOperation.clear_payload_by_filter)


def batch(operations: Iterable[qdrant.PointsUpdateOperation], schema: VectorSchema) -> list[edge.UpdateOperation]:
    return [_operation(operation, schema) for operation in operations]


def _operation(message: qdrant.PointsUpdateOperation, schema: VectorSchema) -> edge.UpdateOperation:
    kind = message.WhichOneof("operation") or ""
    if kind in _WITH_VECTORS:
        return _WITH_VECTORS[kind](getattr(message, kind), schema)
    if kind in _WITHOUT_VECTORS:
        return _WITHOUT_VECTORS[kind](getattr(message, kind))
    raise InvalidArgumentError(f"Malformed or deprecated operation: {kind}")


def _selected(
    selector: qdrant.PointsSelector,
    by_ids: Callable[[list[edge.PointId]], edge.UpdateOperation],
    by_filter: Callable[[edge.Filter], edge.UpdateOperation],
) -> edge.UpdateOperation:
    match selector.WhichOneof("points_selector_one_of"):
        case "points":
            return by_ids([point_id(each) for each in selector.points.ids])
        case "filter":
            return by_filter(translate_filter.to_engine(selector.filter))
        case _:
            raise InvalidArgumentError("PointsSelector is missing")


def _payload(request: Any) -> tuple[dict[str, Any], str | None]:
    refuse(request, "shard_key_selector")
    return translate_payload.to_python(request.payload), request.key if request.HasField("key") else None


def _update_filter(request: Any) -> edge.Filter | None:
    return translate_filter.to_engine(request.update_filter) if request.HasField("update_filter") else None


def _mode(value: int) -> edge.UpdateMode:
    if value not in _MODES:
        raise InvalidArgumentError(f"unknown update_mode {value}")
    return _MODES[value]


def _vectors(point: Any, schema: VectorSchema) -> edge.Vector:
    vectors = point.vectors
    match vectors.WhichOneof("vectors_options"):
        case "vectors":
            return {name: _vector(name, vector, schema) for name, vector in vectors.vectors.vectors.items()}
        case "vector":
            # The engine's vector of no name and Qdrant's default vector are the same.
            return {"": _vector("", vectors.vector, schema)}
        case _:
            raise InvalidArgumentError("Expected some vectors")


def _vector(name: str, message: qdrant.Vector, schema: VectorSchema) -> edge.NamedVector:
    kind = message.WhichOneof("vector")
    if kind == "dense":
        return _dense(name, _floats(message.dense), schema)
    if kind == "sparse":
        return _sparse(name, list(message.sparse.indices), list(message.sparse.values), schema)
    if kind is not None or message.HasField("vectors_count"):
        raise UnimplementedError(f"vectors of kind {kind or 'multi_dense'}")
    # The form that clients before 1.15 send.
    if message.HasField("indices"):
        return _sparse(name, list(message.indices.data), list(message.data), schema)
    return _dense(name, list(message.data), schema)


def _floats(message: qdrant.DenseVector) -> Sequence[float]:
    """The numbers as an array of machine floats, out of the wire format: a Python object for each costs 5 times that.

    Field 1, packed: a byte of tag, the size in bytes as a varint, then the floats.
    """
    size = 4 * len(message.data)
    start = 1 + max(1, (size.bit_length() + 6) // 7)
    values = array("f")
    values.frombytes(message.SerializeToString()[start : start + size])
    return values


def _dense(name: str, values: Sequence[float], schema: VectorSchema) -> list[float]:
    dimension = schema.dimensions.get(name)
    if dimension is None:
        raise _misplaced(name, schema)
    if len(values) != dimension:
        raise InvalidArgumentError(f"Vector dimension error: expected dim: {dimension}, got {len(values)}")
    return cast("list[float]", values)


def _sparse(name: str, indices: list[int], values: list[float], schema: VectorSchema) -> edge.SparseVector:
    if name not in schema.sparse:
        raise _misplaced(name, schema)
    if len(indices) != len(values):
        raise InvalidArgumentError(f"sparse vector `{name}`: {len(indices)} indices for {len(values)} values")
    if len(set(indices)) != len(indices):
        raise InvalidArgumentError(f"sparse vector `{name}`: indices must be unique")
    return edge.SparseVector(indices, values)


def _misplaced(name: str, schema: VectorSchema) -> InvalidArgumentError:
    if name in schema.dimensions or name in schema.sparse:
        return InvalidArgumentError("Wrong usage of sparse vectors")
    return InvalidArgumentError(f"Not existing vector name error: {name}")


_WITH_VECTORS: Mapping[str, Callable[[Any, VectorSchema], edge.UpdateOperation]] = {
    "upsert": upsert,
    "update_vectors": update_vectors,
    "delete_vectors": delete_vectors,
}
_WITHOUT_VECTORS: Mapping[str, Callable[[Any], edge.UpdateOperation]] = {
    "delete_points": delete,
    "set_payload": set_payload,
    "overwrite_payload": overwrite_payload,
    "delete_payload": delete_payload,
    "clear_payload": clear_payload,
}
