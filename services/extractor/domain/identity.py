"""Ids that follow from what they stand for, so that doing the same thing twice finds the same rows."""

from uuid import UUID

from services.shared import ids

_SOURCE = ids.namespace("source")
_FACT = ids.namespace("fact")
_ENTITY = ids.namespace("entity")
_MARKER = ids.namespace("marker")
_MODEL_CALL = ids.namespace("model-call")


def source_id(project_id: UUID, uri: str) -> UUID:
    return ids.derived(_SOURCE, project_id, uri)


def fact_id(source: UUID, group: str, item_key: str) -> UUID:
    """The same fact keeps its id over all versions of its source."""
    return ids.derived(_FACT, source, group, item_key)


def entity_id(project_id: UUID, entity_type: str, name: str) -> UUID:
    """Names that differ only in case and spacing are one entity."""
    return ids.derived(_ENTITY, project_id, entity_type, " ".join(name.casefold().split()))


def marker_id(project_id: UUID) -> UUID:
    """Stands among the facts of a project for the version that the index has reached."""
    return ids.derived(_MARKER, project_id)


def model_call_id(incarnation: UUID, content_hash: bytes, question: str) -> UUID:
    """Names the one paid call for a chunk: whoever asks again gets the first answer, until the source is deleted."""
    return ids.derived(_MODEL_CALL, incarnation, content_hash.hex(), question)


def result_scope(source: UUID, incarnation: UUID) -> str:
    """Owns what the gateway keeps of a source. Never the same again once that was deleted."""
    return f"source/{source}/{incarnation}"
