"""A span as it is stored: one JSON object per line, in files of bounded size."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import orjson

FILE_NAME = "spans.jsonl"
MAX_BYTES = 16 * 1024 * 1024
KEEP = 8

Attribute = str | bool | int | float | list[Any] | dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    trace_id: str
    span_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Ids are lower-case hexadecimal, times are nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the root of a trace."""
    name: str
    service: str
    kind: str
    start: int
    end: int
    status: str
    """unset, ok or error."""
    message: str
    attributes: Mapping[str, Attribute]
    links: tuple[Link, ...]

    @property
    def milliseconds(self) -> float:
        return (self.end - self.start) / 1e6

    def to_line(self) -> bytes:
        return orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        fields: dict[str, Any] = orjson.loads(line)
        links = tuple(Link(**link) for link in fields.pop("links"))
        return cls(**fields, links=links)


def span_file(directory: Path) -> Path:
    return directory / FILE_NAME
