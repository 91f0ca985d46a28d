"""How the values of a fact stand in their column."""

from collections.abc import Iterable
from typing import Any

from services.extractor.domain.grounding import GroundedValue


def decode_values(stored: Iterable[dict[str, Any]]) -> tuple[GroundedValue, ...]:
    return tuple(GroundedValue(**raw) for raw in stored)
