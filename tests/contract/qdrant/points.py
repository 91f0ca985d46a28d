"""Points for the contract tests."""

from typing import Any

from qdrant_client import models


def point(
    point_id: int | str,
    *,
    dense: list[float] | None = None,
    sparse: dict[int, float] | None = None,
    **payload: Any,
) -> models.PointStruct:
    weights = sparse or {1: 1.0}
    return models.PointStruct(
        id=point_id,
        vector={
            "dense": dense or [1.0, 0.0, 0.0, 0.0],
            "bm25": models.SparseVector(indices=list(weights), values=list(weights.values())),
        },
        payload=payload,
    )


def field(key: str, match: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, match=match)


def equals(key: str, value: str | int) -> models.FieldCondition:
    return field(key, models.MatchValue(value=value))


def older_than(version: int) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key="version", range=models.Range(lt=version))])
