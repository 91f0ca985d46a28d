"""Ids and buckets derived from a fact id."""

from services.indexer.domain.fact import FactId
from services.shared import ids

BUCKET_COUNT = 4096

_EMBEDDING = ids.namespace("embedding")


def embedding_id(epoch: int, fact_id: FactId) -> str:
    """Id of the point that holds a fact in an epoch: UUIDv5 of (epoch, fact id)."""
    return str(ids.derived(_EMBEDDING, epoch, fact_id))


def bucket_of(fact_id: FactId) -> int:
    """The first 12 bits of the fact id."""
    return int(fact_id[:3], 16)
