"""Intents that leave the extractor through its outbox, and what peers answer to them.

There are three topics: facts go to the indexer, jobs to the scheduler, and what is to be
forgotten to the gateway. Of each fact or job at most one intent waits or is under way; a
newer one takes its place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum, StrEnum
from hashlib import sha256
from typing import Any
from uuid import UUID

from services.extractor.domain.grounding import GroundedValue
from services.shared.errors import Reason, RemoteError


class Topic(StrEnum):
    FACT = "fact"
    JOB = "job"
    CACHE = "cache"
    """Results of the model that go with a source; the key is its incarnation."""


class Operation(IntEnum):
    """Numbers of `scristill.indexer.v1.IntentOperation`; they are stored. DELETE of a job asks to cancel it."""

    UPSERT = 1
    DELETE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A leased row. An answer to another version, or under another lease, changes nothing."""

    topic: Topic
    key: UUID
    operation: Operation
    version: int
    project_id: UUID
    source_id: UUID
    attempts: int
    lease_token: UUID
    traceparent: str
    marker: bool = False
    """Whether it says how far the index has come, rather than something of a fact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FactContent:
    """What the index shall hold of a fact."""

    statement: str
    group: str
    category: str
    values: tuple[GroundedValue, ...]
    quote: str
    start: int
    end: int
    context_before: str
    context_after: str
    entities: tuple[str, ...]
    confidence: float
    source_title: str
    source_uri: str
    source_group: str
    source_version: int
    extract_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVector:
    """What a model made of the statement that has this hash: single-precision floats, little-endian."""

    fact_id: UUID
    model: str
    statement_hash: bytes
    values: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FactIntent:
    """An intent of topic FACT as it is sent. `content` is set for an UPSERT; `vectors` are known ones, by model."""

    intent: Intent
    content_hash: bytes
    content: FactContent | None = field(default=None, repr=False)
    vectors: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)


class Outcome(IntEnum):
    """Numbers of `scristill.indexer.v1.IntentOutcome`."""

    APPLIED = 1
    SUPERSEDED = 2
    REJECTED = 3
    RETRY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """What the indexer says became of one version of a fact. `failure` is set for REJECTED and RETRY.

    `vectors` are those that were made for it, by model.
    """

    fact_id: UUID
    version: int
    outcome: Outcome
    embedding_id: UUID | None
    epoch: int | None
    failure: RemoteError | None
    vectors: Mapping[str, bytes] = field(default_factory=dict[str, bytes], repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexedFact:
    """The index holds this version of the fact, durably."""

    fact_id: UUID
    version: int
    embedding_id: UUID | None
    """None for a tombstone."""
    epoch: int | None
    lease_token: UUID
    vectors: tuple[KeptVector, ...] = ()
    """Those to keep."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """A version that the index has acknowledged: it holds this one or a higher one, unless it has lost something."""

    fact_id: UUID
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Postponed:
    """Not applied, or not known: to be sent again, at the earliest after the delay.

    `away`: because the peer was, so that it may go as soon as that is back.
    """

    key: UUID
    version: int
    lease_token: UUID
    delay: timedelta
    away: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Can never be applied. `context` is the intent as it was sent."""

    key: UUID
    version: int
    lease_token: UUID
    reason: Reason
    message: str
    context: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What waits in the outbox under one topic."""

    topic: Topic
    depth: int
    oldest_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    topic: Topic
    key: UUID
    operation: Operation
    version: int
    project_id: UUID
    source_id: UUID
    reason: Reason
    message: str
    attempts: int
    context: str
    fail_time: datetime


def statement_hash(statement: str) -> bytes:
    """Decides whether a vector is that of a statement: what else changes about a fact leaves its vector as it is."""
    return sha256(statement.encode()).digest()[:16]
