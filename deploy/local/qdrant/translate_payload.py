# The stubs of qdrant_client import each other as top-level modules, so half of their message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false
# pyright: reportUnknownParameterType=false
"""Payloads, between Qdrant's `Value` messages and plain Python values."""

from collections.abc import Mapping
from typing import Any

from qdrant_client import grpc as qdrant


def to_python(fields: Mapping[str, qdrant.Value]) -> dict[str, Any]:
    # Most values are strings, and to ask for one costs half of asking which kind it is.
    return {key: value.string_value or _value(value) for key, value in fields.items()}


def fill(fields: Any, payload: Mapping[str, Any]) -> None:
    """Writes a payload into a map field of `Value`."""
    for key, value in payload.items():
        _fill_value(fields[key], value)


def _value(message: qdrant.Value) -> Any:
    kind = message.WhichOneof("kind")
    if kind == "struct_value":
        return to_python(message.struct_value.fields)
    if kind == "list_value":
        return [_value(item) for item in message.list_value.values]
    if kind is None or kind == "null_value":
        return None
    return getattr(message, kind)


def _fill_value(message: qdrant.Value, value: Any) -> None:
    # In the order of frequency; bool before int, of which it is a subclass.
    if isinstance(value, str):
        message.string_value = value
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, int):
        message.integer_value = value
    elif isinstance(value, float):
        message.double_value = value
    elif isinstance(value, dict):
        message.struct_value.SetInParent()
        fill(message.struct_value.fields, value)
    elif isinstance(value, list):
        message.list_value.SetInParent()
        for item in value:
            _fill_value(message.list_value.values.add(), item)
    else:
        message.null_value = qdrant.NullValue.NULL_VALUE
