# The stubs of qdrant_client import each other as top-level modules, so half of their message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false
"""Results, from the engine's objects to Qdrant's messages."""

# The stubs of qdrant_edge declare types that the module does not have.
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import qdrant_edge as edge
from qdrant_client import grpc as qdrant

from deploy.local.qdrant import translate_payload


def fill_scored(results: Any, points: Iterable[edge.ScoredPoint]) -> None:
    for point in points:
        message = results.add()
        message.score = point.score
        message.version = point.version
        _fill(message, point)


def fill_records(results: Any, records: Iterable[edge.Record]) -> None:
    for record in records:
        _fill(results.add(), record)


def fill_id(message: qdrant.PointId, value: edge.PointId) -> None:
    if isinstance(value, int):
        message.num = value
    else:
        message.uuid = str(value)


def fill_facet(response: qdrant.FacetResponse, facet: edge.FacetResponse) -> None:
    for hit in facet:
        message = response.hits.add(count=hit.count)
        if isinstance(hit.value, bool):
            message.value.bool_value = hit.value
        elif isinstance(hit.value, int):
            message.value.integer_value = hit.value
        else:
            message.value.string_value = str(hit.value)


def _fill(message: Any, point: edge.ScoredPoint | edge.Record) -> None:
    fill_id(message.id, point.id)
    if payload := point.payload:
        translate_payload.fill(message.payload, payload)
    if (vector := point.vector) is not None:
        _fill_vectors(message.vectors, vector)
    if (order := point.order_value) is not None:
        if isinstance(order, int):
            message.order_value.int = order
        else:
            message.order_value.float = order


def _fill_vectors(message: qdrant.VectorsOutput, vector: edge.Vector) -> None:
    if not isinstance(vector, dict):
        _fill_vector(message.vector, vector)
        return
    message.vectors.SetInParent()
    for name, named in vector.items():
        _fill_vector(message.vectors.vectors[name], named)


def _fill_vector(message: qdrant.VectorOutput, vector: edge.NamedVector) -> None:
    if isinstance(vector, edge.SparseVector):
        message.sparse.SetInParent()
        message.sparse.indices.extend(vector.indices)
        message.sparse.values.extend(vector.values)
    else:
        message.dense.SetInParent()
        message.dense.data.extend(cast("list[float]", vector))
