"""Requests that break a rule of their proto never reach a handler."""

import grpc
import grpc.aio
import pytest
from scristill.extractor.v1.source_service_pb2 import UploadSourceResponse
from scristill.extractor.v1.source_service_pb2_grpc import SourceServiceStub
from scristill.indexer.v1 import indexer_service_pb2 as indexer_pb
from scristill.indexer.v1.indexer_service_pb2_grpc import IndexerServiceStub
from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1.job_pb2 import JobSpec
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from services.shared.errors import Code, Reason, RemoteError
from services.shared.grpc.errors import from_rpc_error
from tests.integration.shared import servicers
from tests.integration.shared.conftest import Serve


def refusal(error: grpc.aio.AioRpcError) -> RemoteError:
    remote = from_rpc_error(error, peer="test")
    assert (remote.code, remote.reason) == (Code.INVALID_ARGUMENT, Reason.INVALID_REQUEST)
    return remote


async def test_unary_request_is_refused_with_its_field(serve: Serve):
    handled = []

    async def handle(request, _context):
        handled.append(request)
        return pb.GetJobResponse()

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    stub = SchedulerServiceStub(running.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetJob(servicers.job_request("not a uuid"))
    await stub.GetJob(servicers.job_request())

    remote = refusal(caught.value)
    assert [violation.field for violation in remote.field_violations] == ["job_id"]
    assert remote.metadata == {"violation_count": "1"}
    assert [request.job_id for request in handled] == [servicers.JOB_ID]


async def test_path_names_the_item_of_a_nested_field(serve: Serve):
    async def handle(_request, _context):
        return pb.CreateJobResponse()

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await SchedulerServiceStub(running.channel).CreateJob(pb.CreateJobRequest(job=JobSpec(type="No Such")))

    assert all(violation.field.startswith("job.") for violation in refusal(caught.value).field_violations)


async def test_each_message_of_a_client_stream_is_checked(serve: Serve):
    seen = []

    async def handle(requests, _context):
        seen.append((await anext(requests)).chunk)
        seen.append((await anext(requests)).chunk)
        return UploadSourceResponse()

    async def frames():
        yield servicers.chunk(b"one")
        yield servicers.chunk(b"x" * (1024 * 1024 + 1))

    running = await serve(servicers.sources(servicers.StreamUnary(handle)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await SourceServiceStub(running.channel).UploadSource(frames())

    assert refusal(caught.value).field_violations[0].field == "chunk"
    assert seen == [b"one"]


async def test_messages_read_through_the_context_are_checked_too(serve: Serve):
    async def handle(_requests, context):
        while await context.read() is not grpc.aio.EOF:
            pass
        return UploadSourceResponse()

    running = await serve(servicers.sources(servicers.StreamUnary(handle)))
    call = SourceServiceStub(running.channel).UploadSource(_one(servicers.chunk(b"x" * (1024 * 1024 + 1))))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call

    assert refusal(caught.value).field_violations[0].field == "chunk"


async def test_bad_frame_ends_a_bidirectional_stream(serve: Serve):
    async def handle(requests, _context):
        async for _ in requests:
            yield indexer_pb.IndexFactsResponse(opened=indexer_pb.IndexStreamOpened())

    running = await serve(servicers.indexer(servicers.StreamStream(handle)))
    call = IndexerServiceStub(running.channel).IndexFacts()
    await call.write(servicers.opening())
    assert (await call.read()).HasField("opened")
    await call.write(servicers.opening(client_id=""))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()

    assert refusal(caught.value).field_violations[0].field == "open.client_id"


async def _one(message):
    yield message
