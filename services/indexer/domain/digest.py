"""Bucket digests: the order-free fingerprint by which Qdrant and PostgreSQL are compared.

The digest of a bucket is the XOR over its live points of
SHA-256(fact id as 16 bytes, version as 8 bytes big endian, content hash, epoch as 8 bytes big endian,
project id as 16 bytes), cut to 16 bytes. Tombstones do not count.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from typing import NamedTuple
from uuid import UUID

from services.indexer.domain.fact import FactId
from services.indexer.domain.identity import BUCKET_COUNT

DIGEST_BYTES = 16

_INT64 = Struct(">q").pack


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketDigest:
    bucket: int
    digest: bytes
    point_count: int


class Share(NamedTuple):
    """What one live point adds to its bucket; a tuple, because a scan makes one of every point there is."""

    bucket: int
    digest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Of one page of a scan: the shares of its live points, and how many others there were."""

    live: Sequence[Share]
    tombstone_count: int


def point_digest(*, fact_id: FactId, version: int, content_hash: bytes, epoch: int, project_id: str) -> int:
    """The share of one point, as a big-endian integer. A project that is no UUID counts as nothing."""
    identity = bytes.fromhex(fact_id.replace("-", ""))
    content = identity + _INT64(version) + content_hash + _INT64(epoch) + _project(project_id)
    return int.from_bytes(sha256(content).digest()[:DIGEST_BYTES])


@lru_cache(maxsize=4096)
def _project(project_id: str) -> bytes:
    try:
        return UUID(project_id).bytes
    except ValueError:
        return b""


class DigestTable:
    """Accumulates the digests of all buckets in constant memory."""

    def __init__(self) -> None:
        self._digests = [0] * BUCKET_COUNT
        self._counts = [0] * BUCKET_COUNT

    def add(self, shares: Iterable[Share]) -> None:
        for bucket, digest in shares:
            self._digests[bucket] ^= digest
            self._counts[bucket] += 1

    @property
    def point_count(self) -> int:
        return sum(self._counts)

    def rows(self, first: int, last: int) -> Iterator[BucketDigest]:
        """The buckets from `first` to `last`, both included, in order; empty ones too."""
        for bucket in range(first, last + 1):
            yield BucketDigest(
                bucket=bucket,
                digest=self._digests[bucket].to_bytes(DIGEST_BYTES),
                point_count=self._counts[bucket],
            )

    def differing(self, other: "DigestTable") -> list[int]:
        """Buckets that are not the same in both tables."""
        last = BUCKET_COUNT - 1
        pairs = zip(self.rows(0, last), other.rows(0, last), strict=True)
        return [mine.bucket for mine, theirs in pairs if mine != theirs]
