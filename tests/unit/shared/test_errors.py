import pytest
from scristill.errors.v1 import error_reason_pb2

from services.shared import errors
from services.shared.errors import Code, InvalidRequest, NotFound, Reason, ServiceError, Unavailable
from services.shared.grpc.errors import from_item_failure, status_code, to_item_failure, to_status


def subclasses(kind: type[ServiceError]) -> list[type[ServiceError]]:
    return [each for child in kind.__subclasses__() for each in (child, *subclasses(child))]


SHARED = [kind for kind in subclasses(ServiceError) if kind.__module__ == errors.__name__]


def test_reasons_are_those_of_the_contract():
    contract = {name.removeprefix("ERROR_REASON_"): number for name, number in error_reason_pb2.ErrorReason.items()}

    assert contract == {reason.name: reason.value for reason in Reason}


def test_codes_are_those_of_grpc():
    assert {code.name: code.value for code in Code} == {status_code(code).name: code.value for code in Code}


@pytest.mark.parametrize("kind", [kind for kind in SHARED if kind is not errors.PreconditionFailed])
def test_every_shared_error_becomes_a_status(kind: type[ServiceError]):
    status = to_status(kind("text"))

    assert status.code == kind.code
    assert status.details[0].type_url.endswith("google.rpc.ErrorInfo")


@pytest.mark.parametrize("kind", SHARED)
def test_tree_in_the_docstring_is_complete(kind: type[ServiceError]):
    assert f" {kind.__name__} " in errors.__doc__


@pytest.mark.parametrize("kind", [errors.Unavailable, errors.ResourceExhausted, errors.OutcomeUnknown])
def test_what_may_be_retried_says_when(kind: type[ServiceError]):
    assert kind("text").retry_delay is not None


def test_item_failure_survives_the_wire():
    failure = to_item_failure(Unavailable.of("qdrant"))
    remote = from_item_failure(failure, peer="indexer")

    assert (remote.code, remote.reason) == (Code.UNAVAILABLE, Reason.DEPENDENCY_UNAVAILABLE)
    assert remote.metadata == {"dependency": "qdrant"}
    assert remote.retry_delay == Unavailable.default_retry_delay
    assert remote.transient


def test_item_failure_without_delay_is_final():
    failure = to_item_failure(NotFound.of("job", 1))

    assert not failure.HasField("retry_delay")
    assert not from_item_failure(failure, peer="scheduler").transient


def test_reason_of_a_newer_peer_is_read_as_unspecified():
    failure = to_item_failure(NotFound.of("job", 1))
    failure.reason = 9999
    failure.code = 99

    remote = from_item_failure(failure, peer="scheduler")

    assert (remote.code, remote.reason) == (Code.UNKNOWN, Reason.UNSPECIFIED)


def test_many_violations_are_cut_so_that_the_status_fits_into_headers():
    violations = [errors.FieldViolation(field="f" * 500, description="d" * 500) for _ in range(1000)]
    metadata = {f"k{index}": "v" * 500 for index in range(50)}
    error = InvalidRequest("m" * 5000, field_violations=violations, metadata=metadata)

    assert to_status(error).ByteSize() < 6000
