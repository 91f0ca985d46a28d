"""Messages between the gateway and its workers: four bytes of length, then JSON."""

import struct
from typing import Any

import orjson

_HEADER = struct.Struct(">I")

HEADER_BYTES = _HEADER.size


def packed(message: dict[str, Any]) -> bytes:
    body = orjson.dumps(message)
    return _HEADER.pack(len(body)) + body


def size_of(header: bytes) -> int:
    return int(_HEADER.unpack(header)[0])


def unpacked(body: bytes) -> dict[str, Any]:
    return orjson.loads(body)
