"""What a client of any language sees of a failed call."""

import asyncio

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from services.shared.errors import (
    Code,
    FieldViolation,
    InvalidRequest,
    NotFound,
    Precondition,
    PreconditionFailed,
    Reason,
    RemoteError,
    ResourceExhausted,
    Unavailable,
)
from services.shared.grpc.errors import remote_errors
from tests.integration.shared import servicers
from tests.integration.shared.conftest import Serve
from tests.support.waiting import eventually

SECRET = "password=hunter2"


class LeaseLost(PreconditionFailed):
    reason = Reason.LEASE_LOST


def raising(error: BaseException):
    async def handle(_request, _context):
        raise error

    return handle


async def fail_with(serve: Serve, error: BaseException, **options) -> grpc.aio.AioRpcError:
    running = await serve(servicers.scheduler(servicers.UnaryUnary(raising(error))), **options)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())
    return caught.value


def details(error: grpc.aio.AioRpcError) -> dict[str, bytes]:
    raw = dict(error.trailing_metadata())["grpc-status-details-bin"]
    return {any_.type_url.rpartition(".")[2]: any_.value for any_ in status_pb2.Status.FromString(raw).details}


async def test_error_carries_code_reason_domain_and_metadata(serve: Serve):
    error = await fail_with(serve, NotFound.of("job", 7))

    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "job 7 does not exist"
    info = error_details_pb2.ErrorInfo.FromString(details(error)["ErrorInfo"])
    assert (info.reason, info.domain) == ("RESOURCE_NOT_FOUND", "scristill.dev")
    assert dict(info.metadata) == {"resource": "job", "id": "7"}


async def test_exhausted_error_carries_quota_and_retry_delay(serve: Serve):
    error = await fail_with(serve, ResourceExhausted.of("project", 10, "too many jobs wait"))

    found = details(error)
    assert error_details_pb2.RetryInfo.FromString(found["RetryInfo"]).retry_delay.seconds == 1
    assert error_details_pb2.QuotaFailure.FromString(found["QuotaFailure"]).violations[0].subject == "project"


async def test_precondition_error_says_what_must_hold_first(serve: Serve):
    precondition = Precondition(type="JOB_STATE", subject="job/7", description="must be RUNNING")
    error = await fail_with(serve, LeaseLost("lost", preconditions=[precondition]))

    failure = error_details_pb2.PreconditionFailure.FromString(details(error)["PreconditionFailure"])
    assert failure.violations[0].type == "JOB_STATE"


@pytest.mark.parametrize(
    "error",
    [
        ValueError(SECRET),
        ExceptionGroup(SECRET, [NotFound("known"), KeyError(SECRET)]),
        asyncio.InvalidStateError(SECRET),
        RemoteError(peer="indexer", code=Code.INVALID_ARGUMENT, message=SECRET),
    ],
)
async def test_text_of_an_unexpected_exception_never_leaks(serve: Serve, error: Exception):
    seen = await fail_with(serve, error)

    assert seen.code() is grpc.StatusCode.INTERNAL
    assert SECRET not in repr((seen.details(), seen.debug_error_string(), tuple(seen.trailing_metadata())))
    info = error_details_pb2.ErrorInfo.FromString(details(seen)["ErrorInfo"])
    assert info.reason == "INTERNAL_FAULT"
    assert len(info.metadata["incident_id"]) == 32


async def test_incident_is_logged_once_with_traceback_and_trace(serve: Serve, log_lines):
    seen = await fail_with(serve, ValueError(SECRET))

    incident_id = error_details_pb2.ErrorInfo.FromString(details(seen)["ErrorInfo"]).metadata["incident_id"]
    faults = [line for line in log_lines() if line["event"] == "rpc_fault"]
    calls = [line for line in log_lines() if line["event"] == "rpc"]
    assert [fault["incident_id"] for fault in faults] == [incident_id]
    assert SECRET in faults[0]["exception"]
    assert calls[0]["incident_id"] == incident_id
    assert calls[0]["trace_id"] == faults[0]["trace_id"]


async def test_group_of_known_errors_is_answered_with_the_first(serve: Serve):
    seen = await fail_with(serve, ExceptionGroup("stream", [NotFound("a"), NotFound("b")]))

    assert (seen.code(), seen.details()) == (grpc.StatusCode.NOT_FOUND, "a")


async def test_outage_of_a_store_is_unavailable(serve: Serve):
    def redis_outage(error):
        return Unavailable.of("redis") if isinstance(error, ConnectionError) else None

    seen = await fail_with(serve, ConnectionError(SECRET), outages=[redis_outage])

    assert seen.code() is grpc.StatusCode.UNAVAILABLE
    info = error_details_pb2.ErrorInfo.FromString(details(seen)["ErrorInfo"])
    assert (info.reason, dict(info.metadata)) == ("DEPENDENCY_UNAVAILABLE", {"dependency": "redis"})
    assert "RetryInfo" in details(seen)


async def test_unavailable_peer_makes_this_call_unavailable(serve: Serve):
    seen = await fail_with(serve, RemoteError(peer="indexer", code=Code.UNAVAILABLE, message=SECRET))

    assert seen.code() is grpc.StatusCode.UNAVAILABLE
    assert SECRET not in (seen.details() or "")


@pytest.mark.parametrize("letter", ["x", "ä", "語"])
async def test_long_details_still_fit_into_the_headers(serve: Serve, letter: str):
    text = letter * 5000
    violations = [FieldViolation(field=text, description=text) for _ in range(100)]
    metadata = {f"key_{index}": text for index in range(50)}
    running = await serve(
        servicers.scheduler(
            servicers.UnaryUnary(raising(InvalidRequest(text, metadata=metadata, field_violations=violations)))
        )
    )
    # A client of another language has the default limit of 8 KiB.
    async with grpc.aio.insecure_channel(running.address, [("grpc.max_metadata_size", 8192)]) as plain:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await SchedulerServiceStub(plain).GetJob(servicers.job_request())

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ErrorInfo" in details(caught.value)


async def test_client_reads_the_error_back(serve: Serve):
    async def handle(_request, _context):
        raise LeaseLost("lost", metadata={"job_id": "7"})

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    with pytest.raises(RemoteError) as caught, remote_errors("scheduler"):
        await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())

    assert (caught.value.code, caught.value.reason) == (Code.FAILED_PRECONDITION, Reason.LEASE_LOST)
    assert caught.value.metadata == {"job_id": "7"}
    assert not caught.value.transient


async def test_error_in_a_stream_arrives_after_its_frames(serve: Serve):
    async def handle(_request, _context):
        yield pb.WatchJobsResponse(resume_token="1")
        raise LeaseLost("lost")

    running = await serve(servicers.scheduler(servicers.UnaryStream(handle)))
    call = SchedulerServiceStub(running.channel).WatchJobs(pb.WatchJobsRequest())

    assert (await call.read()).resume_token == "1"
    with pytest.raises(RemoteError) as caught, remote_errors("scheduler"):
        await call.read()
    assert caught.value.reason is Reason.LEASE_LOST


async def test_cancelled_call_cancels_the_handler(serve: Serve, log_lines):
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def handle(_request, _context):
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    call = SchedulerServiceStub(running.channel).GetJob(servicers.job_request())
    await entered.wait()
    call.cancel()

    await eventually(cancelled.is_set)
    await eventually(lambda: [line["code"] for line in log_lines() if line["event"] == "rpc"] == ["CANCELLED"])
