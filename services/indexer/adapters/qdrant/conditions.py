"""Conditions of Qdrant filters, as small functions."""

# The stubs of qdrant_client import their siblings by names that do not resolve, so some message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from collections.abc import Iterable
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp
from qdrant_client import grpc as qdrant


def keyword(field: str, value: str) -> qdrant.Condition:
    return qdrant.Condition(field=qdrant.FieldCondition(key=field, match=qdrant.Match(keyword=value)))


def any_keyword(field: str, values: Iterable[str]) -> qdrant.Condition:
    strings = qdrant.RepeatedStrings(strings=values)
    return qdrant.Condition(field=qdrant.FieldCondition(key=field, match=qdrant.Match(keywords=strings)))


def any_integer(field: str, values: Iterable[int]) -> qdrant.Condition:
    integers = qdrant.RepeatedIntegers(integers=values)
    return qdrant.Condition(field=qdrant.FieldCondition(key=field, match=qdrant.Match(integers=integers)))


def flag(field: str, value: bool) -> qdrant.Condition:  # noqa: FBT001 - the value itself
    return qdrant.Condition(field=qdrant.FieldCondition(key=field, match=qdrant.Match(boolean=value)))


def less_than(field: str, value: float) -> qdrant.Condition:
    return qdrant.Condition(field=qdrant.FieldCondition(key=field, range=qdrant.Range(lt=value)))


def at_least(field: str, value: float) -> qdrant.Condition:
    return qdrant.Condition(field=qdrant.FieldCondition(key=field, range=qdrant.Range(gte=value)))


def between(field: str, *, start: datetime | None, end: datetime | None) -> qdrant.Condition:
    """From `start`, included, to `end`, excluded."""
    span = qdrant.DatetimeRange(gte=_timestamp(start), lt=_timestamp(end))
    return qdrant.Condition(field=qdrant.FieldCondition(key=field, datetime_range=span))


def has_id(ids: Iterable[str]) -> qdrant.Condition:
    return qdrant.Condition(has_id=qdrant.HasIdCondition(has_id=[qdrant.PointId(uuid=each) for each in ids]))


def _timestamp(moment: datetime | None) -> Timestamp | None:
    if moment is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(moment)
    return timestamp
