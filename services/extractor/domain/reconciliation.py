"""How PostgreSQL and the index are compared: by digest per bucket, and by id where digests differ.

A bucket holds the facts whose ids share their first 12 bits, which is a range of ids. Its
digest is the XOR of one share per live fact, so that neither order nor writes elsewhere
matter. All of this is arithmetic of the contract (`scristill.indexer.v1.BucketDigest`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from hashlib import sha256
from typing import Final
from uuid import UUID

BUCKET_COUNT: Final = 4096
DIGEST_BYTES: Final = 16
FIRST_SLICE: Final = 16
"""Buckets compared before it is known how many facts there are."""

IdRange = tuple[UUID, UUID]
"""The lowest and the highest id, both included."""

_SLICE_FACTS: Final = 3500
_SLICE_GROWTH: Final = 4
_BUCKET_SHIFT: Final = 116


class DriftKind(IntEnum):
    """Numbers of `scristill.extractor.v1.DriftKind`."""

    MISSING = 1
    STALE = 2
    GHOST = 3
    WRONG_EPOCH = 4
    WRONG_PAYLOAD = 5
    WRONG_PROJECT = 6


class RunState(IntEnum):
    RUNNING = 1
    DONE = 2
    FAILED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FactState:
    """A live fact as PostgreSQL has it."""

    fact_id: UUID
    project_id: UUID
    source_id: UUID
    version: int
    content_hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PointState:
    """A point as the index has it."""

    fact_id: UUID
    project_id: UUID
    source_id: UUID
    version: int
    content_hash: bytes
    epoch: int
    tombstone: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """`fact` and `point` are what disagrees; one of them may be missing, never both."""

    fact_id: UUID
    kind: DriftKind
    fact: FactState | None
    point: PointState | None

    @property
    def stored_version(self) -> int:
        return self.fact.version if self.fact else 0

    @property
    def indexed_version(self) -> int:
        return self.point.version if self.point else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """Digest as a big-endian integer of 16 bytes, and the number of live facts or points."""

    digest: int = 0
    count: int = 0

    def plus(self, other: "Bucket") -> "Bucket":
        return Bucket(digest=self.digest ^ other.digest, count=self.count + other.count)


EMPTY: Final = Bucket()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """`epoch` 0 is the one that is searched; `pace` 0 does not limit points read per second."""

    epoch: int = 0
    dry_run: bool = False
    pace: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as it stands: what is known of the buckets below `next_bucket`."""

    run_id: UUID
    epoch: int
    dry_run: bool
    pace: int
    state: RunState
    watermark: int
    start_time: datetime
    end_time: datetime | None = None
    next_bucket: int = 0
    differing: int = 0
    facts: Bucket = EMPTY
    points: Bucket = EMPTY
    drift_counts: Mapping[str, int] = field(default_factory=dict[str, int])
    repaired: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDrift:
    """A drift as a run has written it down, in order of `number`."""

    number: int
    fact_id: UUID
    kind: DriftKind
    stored_version: int
    indexed_version: int
    repaired: bool


def bucket_of(fact_id: UUID) -> int:
    return fact_id.int >> _BUCKET_SHIFT


def id_range(first: int, last: int) -> IdRange:
    """The ids of the buckets from `first` to `last`."""
    return UUID(int=first << _BUCKET_SHIFT), UUID(int=((last + 1) << _BUCKET_SHIFT) - 1)


def slice_width(width: int, held: int) -> int:
    """Buckets to compare next, if the last slice of `width` buckets held so many facts: about as many as the index
    reads at once. A filtered read begins anew for each page, so wide slices cost more than they hold, and what is
    written while one is read makes its buckets differ."""
    return max(1, min(_SLICE_GROWTH * width, width * _SLICE_FACTS // max(held, 1)))


def share(of: FactState | PointState, *, epoch: int) -> Bucket:
    """What one live fact adds to its bucket."""
    content = of.fact_id.bytes + of.version.to_bytes(8) + of.content_hash + epoch.to_bytes(8) + of.project_id.bytes
    return Bucket(digest=int.from_bytes(sha256(content).digest()[:DIGEST_BYTES]), count=1)


def judge(fact: FactState | None, point: PointState | None, *, epoch: int) -> DriftKind | None:
    """How the two disagree about one fact; None when they agree."""
    live = point is not None and not point.tombstone
    if fact is None:
        return DriftKind.GHOST if live else None
    if point is None or not live:
        return DriftKind.MISSING
    if point.project_id != fact.project_id:
        return DriftKind.WRONG_PROJECT
    if point.epoch != epoch:
        return DriftKind.WRONG_EPOCH
    if point.version < fact.version:
        return DriftKind.STALE
    same = point.version == fact.version and point.content_hash == fact.content_hash
    return None if same else DriftKind.WRONG_PAYLOAD


def compare(
    facts: Mapping[UUID, FactState], points: Mapping[UUID, PointState], *, pending: frozenset[UUID], epoch: int
) -> Iterator[Drift]:
    """Disagreements, but for facts whose intent was under way."""
    for fact_id in sorted(facts.keys() | points.keys()):
        fact, point = facts.get(fact_id), points.get(fact_id)
        kind = judge(fact, point, epoch=epoch)
        if kind is not None and fact_id not in pending:
            yield Drift(fact_id=fact_id, kind=kind, fact=fact, point=point)


def moving(before: Mapping[UUID, FactState], after: Mapping[UUID, FactState]) -> frozenset[UUID]:
    """Facts that were written between two looks at them."""
    return frozenset(
        fact_id
        for fact_id in before.keys() | after.keys()
        if _version(before.get(fact_id)) != _version(after.get(fact_id))
    )


def settled(
    facts: Mapping[UUID, FactState], points: Mapping[UUID, PointState], *, pending: frozenset[UUID], epoch: int
) -> tuple[Bucket, Bucket]:
    """Digests of both sides over what is not under way: equal exactly when nothing drifts."""
    both = left = right = EMPTY
    for fact_id in (facts.keys() | points.keys()) - pending:
        fact, point = facts.get(fact_id), points.get(fact_id)
        mine = share(fact, epoch=epoch) if fact else EMPTY
        if judge(fact, point, epoch=epoch) is None:
            both = both.plus(mine)
            continue
        left = left.plus(mine)
        if point is not None and not point.tombstone:
            right = right.plus(share(point, epoch=point.epoch))
    return both.plus(left), both.plus(right)


def counted(known: Mapping[str, int], drifts: Sequence[Drift]) -> dict[str, int]:
    """`known` plus these, by the name of the kind."""
    counts = dict(known)
    for drift in drifts:
        counts[drift.kind.name] = counts.get(drift.kind.name, 0) + 1
    return counts


def _version(fact: FactState | None) -> int | None:
    return fact and fact.version
