"""What became of an intent, per epoch and over all epochs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from services.indexer.domain.errors import VersionCollision
from services.indexer.domain.fact import Intent, Operation, Vector
from services.indexer.domain.versions import Verdict
from services.shared.errors import OutcomeUnknown, ServiceError


class Outcome(StrEnum):
    APPLIED = "applied"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"
    RETRY = "retry"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """`failure` is set for REJECTED and RETRY; `epochs` are those in which the intent is durable.

    `embedding_id` names the point in the epoch that is searched, `embedding_epoch`, for applied upserts; `vectors` are
    those that were embedded for it, by model.
    """

    intent: Intent
    outcome: Outcome
    epochs: tuple[int, ...] = ()
    embedding_id: str = ""
    embedding_epoch: int = 0
    vectors: Mapping[str, Vector] = field(default_factory=dict[str, Vector])
    failure: ServiceError | None = None


def rejected(intent: Intent, failure: ServiceError) -> Ack:
    return Ack(intent=intent, outcome=Outcome.REJECTED, failure=failure)


def retry(intent: Intent, failure: ServiceError) -> Ack:
    return Ack(intent=intent, outcome=Outcome.RETRY, failure=failure)


def acknowledge(
    intent: Intent,
    verdicts: Mapping[int, Verdict],
    *,
    serving: int,
    embedding_id: str,
    vectors: Mapping[str, Vector],
) -> Ack:
    """Joins the verdicts by epoch: an intent is applied only when it is in every epoch that takes writes."""
    found = set(verdicts.values())
    epochs = tuple(epoch for epoch, verdict in verdicts.items() if verdict is Verdict.APPLIED)
    if not found or Verdict.NOT_WRITTEN in found:
        return Ack(intent=intent, outcome=Outcome.RETRY, epochs=epochs, failure=OutcomeUnknown.of("qdrant"))
    if Verdict.COLLISION in found:
        failure = VersionCollision.of_fact(intent.fact_id, intent.version)
        return Ack(intent=intent, outcome=Outcome.REJECTED, epochs=epochs, failure=failure)
    if Verdict.SUPERSEDED in found:
        return Ack(intent=intent, outcome=Outcome.SUPERSEDED, epochs=epochs)
    if intent.operation is Operation.DELETE:
        return Ack(intent=intent, outcome=Outcome.APPLIED, epochs=epochs)
    return Ack(
        intent=intent,
        outcome=Outcome.APPLIED,
        epochs=epochs,
        embedding_id=embedding_id,
        embedding_epoch=serving,
        vectors=vectors,
    )
