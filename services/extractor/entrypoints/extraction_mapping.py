"""Between protobuf and values: facts, entities, coverage."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf import duration_pb2
from scristill.extractor.v1 import extraction_pb2, extraction_service_pb2

from services.extractor.domain.coverage import Coverage, CoverageRange
from services.extractor.domain.extraction import (
    Entity,
    EntityPosition,
    Extraction,
    ExtractionFilter,
    ExtractionPosition,
)
from services.extractor.domain.grounding import GroundedValue
from services.extractor.entrypoints.mapping import reason, timestamp
from services.shared.errors import PageTokenInvalid
from services.shared.paging import decode_token, encode_token


def duration(span: timedelta) -> duration_pb2.Duration:
    message = duration_pb2.Duration()
    message.FromTimedelta(span)
    return message


def to_filter(message: extraction_service_pb2.ExtractionFilter) -> ExtractionFilter:
    return ExtractionFilter(
        source_ids=[UUID(source_id) for source_id in message.source_ids],
        groups=list(message.groups),
        categories=list(message.categories),
        min_confidence=message.min_confidence,
        unindexed_only=message.unindexed_only,
    )


def arguments_of(project_id: str, message: extraction_service_pb2.ExtractionFilter) -> dict[str, object]:
    """What a page token of facts belongs to."""
    return {"project": project_id, "filter": message.SerializeToString(deterministic=True).hex()}


def encode_position(position: ExtractionPosition, *, arguments: dict[str, object]) -> str:
    return encode_token(
        {"source": str(position.source_id), "start": position.start, "id": str(position.extraction_id)},
        arguments=arguments,
    )


def decode_position(token: str, *, arguments: dict[str, object]) -> ExtractionPosition | None:
    raw = decode_token(token, arguments=arguments)
    if raw is None:
        return None
    return ExtractionPosition(source_id=UUID(raw["source"]), start=raw["start"], extraction_id=UUID(raw["id"]))


def encode_entity_position(position: EntityPosition, *, arguments: dict[str, object]) -> str:
    return encode_token({"count": position.extraction_count, "id": str(position.entity_id)}, arguments=arguments)


def decode_entity_position(token: str, *, arguments: dict[str, object]) -> EntityPosition | None:
    raw = decode_token(token, arguments=arguments)
    return None if raw is None else EntityPosition(extraction_count=raw["count"], entity_id=UUID(raw["id"]))


def encode_moment(time: datetime, key: UUID, *, arguments: dict[str, object]) -> str:
    return encode_token({"time": time.astimezone(UTC), "id": str(key)}, arguments=arguments)


def decode_moment(token: str, *, arguments: dict[str, object]) -> tuple[datetime, UUID] | None:
    """For lists whose newest rows come first."""
    raw = decode_token(token, arguments=arguments)
    if raw is None:
        return None
    try:
        return datetime.fromisoformat(raw["time"]), UUID(raw["id"])
    except (KeyError, ValueError) as error:
        raise PageTokenInvalid("the page token is malformed") from error


def from_extraction(extraction: Extraction) -> extraction_pb2.Extraction:
    return extraction_pb2.Extraction(
        extraction_id=str(extraction.extraction_id),
        project_id=str(extraction.project_id),
        source_id=str(extraction.source_id),
        source_version=extraction.source_version,
        group=extraction.group,
        item_key=extraction.item_key,
        statement=extraction.statement,
        values=[_value(value, extraction) for value in extraction.values],
        quote=extraction_pb2.SourceQuote(
            text=extraction.quote,
            start=extraction.start,
            end=extraction.end,
            context_before=extraction.context_before,
            context_after=extraction.context_after,
        ),
        category=extraction.category,
        entities=extraction.entities,
        confidence=extraction.confidence,
        version=extraction.version,
        embedding_id=str(extraction.embedding_id) if extraction.embedding_id else "",
        model=extraction.model,
        chunk_index=extraction.chunk_index,
        extract_time=timestamp(extraction.extract_time),
    )


def _value(value: GroundedValue, extraction: Extraction) -> extraction_pb2.FieldValue:
    """A value stands within its fact's quote, which is where its own text is cut from."""
    message = extraction_pb2.FieldValue(name=value.name, value=value.value)
    if value.start is not None and value.end is not None:
        quote = extraction.quote[value.start - extraction.start : value.end - extraction.start]
        message.quote.CopyFrom(extraction_pb2.SourceQuote(text=quote, start=value.start, end=value.end))
    return message


def from_entity(entity: Entity) -> extraction_pb2.Entity:
    return extraction_pb2.Entity(
        entity_id=str(entity.entity_id),
        project_id=str(entity.project_id),
        type=entity.type,
        name=entity.name,
        extraction_count=entity.extraction_count,
        source_count=entity.source_count,
    )


def from_coverage(coverage: Coverage) -> extraction_service_pb2.GetCoverageResponse:
    return extraction_service_pb2.GetCoverageResponse(
        source_version=coverage.source_version,
        text_length=coverage.text_length,
        ranges=[_range(each) for each in coverage.ranges],
        covered_share=coverage.covered_share,
        extraction_duration=duration(coverage.duration) if coverage.duration is not None else None,
    )


def _range(each: CoverageRange) -> extraction_pb2.CoverageRange:
    return extraction_pb2.CoverageRange(
        start=each.start,
        end=each.end,
        state=extraction_pb2.CoverageState.ValueType(each.state),
        chunk_index=each.chunk_index,
        extraction_count=each.extraction_count,
        reason=reason(each.reason),
        message=each.message,
    )
