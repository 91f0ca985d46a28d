"""The payload of a point: its fields, and the way from and to domain values.

A tombstone keeps only what decides versions and counts. Names of fields are part of
the stored data; changing one needs a new epoch.
"""

# The stubs of qdrant_client import their siblings by names that do not resolve, so some message types are unknown.
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from qdrant_client import grpc as qdrant

from services.indexer.domain.digest import Share, point_digest
from services.indexer.domain.epochs import Epoch
from services.indexer.domain.fact import Evidence, FactContent, FactId, Intent, Operation, PointState, StoredPoint
from services.indexer.domain.identity import bucket_of

FACT_ID = "fact_id"
VERSION = "version"
CONTENT_HASH = "content_hash"
EPOCH = "epoch"
BUCKET = "bucket"
PROJECT_ID = "project_id"
SOURCE_ID = "source_id"
TOMBSTONE = "tombstone"
DELETED_AT = "deleted_at"
"""Seconds since 1970, on tombstones only."""
SOURCE_GROUP = "source_group"
GROUP = "group"
CATEGORY = "category"
ENTITIES = "entities"
CONFIDENCE = "confidence"
EXTRACTED_AT = "extracted_at"

STATE_FIELDS = (VERSION, CONTENT_HASH, TOMBSTONE)
DIGEST_FIELDS = (FACT_ID, VERSION, CONTENT_HASH, EPOCH, PROJECT_ID, TOMBSTONE)
LIST_FIELDS = (*DIGEST_FIELDS, SOURCE_ID)

Payload = Mapping[str, qdrant.Value]


def fill(payload: Mapping[str, qdrant.Value], *, intent: Intent, epoch: Epoch, now: datetime) -> None:
    """Writes an intent into the payload of a new point."""
    payload[FACT_ID].string_value = intent.fact_id
    payload[VERSION].integer_value = intent.version
    payload[CONTENT_HASH].string_value = intent.content_hash.hex()
    payload[EPOCH].integer_value = epoch.number
    payload[BUCKET].integer_value = bucket_of(intent.fact_id)
    payload[PROJECT_ID].string_value = intent.project_id
    payload[SOURCE_ID].string_value = intent.source_id
    payload[TOMBSTONE].bool_value = intent.content is None
    if intent.content is None:
        payload[DELETED_AT].integer_value = int(now.timestamp())
    else:
        _fill_content(payload, intent.content)


def _fill_content(payload: Mapping[str, qdrant.Value], content: FactContent) -> None:
    """What is empty is left out: each field costs time and room in every point."""
    texts = {
        "statement": content.statement,
        GROUP: content.group,
        CATEGORY: content.category,
        "source_title": content.source_title,
        "source_uri": content.source_uri,
        SOURCE_GROUP: content.source_group,
    }
    _fill_texts(payload, texts)
    payload[CONFIDENCE].double_value = content.confidence
    payload["source_version"].integer_value = content.source_version
    if content.entities:
        entities = payload[ENTITIES].list_value.values
        for name in content.entities:
            entities.add(string_value=name)
    if content.fields:
        fields = payload["fields"].struct_value.fields
        for name, value in content.fields.items():
            fields[name].string_value = value
    if content.extract_time is not None:
        payload[EXTRACTED_AT].string_value = content.extract_time.astimezone(UTC).isoformat()
    if content.evidence is not None:
        _fill_evidence(payload, content.evidence)


def _fill_evidence(payload: Mapping[str, qdrant.Value], evidence: Evidence) -> None:
    payload["start"].integer_value = evidence.start
    payload["end"].integer_value = evidence.end
    payload["quote"].string_value = evidence.quote
    _fill_texts(payload, {"context_before": evidence.context_before, "context_after": evidence.context_after})


def _fill_texts(payload: Mapping[str, qdrant.Value], texts: Mapping[str, str]) -> None:
    for name, value in texts.items():
        if value:
            payload[name].string_value = value


def state_of(payload: Payload) -> PointState:
    return PointState(
        version=payload[VERSION].integer_value,
        content_hash=bytes.fromhex(payload[CONTENT_HASH].string_value),
        tombstone=payload[TOMBSTONE].bool_value,
    )


def share_of(payload: Payload, as_epoch: int | None) -> Share | None:
    """What the point adds to the digest of its bucket; None for a tombstone."""
    if payload[TOMBSTONE].bool_value:
        return None
    fact_id = FactId(payload[FACT_ID].string_value)
    return Share(
        bucket_of(fact_id),
        point_digest(
            fact_id=fact_id,
            version=payload[VERSION].integer_value,
            content_hash=bytes.fromhex(payload[CONTENT_HASH].string_value),
            epoch=payload[EPOCH].integer_value if as_epoch is None else as_epoch,
            project_id=text(payload, PROJECT_ID),
        ),
    )


def stored_point(embedding_id: str, payload: Payload) -> StoredPoint:
    return StoredPoint(
        embedding_id=embedding_id,
        fact_id=FactId(payload[FACT_ID].string_value),
        version=payload[VERSION].integer_value,
        content_hash=bytes.fromhex(payload[CONTENT_HASH].string_value),
        epoch=payload[EPOCH].integer_value,
        project_id=text(payload, PROJECT_ID),
        source_id=text(payload, SOURCE_ID),
        tombstone=payload[TOMBSTONE].bool_value,
    )


def intent_of(payload: Payload) -> Intent:
    """The intent that `fill` wrote, without its vector."""
    deleted = payload[TOMBSTONE].bool_value
    return Intent(
        fact_id=FactId(payload[FACT_ID].string_value),
        version=payload[VERSION].integer_value,
        operation=Operation.DELETE if deleted else Operation.UPSERT,
        project_id=payload[PROJECT_ID].string_value,
        source_id=payload[SOURCE_ID].string_value,
        content_hash=bytes.fromhex(payload[CONTENT_HASH].string_value),
        content=None if deleted else content_of(payload),
    )


def content_of(payload: Payload) -> FactContent:
    extracted = text(payload, EXTRACTED_AT)
    return FactContent(
        statement=text(payload, "statement"),
        evidence=_evidence_of(payload) if "quote" in payload else None,
        group=text(payload, GROUP),
        category=text(payload, CATEGORY),
        fields={name: value.string_value for name, value in payload["fields"].struct_value.fields.items()}
        if "fields" in payload
        else {},
        entities=tuple(value.string_value for value in payload[ENTITIES].list_value.values)
        if ENTITIES in payload
        else (),
        confidence=payload[CONFIDENCE].double_value,
        source_title=text(payload, "source_title"),
        source_uri=text(payload, "source_uri"),
        source_group=text(payload, SOURCE_GROUP),
        source_version=integer(payload, "source_version"),
        extract_time=datetime.fromisoformat(extracted) if extracted else None,
    )


def _evidence_of(payload: Payload) -> Evidence:
    return Evidence(
        quote=text(payload, "quote"),
        start=integer(payload, "start"),
        end=integer(payload, "end"),
        context_before=text(payload, "context_before"),
        context_after=text(payload, "context_after"),
    )


def text(payload: Payload, name: str) -> str:
    return payload[name].string_value if name in payload else ""


def integer(payload: Payload, name: str) -> int:
    return payload[name].integer_value if name in payload else 0


def include(fields: Iterable[str]) -> qdrant.WithPayloadSelector:
    return qdrant.WithPayloadSelector(include=qdrant.PayloadIncludeSelector(fields=fields))
