"""Sources and their versions: where a document stands on its way to facts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from hashlib import sha256
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import UUID

from services.shared.errors import Reason

MAX_TITLE: Final = 1000


class SourceState(IntEnum):
    """Numbers of `scristill.extractor.v1.SourceState`; they are stored."""

    PENDING = 1
    EXTRACTING = 2
    EXTRACTED = 3
    PARTIAL = 4
    FAILED = 5
    SKIPPED = 6

    @property
    def final(self) -> bool:
        return self not in (SourceState.PENDING, SourceState.EXTRACTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    uri: str
    title: str = ""
    group: str = ""
    media_type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSource:
    """A document as a client sends it."""

    spec: SourceSpec
    content: bytes = field(repr=False)

    @property
    def content_hash(self) -> bytes:
        return sha256(self.content).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source as clients see it: its newest version, with counts that are derived, never stored."""

    source_id: UUID
    project_id: UUID
    uri: str
    title: str
    group: str
    media_type: str
    state: SourceState
    version: int
    visible_version: int
    content_hash: bytes
    size_bytes: int
    text_length: int
    chunk_count: int
    extracted_chunk_count: int
    failed_chunk_count: int
    extraction_count: int
    indexed_count: int
    ungrounded_count: int
    job_id: UUID
    reason: Reason
    message: str
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFilter:
    """Lists mean "any of"; an empty list means all."""

    states: Sequence[SourceState] = ()
    groups: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionRef:
    """The version of a source that a job works on, and the job's right to do so."""

    source_id: UUID
    version: int
    job_id: UUID
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVersion:
    """A version under work. `text` is None until it has been read; `content` is what the client sent."""

    ref: VersionRef
    project_id: UUID
    incarnation: UUID
    uri: str
    title: str
    group: str
    media_type: str
    content: bytes = field(repr=False)
    text: str | None = field(repr=False)
    published: bool
    """Whether a publish of this version has ended before: the job is then a retry asked for by a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a version ends, and why if not well."""

    state: SourceState
    reason: Reason = Reason.UNSPECIFIED
    message: str = ""


class JobFate(StrEnum):
    """What the scheduler says of a job whose version is still open."""

    OPEN = "open"
    ENDED_BADLY = "ended_badly"
    SUCCEEDED = "succeeded"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnding:
    fate: JobFate
    reason: Reason = Reason.UNSPECIFIED
    message: str = ""


def title_from_uri(uri: str) -> str:
    """What to call a document that has no title: the last part of its address."""
    path = urlsplit(uri).path.rstrip("/")
    return unquote(path.rpartition("/")[2]) or uri
