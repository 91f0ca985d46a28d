"""The exceptions that every service raises, free of gRPC so that domains can subclass them.

An error carries what a client may see: a canonical status code, a reason of the
contract, one English sentence and metadata. `services.shared.grpc.errors` maps it
to the wire; nothing else of an exception leaves the process.

    ServiceError
    ├── InvalidRequest          INVALID_ARGUMENT     INVALID_REQUEST
    │   ├── PageTokenInvalid                         PAGE_TOKEN_INVALID
    │   ├── RequestIdReused                          REQUEST_ID_REUSED
    │   └── TooLarge                                 TOO_LARGE
    ├── NotFound                NOT_FOUND            RESOURCE_NOT_FOUND
    ├── AlreadyExists           ALREADY_EXISTS       RESOURCE_EXISTS
    ├── PreconditionFailed      FAILED_PRECONDITION  (named by the subclass)
    ├── Aborted                 ABORTED              ETAG_MISMATCH
    ├── OutOfRange              OUT_OF_RANGE         RESUME_TOKEN_EXPIRED
    ├── ResourceExhausted       RESOURCE_EXHAUSTED   CAPACITY_EXHAUSTED
    ├── Unavailable             UNAVAILABLE          DEPENDENCY_UNAVAILABLE
    │   ├── OutcomeUnknown                           OUTCOME_UNKNOWN
    │   └── ServerDraining                           SERVER_DRAINING
    ├── DeadlineUnreachable     DEADLINE_EXCEEDED    DEADLINE_UNREACHABLE
    ├── Cancelled               CANCELLED            CANCELLED_BY_CALLER
    ├── Unimplemented           UNIMPLEMENTED        NOT_IMPLEMENTED
    └── InternalFault           INTERNAL             INTERNAL_FAULT

    RemoteError                 what a peer answered; never forwarded as it is
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import ClassVar, Self


class Code(IntEnum):
    """Canonical status codes, numbered as in `google.rpc.Code`."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class Reason(IntEnum):
    """`scristill.errors.v1.ErrorReason` without its prefix; a test holds the two equal."""

    UNSPECIFIED = 0
    INVALID_REQUEST = 1
    PAGE_TOKEN_INVALID = 2
    REQUEST_ID_REUSED = 3
    RESOURCE_NOT_FOUND = 4
    RESOURCE_EXISTS = 5
    ETAG_MISMATCH = 6
    NOT_IMPLEMENTED = 7
    INTERNAL_FAULT = 8
    DEPENDENCY_UNAVAILABLE = 9
    SERVER_DRAINING = 10
    CAPACITY_EXHAUSTED = 11
    DEADLINE_UNREACHABLE = 12
    LEASE_LOST = 13
    JOB_STATE_CONFLICT = 14
    RESUME_TOKEN_EXPIRED = 15
    SCHEMA_INVALID = 16
    SOURCE_UNREADABLE = 17
    SOURCE_EMPTY = 18
    TOO_LARGE = 19
    MODEL_NOT_FOUND = 20
    PROVIDER_REFUSED = 21
    PROVIDER_UNAVAILABLE = 22
    OUTPUT_INVALID = 23
    VECTOR_INVALID = 24
    TEXT_EMPTY = 25
    EPOCH_NOT_WRITABLE = 26
    EPOCH_GATE_OPEN = 27
    OUTCOME_UNKNOWN = 28
    CANCELLED_BY_CALLER = 29
    STALLED_TOO_OFTEN = 30
    ATTEMPTS_EXHAUSTED = 31
    NOT_GROUNDED = 32
    SCOPE_DELETED = 33


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One rule of the contract that a request breaks. `field` is a path, for example `jobs[3].type`."""

    field: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Precondition:
    """What must hold first. `type` is a constant such as `JOB_STATE`, `subject` names the resource."""

    type: str
    subject: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaViolation:
    """Which limit is reached. `subject` says whose: `server`, `project:<id>`, `worker:<id>` or `provider:<name>`."""

    subject: str
    description: str


class ServiceError(Exception):
    """Base of all errors that a client may see.

    `message` is one sentence for a person and holds no exception text; every
    dynamic part of it also stands in `metadata`, whose values are stringified.
    """

    code: ClassVar[Code]
    reason: ClassVar[Reason]
    default_retry_delay: ClassVar[timedelta | None] = None

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, object] | None = None,
        retry_delay: timedelta | None = None,
        field_violations: Sequence[FieldViolation] = (),
        preconditions: Sequence[Precondition] = (),
        quotas: Sequence[QuotaViolation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: dict[str, str] = {key: str(value) for key, value in (metadata or {}).items()}
        self.retry_delay = retry_delay if retry_delay is not None else self.default_retry_delay
        self.field_violations = tuple(field_violations)
        self.preconditions = tuple(preconditions)
        self.quotas = tuple(quotas)


class InvalidRequest(ServiceError):
    code = Code.INVALID_ARGUMENT
    reason = Reason.INVALID_REQUEST

    @classmethod
    def of(cls, field: str, description: str) -> Self:
        """The usual case: one field breaks one rule."""
        return cls(
            f"{field}: {description}",
            metadata={"violation_count": 1},
            field_violations=[FieldViolation(field=field, description=description)],
        )


class PageTokenInvalid(InvalidRequest):
    reason = Reason.PAGE_TOKEN_INVALID


class RequestIdReused(InvalidRequest):
    reason = Reason.REQUEST_ID_REUSED


class TooLarge(InvalidRequest):
    reason = Reason.TOO_LARGE


class NotFound(ServiceError):
    code = Code.NOT_FOUND
    reason = Reason.RESOURCE_NOT_FOUND

    @classmethod
    def of(cls, resource: str, resource_id: object) -> Self:
        return cls(f"{resource} {resource_id} does not exist", metadata={"resource": resource, "id": resource_id})


class AlreadyExists(ServiceError):
    code = Code.ALREADY_EXISTS
    reason = Reason.RESOURCE_EXISTS

    @classmethod
    def of(cls, resource: str, resource_id: object) -> Self:
        return cls(
            f"{resource} {resource_id} exists already and differs", metadata={"resource": resource, "id": resource_id}
        )


class PreconditionFailed(ServiceError):
    """Abstract: each subclass names its reason."""

    code = Code.FAILED_PRECONDITION


class Aborted(ServiceError):
    code = Code.ABORTED
    reason = Reason.ETAG_MISMATCH


class OutOfRange(ServiceError):
    code = Code.OUT_OF_RANGE
    reason = Reason.RESUME_TOKEN_EXPIRED


class ResourceExhausted(ServiceError):
    code = Code.RESOURCE_EXHAUSTED
    reason = Reason.CAPACITY_EXHAUSTED
    default_retry_delay = timedelta(seconds=1)

    @classmethod
    def of(cls, scope: str, limit: object, description: str, *, retry_delay: timedelta | None = None) -> Self:
        """`scope` says whose limit it is: `server`, `project`, `worker` or `provider`."""
        return cls(
            description,
            metadata={"scope": scope, "limit": limit},
            retry_delay=retry_delay,
            quotas=[QuotaViolation(subject=scope, description=description)],
        )


class Unavailable(ServiceError):
    code = Code.UNAVAILABLE
    reason = Reason.DEPENDENCY_UNAVAILABLE
    default_retry_delay = timedelta(seconds=1)

    @classmethod
    def of(cls, dependency: str, *, retry_delay: timedelta | None = None) -> Self:
        return cls(f"{dependency} cannot be reached", metadata={"dependency": dependency}, retry_delay=retry_delay)


class OutcomeUnknown(Unavailable):
    reason = Reason.OUTCOME_UNKNOWN

    @classmethod
    def of(cls, dependency: str, *, retry_delay: timedelta | None = None) -> Self:
        return cls(
            f"the outcome of a write to {dependency} is not known",
            metadata={"dependency": dependency},
            retry_delay=retry_delay,
        )


class ServerDraining(Unavailable):
    reason = Reason.SERVER_DRAINING

    def __init__(self, message: str = "the server is shutting down") -> None:
        super().__init__(message)


class DeadlineUnreachable(ServiceError):
    code = Code.DEADLINE_EXCEEDED
    reason = Reason.DEADLINE_UNREACHABLE


class Cancelled(ServiceError):
    code = Code.CANCELLED
    reason = Reason.CANCELLED_BY_CALLER


class Unimplemented(ServiceError):
    code = Code.UNIMPLEMENTED
    reason = Reason.NOT_IMPLEMENTED

    @classmethod
    def of(cls, rpc: str) -> Self:
        """`rpc` is the full method name, for example `/scristill.extractor.v1.SourceService/CrawlSite`."""
        return cls(f"{rpc} is not implemented by this server", metadata={"rpc": rpc})


class InternalFault(ServiceError):
    code = Code.INTERNAL
    reason = Reason.INTERNAL_FAULT

    @classmethod
    def of(cls, incident_id: str) -> Self:
        """The incident id stands in the server's log beside the traceback."""
        return cls("internal error, see the server's log", metadata={"incident_id": incident_id})


@dataclass(kw_only=True, eq=False)
class RemoteError(Exception):
    """A failed call to another service, as its answer reads.

    `reason` is UNSPECIFIED when the peer gave none or one that this version does
    not know. `retry_delay` is the peer's `RetryInfo`.
    """

    peer: str
    code: Code
    message: str
    reason: Reason = Reason.UNSPECIFIED
    metadata: dict[str, str] = field(default_factory=dict[str, str])
    field_violations: tuple[FieldViolation, ...] = ()
    retry_delay: timedelta | None = None

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed later without a change by the caller."""
        return self.code is Code.UNAVAILABLE or self.retry_delay is not None

    def __str__(self) -> str:
        return f"{self.peer}: {self.code.name} {self.reason.name}: {self.message}"
