"""How facts and their values stand in rows, for every statement that reads them."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import RowMapping

from services.extractor.domain.grounding import GroundedValue


def _values(stored: Iterable[dict[str, Any]]) -> tuple[GroundedValue, ...]:
    return tuple(GroundedValue(**raw) for raw in stored)


def said(row: RowMapping) -> dict[str, Any]:
    """What a fact says, where, and how surely, by the names that its values have everywhere."""
    return {
        "statement": row["statement"],
        "group": row["group_name"],
        "category": row["category"],
        "values": _values(row["field_values"]),
        "quote": row["quote"],
        "start": row["start_offset"],
        "end": row["end_offset"],
        "context_before": row["context_before"],
        "context_after": row["context_after"],
        "entities": tuple(row["entities"]),
        "confidence": row["confidence"],
        "extract_time": row["extract_time"],
    }
