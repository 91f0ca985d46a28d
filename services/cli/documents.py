"""Messages of the contract as JSON for scripts.

Field names are the contract's. Unlike canonical protobuf JSON, every field is present, numbers are numbers also beyond
32 bits, durations are seconds, bytes are hexadecimal, and enum values come without their prefix; a message that is not
set is null.
"""

from collections.abc import Mapping
from datetime import UTC
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

Document = dict[str, Any]


def document(message: Message) -> Document:
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def enum_name(enum: Any, number: int) -> str:
    """`JOB_STATE_RUNNING` as `RUNNING`; a value that this version does not know as its number."""
    value = enum.values_by_number.get(number)
    if value is None:
        return str(number)
    zero = enum.values_by_number[0].name
    return value.name.removeprefix(zero.removesuffix("UNSPECIFIED"))


def moment(time: Timestamp) -> str:
    """RFC 3339, UTC, milliseconds."""
    return time.ToDatetime(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _field(message: Message, field: Any) -> Any:
    value: Any = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        item = field.message_type.fields_by_name["value"]
        entries: Mapping[Any, Any] = value
        return {str(key): _value(item, entry) for key, entry in sorted(entries.items())}
    if field.is_repeated:
        return [_value(field, item) for item in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _value(field, value)


def _value(field: Any, value: Any) -> Any:
    match value:
        case Timestamp():
            return moment(value)
        case Duration():
            return value.ToMicroseconds() / 1e6
        case Message():
            return document(value)
        case bytes():
            return value.hex()
        case int() if field.enum_type is not None:
            return enum_name(field.enum_type, value)
        case _:
            return value
