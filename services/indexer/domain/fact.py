"""Facts and intents as values.

An intent states what shall be true of one fact; applying it twice, or after a newer
one, changes nothing. `FactId` is always the canonical lower-case UUID text, because
digests and point ids are computed from it. Vectors are arrays of single-precision floats.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, NewType, TypeAlias

from services.shared.errors import ServiceError

FactId = NewType("FactId", str)
if TYPE_CHECKING:
    Vector: TypeAlias = "array[float]"
else:
    Vector = array  # takes no parameter at run time before Python 3.12


class Operation(StrEnum):
    UPSERT = "upsert"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Verbatim support: `text[start:end] == quote`, in code points of the stored text."""

    quote: str
    start: int
    end: int
    context_before: str = ""
    context_after: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactContent:
    statement: str
    evidence: Evidence | None = None
    group: str = ""
    category: str = ""
    fields: Mapping[str, str] = field(default_factory=dict[str, str])
    entities: Sequence[str] = ()
    confidence: float = 0.0
    source_title: str = ""
    source_uri: str = ""
    source_group: str = ""
    source_version: int = 0
    extract_time: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """`content` is set for every upsert, unless `refusal` says why it cannot be in the index.

    `vectors` are those that the caller knew already, by model.
    """

    fact_id: FactId
    version: int
    operation: Operation
    project_id: str
    source_id: str
    content_hash: bytes
    content: FactContent | None = None
    vectors: Mapping[str, Vector] = field(default_factory=dict[str, Vector])
    traceparent: str = ""
    """Of the transaction that stated the intent."""
    refusal: ServiceError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PointState:
    """What decides between versions: the part of a stored point that is read back after a write."""

    version: int
    content_hash: bytes
    tombstone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPoint:
    """A point as the index holds it, without vectors and text."""

    embedding_id: str
    fact_id: FactId
    version: int
    content_hash: bytes
    epoch: int
    project_id: str
    source_id: str
    tombstone: bool
