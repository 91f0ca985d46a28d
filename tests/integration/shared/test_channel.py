"""What a channel adds to generated stubs."""

import json

import grpc
import grpc.aio
import pytest
from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1.job_pb2 import JobSpec
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from services.shared.checks import CheckFailed
from services.shared.errors import NotFound, ResourceExhausted, Unavailable
from services.shared.grpc.channel import connect
from services.shared.grpc.checks import peer_check
from services.shared.grpc.service_config import SERVICE_CONFIG
from services.shared.telemetry.metrics import Metrics
from tests.integration.shared import servicers
from tests.integration.shared.conftest import Serve
from tests.support.local_stack import free_port


def failing_twice(error: Exception, seen: list[str]):
    async def handle(request, _context):
        seen.append(request.request_id)
        if len(seen) < 3:
            raise error
        return pb.CreateJobResponse()

    return handle


def create_job() -> pb.CreateJobRequest:
    return pb.CreateJobRequest(job=JobSpec(type="extract", project_id="p"))


async def test_unavailable_call_is_repeated_under_the_same_request_id(serve: Serve):
    seen: list[str] = []
    handler = servicers.UnaryUnary(failing_twice(Unavailable.of("postgresql"), seen))
    running = await serve(servicers.scheduler(handler))
    await SchedulerServiceStub(running.channel).CreateJob(create_job())

    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert len(seen[0]) == 36


@pytest.mark.parametrize("error", [ResourceExhausted.of("server", 1, "full"), NotFound.of("job", 1)])
async def test_no_other_failure_is_repeated(serve: Serve, error: Exception):
    seen: list[str] = []
    running = await serve(servicers.scheduler(servicers.UnaryUnary(failing_twice(error, seen))))
    with pytest.raises(grpc.aio.AioRpcError):
        await SchedulerServiceStub(running.channel).CreateJob(create_job())

    assert len(seen) == 1


async def test_two_calls_with_one_message_are_two_requests(serve: Serve):
    seen: list[str] = []

    async def handle(request, _context):
        seen.append(request.request_id)
        return pb.CreateJobResponse()

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    request = create_job()
    for _ in range(2):
        await SchedulerServiceStub(running.channel).CreateJob(request)

    assert seen[0] != seen[1]
    assert request.request_id == ""


async def test_own_request_id_is_kept(serve: Serve):
    seen: list[str] = []

    async def handle(request, _context):
        seen.append(request.request_id)
        return pb.CreateJobResponse()

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    request = create_job()
    request.request_id = servicers.JOB_ID
    await SchedulerServiceStub(running.channel).CreateJob(request)

    assert seen == [servicers.JOB_ID]


async def test_failed_call_is_measured_with_its_code(serve: Serve):
    async def handle(_request, _context):
        raise NotFound.of("job", 1)

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    with pytest.raises(grpc.aio.AioRpcError):
        await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())

    labels = {"method": servicers.GET_JOB, "code": "NOT_FOUND"}
    name = "scristill_rpc_client_duration_seconds_count"
    assert running.client_metrics.registry.get_sample_value(name, labels) == 1


async def test_two_channels_of_one_process_share_their_metrics():
    metrics = Metrics()
    async with connect("127.0.0.1:1", metrics=metrics), connect("127.0.0.1:2", metrics=metrics):
        pass


async def test_new_channel_does_not_wait_out_the_backoff_of_another(serve: Serve):
    async def handle(_request, _context):
        return pb.GetJobResponse()

    port, once = free_port(), json.dumps({"loadBalancingConfig": SERVICE_CONFIG["loadBalancingConfig"]})
    async with connect(f"127.0.0.1:{port}", service_config=once) as early:
        with pytest.raises(grpc.aio.AioRpcError):
            await SchedulerServiceStub(early).GetJob(servicers.job_request())
        handler = servicers.scheduler(servicers.UnaryUnary(handle))
        running = await serve(handler, port=port, service_config=once)
        await SchedulerServiceStub(running.channel).GetJob(servicers.job_request())


async def test_message_of_many_megabytes_passes(serve: Serve):
    async def handle(_request, _context):
        yield pb.WatchJobsResponse(resume_token="x" * (20 * 1024 * 1024))

    running = await serve(servicers.scheduler(servicers.UnaryStream(handle)))
    call = SchedulerServiceStub(running.channel).WatchJobs(pb.WatchJobsRequest())

    assert len((await call.read()).resume_token) == 20 * 1024 * 1024


async def test_peer_check_passes_for_a_serving_peer_and_names_one_that_is_away(serve: Serve):
    running = await serve()
    await peer_check("scheduler", running.address).run()

    running.server.shut_down()
    with pytest.raises(CheckFailed, match="not serving"):
        await peer_check("scheduler", running.address).run()
    with pytest.raises(CheckFailed, match="UNAVAILABLE"):
        await peer_check("scheduler", "127.0.0.1:1").run()
