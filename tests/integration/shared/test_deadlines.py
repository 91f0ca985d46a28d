"""A deadline set by the first caller bounds everything behind it."""

import asyncio

import grpc
import grpc.aio
import pytest
from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from services.shared import deadlines
from services.shared.errors import Code, Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.shared import servicers
from tests.integration.shared.conftest import Serve


def recording(seen: list[float | None]):
    async def handle(_request, context):
        seen.append(context.time_remaining())
        return pb.GetJobResponse()

    return handle


async def test_server_sees_the_default_timeout_of_the_channel(serve: Serve):
    seen: list[float | None] = []
    running = await serve(servicers.scheduler(servicers.UnaryUnary(recording(seen))), default_timeout=7.0)
    await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())

    # On the wire a timeout is rounded up, at this size to tens of milliseconds.
    assert 6 < seen[0] < 7.1


async def test_outgoing_call_inherits_what_is_left_of_the_incoming_one(serve: Serve):
    seen: list[float | None] = []
    backend = await serve(servicers.scheduler(servicers.UnaryUnary(recording(seen))))

    async def forward(request, _context):
        return await SchedulerServiceStub(backend.channel).GetJob(request, timeout=60)

    front = await serve(servicers.scheduler(servicers.UnaryUnary(forward)))
    await SchedulerServiceStub(front.channel).GetJob(servicers.job_request(), timeout=5)

    assert 3 < seen[0] < 5


async def test_outgoing_stream_inherits_the_deadline_too(serve: Serve):
    seen = []

    async def watch(_request, context):
        seen.append(context.time_remaining())
        yield pb.WatchJobsResponse()

    backend = await serve(servicers.scheduler(servicers.UnaryStream(watch)))
    stub = SchedulerServiceStub(backend.channel)
    with deadlines.within(5):
        [_ async for _ in stub.WatchJobs(pb.WatchJobsRequest())]
    [_ async for _ in stub.WatchJobs(pb.WatchJobsRequest())]

    assert 3 < seen[0] < 5
    assert seen[1] is None


async def test_detached_work_does_not_inherit_the_deadline(serve: Serve):
    seen: list[float | None] = []
    running = await serve(servicers.scheduler(servicers.UnaryUnary(recording(seen))), default_timeout=30.0)
    with deadlines.within(1), deadlines.detached():
        await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())

    assert seen[0] > 20


async def test_call_without_deadline_gets_the_default_of_the_server(serve: Serve):
    async def hang(_request, _context):
        assert 0 < deadlines.remaining() <= 0.2
        await asyncio.Event().wait()

    running = await serve(servicers.scheduler(servicers.UnaryUnary(hang)), default_deadline_seconds=0.2)
    async with grpc.aio.insecure_channel(running.address) as plain:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await SchedulerServiceStub(plain).GetJob(servicers.job_request())

    remote = from_rpc_error(caught.value, peer="test")
    assert (remote.code, remote.reason) == (Code.DEADLINE_EXCEEDED, Reason.DEADLINE_UNREACHABLE)


async def test_deadline_of_the_client_cancels_the_handler(serve: Serve, log_lines):
    cancelled = asyncio.Event()

    async def hang(_request, _context):
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    running = await serve(servicers.scheduler(servicers.UnaryUnary(hang)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await SchedulerServiceStub(running.channel).GetJob(servicers.job_request(), timeout=0.2)
    async with asyncio.timeout(5):
        await cancelled.wait()

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [line["code"] for line in log_lines() if line["event"] == "rpc"] == ["DEADLINE_EXCEEDED"]
