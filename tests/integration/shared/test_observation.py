"""What a call leaves behind: one log line, its metrics, its span."""

import grpc
import grpc.aio
import pytest
from opentelemetry.trace import SpanKind, StatusCode
from scristill.indexer.v1 import indexer_service_pb2 as indexer_pb
from scristill.indexer.v1.indexer_service_pb2_grpc import IndexerServiceStub
from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from services.shared.errors import NotFound
from services.shared.telemetry import tracing
from tests.integration.shared import servicers
from tests.integration.shared.conftest import Running, Serve
from tests.support.waiting import eventually

INDEX_FACTS = "scristill.indexer.v1.IndexerService/IndexFacts"


async def answer(_request, _context):
    return pb.GetJobResponse()


async def three_frames(_request, _context):
    for _ in range(3):
        yield pb.WatchJobsResponse()


def calls(running: Running, method: str, code: str) -> float | None:
    return running.sample("scristill_rpc_server_duration_seconds_count", method=method, code=code)


async def test_unary_call_is_one_line_with_method_code_and_duration(serve: Serve, log_lines):
    running = await serve(servicers.scheduler(servicers.UnaryUnary(answer)))
    await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())

    (line,) = [line for line in log_lines() if line["event"] == "rpc"]
    assert (line["method"], line["code"], line["level"]) == (servicers.GET_JOB, "OK", "info")
    assert line["duration_ms"] > 0
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert len(line["trace_id"]) == 32


async def test_stream_is_one_line_with_message_counts(serve: Serve, log_lines):
    running = await serve(servicers.scheduler(servicers.UnaryStream(three_frames)))
    async for _ in SchedulerServiceStub(running.channel).WatchJobs(pb.WatchJobsRequest()):
        pass

    (line,) = [line for line in log_lines() if line["event"] == "rpc"]
    assert (line["received"], line["sent"]) == (1, 3)


async def test_failed_call_logs_its_reason_at_info(serve: Serve, log_lines):
    async def handle(_request, _context):
        raise NotFound.of("job", 7)

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    with pytest.raises(grpc.aio.AioRpcError):
        await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())

    (line,) = log_lines()
    assert (line["code"], line["reason"], line["level"]) == ("NOT_FOUND", "RESOURCE_NOT_FOUND", "info")


async def test_metrics_count_calls_by_method_and_code(serve: Serve):
    running = await serve(servicers.scheduler(servicers.UnaryUnary(answer)))
    stub = SchedulerServiceStub(running.channel)
    await stub.GetJob(servicers.job_request())
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.GetJob(servicers.job_request("bad"))

    assert calls(running, servicers.GET_JOB, "OK") == 1
    assert calls(running, servicers.GET_JOB, "INVALID_ARGUMENT") == 1
    assert running.sample("scristill_rpc_server_in_flight", method=servicers.GET_JOB) == 0
    assert (
        running.client_metrics.registry.get_sample_value(
            "scristill_rpc_client_duration_seconds_count", {"method": servicers.GET_JOB, "code": "OK"}
        )
        == 1
    )


@pytest.mark.parametrize("style", ["generator", "context"])
async def test_stream_messages_are_counted_in_both_handler_styles(serve: Serve, style: str):
    async def write_three(_request, context):
        for _ in range(3):
            await context.write(pb.WatchJobsResponse())

    servicer = (
        servicers.UnaryStream(three_frames) if style == "generator" else servicers.UnaryStreamByContext(write_three)
    )
    running = await serve(servicers.scheduler(servicer))
    frames = [frame async for frame in SchedulerServiceStub(running.channel).WatchJobs(pb.WatchJobsRequest())]

    assert len(frames) == 3
    assert (
        running.sample("scristill_rpc_server_stream_messages_total", method=servicers.WATCH_JOBS, direction="sent") == 3
    )


async def test_bidirectional_messages_are_counted_both_ways(serve: Serve):
    async def echo(requests, _context):
        async for _ in requests:
            yield indexer_pb.IndexFactsResponse()
            yield indexer_pb.IndexFactsResponse()

    async def frames():
        for _ in range(4):
            yield servicers.opening()

    running = await serve(servicers.indexer(servicers.StreamStream(echo)))
    answers = [frame async for frame in IndexerServiceStub(running.channel).IndexFacts(frames())]

    assert len(answers) == 8
    name = "scristill_rpc_server_stream_messages_total"
    assert running.sample(name, method=INDEX_FACTS, direction="received") == 4
    assert running.sample(name, method=INDEX_FACTS, direction="sent") == 8


async def test_abandoned_generator_is_closed_when_the_client_cancels(serve: Serve):
    closed = []

    async def endless(_request, _context):
        try:
            while True:
                yield pb.WatchJobsResponse(resume_token="x" * 65536)
        finally:
            closed.append(True)

    running = await serve(servicers.scheduler(servicers.UnaryStream(endless)))
    call = SchedulerServiceStub(running.channel).WatchJobs(pb.WatchJobsRequest())
    await call.read()
    call.cancel()

    await eventually(lambda: closed)
    await eventually(lambda: calls(running, servicers.WATCH_JOBS, "CANCELLED") == 1)


async def test_server_span_continues_the_trace_of_the_caller(serve: Serve, spans):
    inner = []

    async def handle(_request, _context):
        inner.append(tracing.current_traceparent())
        return pb.GetJobResponse()

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    with tracing.span("caller") as caller:
        await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())

    await eventually(lambda: len(spans.get_finished_spans()) == 3)
    finished = {span.kind: span for span in spans.get_finished_spans()}
    server, client = finished[SpanKind.SERVER], finished[SpanKind.CLIENT]
    assert {span.context.trace_id for span in finished.values()} == {caller.get_span_context().trace_id}
    assert server.parent.span_id == client.context.span_id
    assert client.parent.span_id == caller.get_span_context().span_id
    assert f"{server.context.span_id:016x}" in inner[0]
    assert server.attributes["rpc.system.name"] == "grpc"
    assert server.attributes["rpc.method"] == servicers.GET_JOB
    assert server.attributes["rpc.response.status_code"] == "OK"


async def test_only_faults_of_the_server_mark_its_span_as_an_error(serve: Serve, spans):
    async def handle(request, _context):
        raise NotFound.of("job", 7) if request.job_id == servicers.JOB_ID else ValueError

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    stub = SchedulerServiceStub(running.channel)
    for job_id in (servicers.JOB_ID, "018f4e5c-7d3a-7c11-9d8e-000000000000"):
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetJob(servicers.job_request(job_id))

    servers = [span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER]
    assert [span.status.status_code for span in servers] == [StatusCode.UNSET, StatusCode.ERROR]
    assert servers[0].attributes["scristill.error.reason"] == "RESOURCE_NOT_FOUND"
    assert servers[1].attributes["error.type"] == "INTERNAL"


async def test_calls_beyond_the_limit_are_refused_but_probes_are_not(serve: Serve):
    running = await serve(servicers.scheduler(servicers.UnaryUnary(answer)), max_concurrent_rpcs=0)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await servicers.health(running.channel)).status == 1


async def test_server_info_lists_capabilities_sorted(serve: Serve):
    running = await serve()

    info = await servicers.server_info(running.channel)

    assert (info.service, info.version, list(info.capabilities)) == ("test", "1.2.3", ["a", "b"])
