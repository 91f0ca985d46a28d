"""What can go wrong in the indexer, as clients see it.

InvalidRequest
├── TextEmpty           INVALID_ARGUMENT     TEXT_EMPTY
├── TooLarge (shared)   INVALID_ARGUMENT     TOO_LARGE
└── VectorInvalid       INVALID_ARGUMENT     VECTOR_INVALID
NotFound
└── ModelNotFound       NOT_FOUND            MODEL_NOT_FOUND
AlreadyExists
└── VersionCollision    ALREADY_EXISTS       RESOURCE_EXISTS
PreconditionFailed
├── EpochGateOpen       FAILED_PRECONDITION  EPOCH_GATE_OPEN
├── EpochNotWritable    FAILED_PRECONDITION  EPOCH_NOT_WRITABLE
└── TextRefused         FAILED_PRECONDITION  PROVIDER_REFUSED
Unavailable
├── CollectionMissing   UNAVAILABLE          DEPENDENCY_UNAVAILABLE
└── NoServingEpoch      UNAVAILABLE          DEPENDENCY_UNAVAILABLE
"""

from typing import Self

from services.shared.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    Precondition,
    PreconditionFailed,
    Reason,
    TooLarge,
    Unavailable,
)

__all__ = [
    "CollectionMissing",
    "EpochGateOpen",
    "EpochNotWritable",
    "ModelNotFound",
    "NoServingEpoch",
    "TextEmpty",
    "TextRefused",
    "TooLarge",
    "VectorInvalid",
    "VersionCollision",
]


class TextEmpty(InvalidRequest):
    reason = Reason.TEXT_EMPTY

    @classmethod
    def of_fact(cls, fact_id: str) -> Self:
        return cls("the statement of the fact is empty", metadata={"fact_id": fact_id})


class VectorInvalid(InvalidRequest):
    reason = Reason.VECTOR_INVALID

    @classmethod
    def of_dimension(cls, *, expected: int, actual: int) -> Self:
        return cls(
            f"the vector has {actual} values, the epoch needs {expected}",
            metadata={"expected_dimension": expected, "dimension": actual},
        )

    @classmethod
    def of_value(cls, *, dimension: int) -> Self:
        return cls("the vector holds a value that is not finite", metadata={"dimension": dimension})


class TextRefused(PreconditionFailed):
    """The embedding model will not take this text, now or later."""

    reason = Reason.PROVIDER_REFUSED

    @classmethod
    def of_reason(cls, reason: str) -> Self:
        return cls("the embedding model refuses the text", metadata={"provider_reason": reason})


class ModelNotFound(NotFound):
    reason = Reason.MODEL_NOT_FOUND

    @classmethod
    def of_model(cls, model: str) -> Self:
        return cls(f"the gateway does not know the model {model}", metadata={"model": model})


class VersionCollision(AlreadyExists):
    """Two different contents claim one version of a fact: versions were issued twice, for example after a restore."""

    @classmethod
    def of_fact(cls, fact_id: str, version: int) -> Self:
        return cls(
            f"the index holds version {version} of fact {fact_id} with another content",
            metadata={"resource": "fact", "id": fact_id, "version": version},
        )


class EpochGateOpen(PreconditionFailed):
    reason = Reason.EPOCH_GATE_OPEN

    @classmethod
    def of(cls, epoch: int, gate: str, description: str, **details: object) -> Self:
        """`gate` names what is not complete: `building`, `serving`, `settled`, `backfill` or `digest`."""
        return cls(
            f"epoch {epoch}: {description}",
            metadata={"epoch": epoch, "gate": gate, **details},
            preconditions=[Precondition(type="EPOCH_GATE", subject=f"epoch:{epoch}", description=description)],
        )


class EpochNotWritable(PreconditionFailed):
    reason = Reason.EPOCH_NOT_WRITABLE

    @classmethod
    def of(cls, epoch: int, state: str) -> Self:
        return cls(
            f"epoch {epoch} takes no writes",
            metadata={"epoch": epoch, "state": state},
            preconditions=[Precondition(type="EPOCH_STATE", subject=f"epoch:{epoch}", description=f"state is {state}")],
        )


class CollectionMissing(Unavailable):
    """Qdrant does not have a collection that the catalogue names: it was wiped, or the epoch dropped elsewhere."""

    @classmethod
    def of_collection(cls, collection: str) -> Self:
        return cls(
            f"collection {collection} does not exist in qdrant",
            metadata={"dependency": "qdrant", "collection": collection},
        )


class NoServingEpoch(Unavailable):
    """The first epoch is not created yet, because Qdrant or the model gateway has not answered so far."""

    def __init__(self) -> None:
        super().__init__("the index has no epoch yet", metadata={"dependency": "qdrant"})
