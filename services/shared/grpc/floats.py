"""Vectors as the bytes that a packed `repeated float` has on the wire: an object per number costs many times that.

The wire is little-endian, as is every platform that gRPC ships wheels for, so an `array("f")` is a copy of it.
"""

from array import array
from collections.abc import Sized
from typing import TypeVar

from google.protobuf.message import Message

_FLOAT_BYTES = 4
_PACKED = 2
_VARINT_BITS = 7
_VARINT_MORE = 1 << _VARINT_BITS

M = TypeVar("M", bound=Message)


def read_floats(message: Message, values: Sized) -> "array[float]":
    """`values` is the field of the message with the highest number of those that are set."""
    found = array("f")
    if size := len(values) * _FLOAT_BYTES:
        # Fields that this version does not know would stand behind it.
        message.DiscardUnknownFields()
        found.frombytes(message.SerializeToString()[-size:])
    return found


def fill_floats(message: M, field: int, values: "array[float] | bytes") -> M:
    """Appends to the `repeated float` of this number; returns the message. Bytes are floats as `array` holds them."""
    data = values if isinstance(values, bytes) else values.tobytes()
    message.MergeFromString(_varint(field << 3 | _PACKED) + _varint(len(data)) + data)
    return message


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value >= _VARINT_MORE:
        parts.append(value % _VARINT_MORE | _VARINT_MORE)
        value >>= _VARINT_BITS
    parts.append(value)
    return bytes(parts)
