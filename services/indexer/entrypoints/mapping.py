"""Between the contract's messages and domain values; protobuf goes no further than here.

Items of a batch are validated one by one: what breaks a rule becomes a rejection of that
item.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from protovalidate import Validator
from scristill.indexer.v1 import fact_pb2, indexer_service_pb2, search_service_pb2

from services.indexer.application.inspect_index import Digests, IndexStats
from services.indexer.domain.consistency import read_token
from services.indexer.domain.digest import BucketDigest
from services.indexer.domain.epochs import Epoch, EpochState
from services.indexer.domain.errors import TextEmpty, TooLarge
from services.indexer.domain.fact import Evidence, FactContent, FactId, Intent, Operation, StoredPoint
from services.indexer.domain.outcome import Ack, Outcome
from services.indexer.domain.search import Hit, Query, SearchFilter, SearchMode
from services.shared.errors import ServiceError
from services.shared.grpc.errors import to_item_failure
from services.shared.grpc.floats import fill_floats, read_floats
from services.shared.grpc.interceptors.validation import invalid_request
from services.shared.paging import page_size

_OPERATIONS = {
    fact_pb2.INTENT_OPERATION_UPSERT: Operation.UPSERT,
    fact_pb2.INTENT_OPERATION_DELETE: Operation.DELETE,
}
_OUTCOMES = {
    Outcome.APPLIED: fact_pb2.INTENT_OUTCOME_APPLIED,
    Outcome.SUPERSEDED: fact_pb2.INTENT_OUTCOME_SUPERSEDED,
    Outcome.REJECTED: fact_pb2.INTENT_OUTCOME_REJECTED,
    Outcome.RETRY: fact_pb2.INTENT_OUTCOME_RETRY,
}
_STATES = {
    EpochState.BUILDING: fact_pb2.EPOCH_STATE_BUILDING,
    EpochState.SERVING: fact_pb2.EPOCH_STATE_SERVING,
    EpochState.RETIRING: fact_pb2.EPOCH_STATE_RETIRING,
    EpochState.DROPPED: fact_pb2.EPOCH_STATE_DROPPED,
}
_MODES = {
    search_service_pb2.SEARCH_MODE_UNSPECIFIED: SearchMode.HYBRID,
    search_service_pb2.SEARCH_MODE_HYBRID: SearchMode.HYBRID,
    search_service_pb2.SEARCH_MODE_DENSE: SearchMode.DENSE,
    search_service_pb2.SEARCH_MODE_SPARSE: SearchMode.SPARSE,
}

_DEFAULT_HITS = 10
_MAX_HITS = 100


class IntentReader:
    """Turns messages into intents, or says why one cannot be."""

    def __init__(self, *, max_content_bytes: int) -> None:
        self._validator = Validator()
        self._max_content_bytes = max_content_bytes

    def read(self, message: fact_pb2.FactIntent) -> Intent:
        """Raises a `ServiceError` for what is no intent. One whose content cannot be indexed comes with its refusal."""
        violations = self._validator.collect_violations(message)
        if violations:
            raise invalid_request(violations)
        operation = _OPERATIONS[message.operation]
        content = refusal = None
        if operation is Operation.UPSERT:
            refusal = self._refusal(message)
            content = content_from(message.content) if refusal is None else None
        return Intent(
            fact_id=FactId(message.fact_id.lower()),
            version=message.version,
            operation=operation,
            project_id=message.project_id.lower(),
            source_id=message.source_id.lower(),
            content_hash=message.content_hash,
            content=content,
            vectors={each.embedding_model: read_floats(each, each.values) for each in message.vectors},
            traceparent=message.traceparent,
            refusal=refusal,
        )

    def _refusal(self, message: fact_pb2.FactIntent) -> ServiceError | None:
        size = message.content.ByteSize()
        if size > self._max_content_bytes:
            return TooLarge(
                f"the content has {size} bytes, {self._max_content_bytes} are allowed",
                metadata={"limit_bytes": self._max_content_bytes, "size_bytes": size},
            )
        if not message.content.statement.strip():
            return TextEmpty.of_fact(message.fact_id)
        return None


def content_from(message: fact_pb2.FactContent) -> FactContent:
    return FactContent(
        statement=message.statement,
        evidence=_evidence_from(message.evidence) if message.HasField("evidence") else None,
        group=message.group,
        category=message.category,
        fields=dict(message.fields),
        entities=tuple(message.entities),
        confidence=message.confidence,
        source_title=message.source_title,
        source_uri=message.source_uri,
        source_group=message.source_group,
        source_version=message.source_version,
        extract_time=_moment(message.extract_time) if message.HasField("extract_time") else None,
    )


def _evidence_from(message: fact_pb2.Evidence) -> Evidence:
    return Evidence(
        quote=message.quote,
        start=message.start,
        end=message.end,
        context_before=message.context_before,
        context_after=message.context_after,
    )


def content_to(content: FactContent) -> fact_pb2.FactContent:
    message = fact_pb2.FactContent(
        statement=content.statement,
        group=content.group,
        category=content.category,
        fields=content.fields,
        entities=content.entities,
        confidence=content.confidence,
        source_title=content.source_title,
        source_uri=content.source_uri,
        source_group=content.source_group,
        source_version=content.source_version,
    )
    if content.evidence is not None:
        message.evidence.quote = content.evidence.quote
        message.evidence.start = content.evidence.start
        message.evidence.end = content.evidence.end
        message.evidence.context_before = content.evidence.context_before
        message.evidence.context_after = content.evidence.context_after
    if content.extract_time is not None:
        message.extract_time.FromDatetime(content.extract_time)
    return message


def rejection_to(message: fact_pb2.FactIntent, error: ServiceError) -> fact_pb2.IntentAck:
    """The acknowledgement of an intent that is no valid one."""
    return fact_pb2.IntentAck(
        fact_id=message.fact_id,
        version=message.version,
        outcome=fact_pb2.INTENT_OUTCOME_REJECTED,
        failure=to_item_failure(error),
    )


def ack_to(ack: Ack, *, return_vectors: bool) -> fact_pb2.IntentAck:
    message = fact_pb2.IntentAck(
        fact_id=ack.intent.fact_id,
        version=ack.intent.version,
        outcome=_OUTCOMES[ack.outcome],
        embedding_id=ack.embedding_id,
        embedding_epoch=ack.embedding_epoch,
        epochs=ack.epochs,
    )
    if ack.failure is not None:
        message.failure.CopyFrom(to_item_failure(ack.failure))
    if return_vectors:
        for model, vector in ack.vectors.items():
            fill_floats(message.vectors.add(embedding_model=model), fact_pb2.KnownVector.VALUES_FIELD_NUMBER, vector)
    return message


def epoch_to(epoch: Epoch, *, point_count: int = 0) -> fact_pb2.Epoch:
    message = fact_pb2.Epoch(
        epoch=epoch.number,
        state=_STATES[epoch.state],
        embedding_model=epoch.model,
        dimension=epoch.dimension,
        collection=epoch.collection,
        point_count=point_count,
    )
    message.create_time.FromDatetime(epoch.created)
    return message


def digest_to(row: BucketDigest) -> fact_pb2.BucketDigest:
    return fact_pb2.BucketDigest(bucket=row.bucket, digest=row.digest, point_count=row.point_count)


def scan_done_to(digests: Digests) -> indexer_service_pb2.DigestScanDone:
    return indexer_service_pb2.DigestScanDone(
        epoch=digests.epoch, point_count=digests.table.point_count, tombstone_count=digests.tombstone_count
    )


def point_to(point: StoredPoint) -> fact_pb2.IndexedPoint:
    return fact_pb2.IndexedPoint(
        embedding_id=point.embedding_id,
        fact_id=point.fact_id,
        version=point.version,
        content_hash=point.content_hash,
        epoch=point.epoch,
        project_id=point.project_id,
        source_id=point.source_id,
        tombstone=point.tombstone,
    )


def stats_to(stats: IndexStats, *, in_flight: int) -> indexer_service_pb2.GetIndexStatsResponse:
    return indexer_service_pb2.GetIndexStatsResponse(
        epochs=[epoch_to(each.epoch, point_count=each.point_count) for each in stats.epochs],
        live_point_count=stats.live_point_count,
        tombstone_count=stats.tombstone_count,
        in_flight_count=in_flight,
    )


def query_from(request: search_service_pb2.SearchRequest, *, offset: int) -> Query:
    return Query(
        project_id=request.project_id.lower(),
        text=request.query,
        mode=_MODES[request.mode],
        filter=_filter_from(request.filter),
        offset=offset,
        limit=page_size(request.page_size, default=_DEFAULT_HITS, maximum=_MAX_HITS),
        min_score=request.min_score,
        max_hits_per_source=request.max_hits_per_source,
        watermark=read_token(request.consistency_token) if request.consistency_token else None,
    )


def _filter_from(message: search_service_pb2.SearchFilter) -> SearchFilter:
    return SearchFilter(
        source_ids=_lower(message.source_ids),
        source_groups=tuple(message.source_groups),
        groups=tuple(message.groups),
        entities=tuple(message.entities),
        categories=tuple(message.categories),
        min_confidence=message.min_confidence,
        extract_start=_moment(message.extract_start_time) if message.HasField("extract_start_time") else None,
        extract_end=_moment(message.extract_end_time) if message.HasField("extract_end_time") else None,
    )


def search_arguments(request: search_service_pb2.SearchRequest) -> dict[str, object]:
    """What a page token is bound to: everything but the page itself."""
    return {
        "project_id": request.project_id,
        "query": request.query,
        "filter": request.filter.SerializeToString(deterministic=True).hex(),
        "mode": _MODES[request.mode],
        "min_score": request.min_score,
        "max_hits_per_source": request.max_hits_per_source,
    }


def hits_to(hits: Sequence[Hit]) -> list[search_service_pb2.SearchHit]:
    return [
        search_service_pb2.SearchHit(
            fact_id=hit.fact_id,
            source_id=hit.source_id,
            content=content_to(hit.content),
            score=hit.score,
            version=hit.version,
        )
        for hit in hits
    ]


def _moment(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)


def _lower(ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(each.lower() for each in ids)
