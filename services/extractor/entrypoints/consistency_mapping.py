"""Between protobuf and values: counts, dead letters, reconciliations."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from scristill.extractor.v1 import consistency_service_pb2

from services.extractor.domain.extraction import Consistency
from services.extractor.domain.outbox import DeadLetter
from services.extractor.domain.reconciliation import DIGEST_BYTES, RecordedDrift, Run
from services.extractor.entrypoints.extraction_mapping import duration
from services.extractor.entrypoints.mapping import reason, timestamp


def from_consistency(
    counts: Consistency, *, token: str, now: datetime
) -> consistency_service_pb2.GetConsistencyResponse:
    oldest = counts.oldest_intent_time
    return consistency_service_pb2.GetConsistencyResponse(
        fact_count=counts.fact_count,
        indexed_count=counts.indexed_count,
        pending_intent_count=counts.pending_intent_count,
        oldest_intent_age=duration(max(now - oldest, timedelta())) if oldest else None,
        dead_letter_count=counts.dead_letter_count,
        open_source_count=counts.open_source_count,
        consistency_token=token,
    )


def from_dead_letter(letter: DeadLetter) -> consistency_service_pb2.DeadLetter:
    return consistency_service_pb2.DeadLetter(
        fact_id=str(letter.key),
        version=letter.version,
        project_id=str(letter.project_id),
        source_id=str(letter.source_id),
        reason=reason(letter.reason),
        message=letter.message,
        attempts=letter.attempts,
        context=letter.context,
        fail_time=timestamp(letter.fail_time),
    )


def from_drifts(drifts: Sequence[RecordedDrift]) -> consistency_service_pb2.DriftBatch:
    return consistency_service_pb2.DriftBatch(
        drifts=[
            consistency_service_pb2.Drift(
                fact_id=str(drift.fact_id),
                kind=consistency_service_pb2.DriftKind.ValueType(drift.kind),
                stored_version=drift.stored_version,
                indexed_version=drift.indexed_version,
                repaired=drift.repaired,
            )
            for drift in drifts
        ]
    )


def from_progress(run: Run) -> consistency_service_pb2.ReconcileProgress:
    return consistency_service_pb2.ReconcileProgress(
        compared_bucket_count=run.next_bucket,
        differing_bucket_count=run.differing,
        point_count=run.points.count,
    )


def from_run(run: Run) -> consistency_service_pb2.ConsistencyCertificate:
    """`end_time` is set for a run that has ended, which is the only kind that is a certificate."""
    end = run.end_time or run.start_time
    return consistency_service_pb2.ConsistencyCertificate(
        run_id=str(run.run_id),
        epoch=run.epoch,
        watermark=run.watermark,
        fact_count=run.facts.count,
        point_count=run.points.count,
        fact_digest=run.facts.digest.to_bytes(DIGEST_BYTES),
        point_digest=run.points.digest.to_bytes(DIGEST_BYTES),
        drift_counts=run.drift_counts,
        repaired_count=run.repaired,
        end_time=timestamp(end),
        duration=duration(end - run.start_time),
    )
