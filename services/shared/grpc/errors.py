"""Maps errors to and from the wire: `google.rpc.Status`, batch item failures, remote errors.

Every status carries one `ErrorInfo`; `BadRequest`, `PreconditionFailure`,
`QuotaFailure` and `RetryInfo` where the error has them. The whole status travels in
one metadata entry, and HTTP/2 peers refuse headers of more than 8 KiB, so violation
lists and texts are cut before that.
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from scristill.errors.v1 import error_reason_pb2, item_failure_pb2

from services.shared.errors import Code, FieldViolation, Reason, RemoteError, ServiceError, Unavailable

DOMAIN = "scristill.dev"
DETAILS_KEY = "grpc-status-details-bin"

# A third more as base64, beside the message itself, of which percent-encoding may triple what is not ASCII.
_MAX_STATUS_BYTES = 4500
_MAX_MESSAGE = 1000
_MAX_TEXT = 200
_MAX_VIOLATIONS = 16
_MAX_METADATA_ENTRIES = 16
_MAX_METADATA_TEXT = 2000
_MAX_VALUE = 1000
_MAX_VALUE_OF_MANY = 100

_REASONS = frozenset(Reason)
_STATUS_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def status_code(code: Code) -> grpc.StatusCode:
    return _STATUS_CODES[code]


def to_status(error: ServiceError) -> status_pb2.Status:
    """The status of a failed call, details included."""
    status = status_pb2.Status(
        code=error.code, message=_cut(error.message, _MAX_MESSAGE if error.message.isascii() else _MAX_TEXT)
    )
    status.details.add().Pack(_error_info(error))
    if error.retry_delay is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=_duration(error.retry_delay)))
    for detail, violations in _violation_lists(error):
        while violations and status.ByteSize() + detail.ByteSize() > _MAX_STATUS_BYTES:
            violations.pop()
        if violations:
            status.details.add().Pack(detail)
    return status


def _error_info(error: ServiceError) -> error_details_pb2.ErrorInfo:
    entries = list(error.metadata.items())[:_MAX_METADATA_ENTRIES]
    longest = _MAX_VALUE if sum(len(value) for _, value in entries) <= _MAX_METADATA_TEXT else _MAX_VALUE_OF_MANY
    return error_details_pb2.ErrorInfo(
        reason=error.reason.name, domain=DOMAIN, metadata={key: _cut(value, longest) for key, value in entries}
    )


def _violation_lists(error: ServiceError) -> Iterator[tuple[Message, Any]]:
    """Each detail that is a list, with the list, so that it can be shortened."""
    bad_request = error_details_pb2.BadRequest()
    for violation in error.field_violations[:_MAX_VIOLATIONS]:
        bad_request.field_violations.add(
            field=_cut(violation.field, _MAX_TEXT), description=_cut(violation.description, _MAX_TEXT)
        )
    precondition = error_details_pb2.PreconditionFailure()
    for item in error.preconditions[:_MAX_VIOLATIONS]:
        precondition.violations.add(
            type=item.type, subject=_cut(item.subject, _MAX_TEXT), description=_cut(item.description, _MAX_TEXT)
        )
    quota = error_details_pb2.QuotaFailure()
    for item in error.quotas[:_MAX_VIOLATIONS]:
        quota.violations.add(subject=_cut(item.subject, _MAX_TEXT), description=_cut(item.description, _MAX_TEXT))
    yield bad_request, bad_request.field_violations
    yield precondition, precondition.violations
    yield quota, quota.violations


def to_item_failure(error: ServiceError) -> item_failure_pb2.ItemFailure:
    """The form of the same error for one item of a batch."""
    return item_failure_pb2.ItemFailure(
        code=error.code,
        reason=error_reason_pb2.ErrorReason.ValueType(error.reason),
        message=error.message,
        metadata=error.metadata,
        retry_delay=_duration(error.retry_delay) if error.retry_delay is not None else None,
    )


def from_item_failure(failure: item_failure_pb2.ItemFailure, *, peer: str) -> RemoteError:
    return RemoteError(
        peer=peer,
        code=_code(failure.code),
        message=failure.message,
        reason=Reason(failure.reason) if failure.reason in _REASONS else Reason.UNSPECIFIED,
        metadata=dict(failure.metadata),
        retry_delay=failure.retry_delay.ToTimedelta() if failure.HasField("retry_delay") else None,
    )


def from_rpc_error(error: grpc.RpcError, *, peer: str) -> RemoteError:
    """What a peer answered, with its details read. `peer` names it in logs: `scheduler`, `indexer` …

    CANCELLED without details is an outage: a server that stops drops the calls that wait for it, or that outlast its
    grace, and gRPC words it so. A cancellation of our own is no answer but a `CancelledError`.
    """
    remote = RemoteError(peer=peer, code=_code(error.code().value[0]), message=error.details() or "")
    status = _status_of(error)
    if status is None and remote.code is Code.CANCELLED:
        remote.code = Code.UNAVAILABLE
    for detail in status.details if status else ():
        _read_detail(detail.type_url.rpartition(".")[2], detail.value, remote)
    return remote


@contextmanager
def remote_errors(peer: str) -> Generator[None]:
    """Turns a failed call inside the block into a `RemoteError`; cancellation passes."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error, peer=peer) from error


def peer_outage(error: BaseException) -> ServiceError | None:
    """A peer that is away makes our own call UNAVAILABLE; any other answer to our request is our fault (None)."""
    if isinstance(error, grpc.RpcError):
        error = from_rpc_error(error, peer="a peer")
    if isinstance(error, RemoteError) and error.code in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED):
        return Unavailable.of(error.peer, retry_delay=error.retry_delay)
    return None


def _status_of(error: grpc.RpcError) -> status_pb2.Status | None:
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    details = next((value for key, value in metadata if key == DETAILS_KEY), None)
    return status_pb2.Status.FromString(details) if isinstance(details, bytes) else None


def _read_detail(kind: str, value: bytes, remote: RemoteError) -> None:
    if kind == "ErrorInfo":
        info = error_details_pb2.ErrorInfo.FromString(value)
        remote.reason = _reason(info.reason)
        remote.metadata = dict(info.metadata)
    elif kind == "RetryInfo":
        remote.retry_delay = error_details_pb2.RetryInfo.FromString(value).retry_delay.ToTimedelta()
    elif kind == "BadRequest":
        violations = error_details_pb2.BadRequest.FromString(value).field_violations
        remote.field_violations = tuple(FieldViolation(field=v.field, description=v.description) for v in violations)


def _reason(name: str) -> Reason:
    return Reason.__members__.get(name, Reason.UNSPECIFIED)


def _code(number: int) -> Code:
    return Code(number) if number in _STATUS_CODES else Code.UNKNOWN


def _duration(delay: timedelta) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(delay)
    return duration


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
