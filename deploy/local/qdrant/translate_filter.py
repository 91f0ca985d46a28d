# The stubs of qdrant_client import each other as top-level modules, so half of their message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false
"""Filters, from Qdrant's messages to the engine's objects."""

# The stubs of qdrant_edge declare types that the module does not have.
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import qdrant_edge as edge
from google.protobuf.timestamp_pb2 import Timestamp
from qdrant_client import grpc as qdrant

from deploy.local.qdrant.errors import InvalidArgumentError, UnimplementedError

_BOUNDS = ("lt", "gt", "gte", "lte")

_MATCHES: Mapping[str, Callable[[Any], edge.MatchType]] = {
    "keyword": edge.MatchValue,
    "integer": edge.MatchValue,
    # The binding reads Python's own booleans as the integers they are, which match no boolean; NumPy's pass.
    "boolean": lambda value: edge.MatchValue(np.bool_(value)),  # pyright: ignore[reportArgumentType]
    "text": edge.MatchText,
    "text_any": edge.MatchTextAny,
    "phrase": edge.MatchPhrase,
    "prefix": edge.MatchPrefix,
    "substring": edge.MatchSubstring,
    "keywords": lambda value: edge.MatchAny(list(value.strings)),
    "integers": lambda value: edge.MatchAny(list(value.integers)),
    "except_keywords": lambda value: edge.MatchExcept(list(value.strings)),
    "except_integers": lambda value: edge.MatchExcept(list(value.integers)),
}


def point_id(message: qdrant.PointId) -> edge.PointId:
    match message.WhichOneof("point_id_options"):
        case "uuid":
            return message.uuid
        case "num":
            return message.num
        case _:
            raise InvalidArgumentError("Empty ID is not allowed")


def to_engine(message: qdrant.Filter) -> edge.Filter:
    return edge.Filter(
        must=_conditions(message.must),
        should=_conditions(message.should),
        must_not=_conditions(message.must_not),
        min_should=_min_should(message.min_should) if message.HasField("min_should") else None,
    )


def optional(message: Any) -> edge.Filter | None:
    """The filter of a request that may have none."""
    return to_engine(message.filter) if message.HasField("filter") else None


def _conditions(messages: Sequence[qdrant.Condition]) -> list[edge.ConditionType] | None:
    return [_condition(message) for message in messages] or None


def _min_should(message: qdrant.MinShould) -> edge.MinShould:
    return edge.MinShould([_condition(condition) for condition in message.conditions], message.min_count)


def _condition(message: qdrant.Condition) -> edge.ConditionType:
    kind = message.WhichOneof("condition_one_of")
    if kind is None:
        raise InvalidArgumentError("Malformed Condition type")
    return _CONDITIONS[kind](getattr(message, kind))


def _field(message: qdrant.FieldCondition) -> edge.FieldCondition:
    for geo in ("geo_bounding_box", "geo_radius", "geo_polygon"):
        if message.HasField(geo):
            raise UnimplementedError("geo conditions")
    checks: dict[str, Any] = {}
    if message.HasField("match"):
        checks["match"] = _match(message.match)
    if message.HasField("range"):
        checks["range"] = edge.RangeFloat(**_bounds(message.range))
    if message.HasField("datetime_range"):
        checks["range"] = edge.RangeDateTime(**_datetime_bounds(message.datetime_range))
    if message.HasField("values_count"):
        checks["values_count"] = edge.ValuesCount(**_bounds(message.values_count))
    for flag in ("is_empty", "is_null"):
        if message.HasField(flag):
            checks[flag] = getattr(message, flag)
    if not checks:
        raise InvalidArgumentError("At least one field condition must be specified")
    return edge.FieldCondition(message.key, **checks)


def _match(message: qdrant.Match) -> edge.MatchType:
    kind = message.WhichOneof("match_value")
    if kind is None:
        raise InvalidArgumentError("Malformed Match condition")
    return _MATCHES[kind](getattr(message, kind))


def _bounds(message: qdrant.Range | qdrant.ValuesCount) -> dict[str, Any]:
    return {bound: getattr(message, bound) for bound in _BOUNDS if message.HasField(bound)}


def _datetime_bounds(message: qdrant.DatetimeRange) -> dict[str, str]:
    def text(bound: str) -> str:
        moment: Timestamp = getattr(message, bound)
        return moment.ToJsonString()

    return {bound: text(bound) for bound in _BOUNDS if message.HasField(bound)}


def _has_id(ids: Iterable[qdrant.PointId]) -> edge.HasIdCondition:
    return edge.HasIdCondition({point_id(each) for each in ids})


def _slice(message: qdrant.SliceCondition) -> edge.ConditionType:
    # Missing from the stubs of the binding.
    condition: Callable[[int, int], edge.ConditionType] = getattr(edge, "SliceCondition")  # noqa: B009
    if message.index >= message.total:
        raise InvalidArgumentError("slice: index must be less than total")
    return condition(message.total, message.index)


_CONDITIONS: Mapping[str, Callable[[Any], edge.ConditionType]] = {
    "field": _field,
    "is_empty": lambda message: edge.IsEmptyCondition(message.key),
    "is_null": lambda message: edge.IsNullCondition(message.key),
    "has_id": lambda message: _has_id(message.has_id),
    "has_vector": lambda message: edge.HasVectorCondition(message.has_vector),
    "filter": to_engine,
    "nested": lambda message: edge.NestedCondition(message.key, to_engine(message.filter)),
    "slice": _slice,
}
