"""The order in which a server stops, seen from its clients."""

import asyncio
import time
from contextlib import aclosing

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from services.shared.clock import SystemClock
from services.shared.errors import RemoteError
from services.shared.grpc.errors import remote_errors
from services.shared.lifecycle import Drain, Loop, LoopSupervisor
from services.shared.process import shut_down
from services.shared.service import Runtime
from services.shared.settings import ServiceSettings
from services.shared.telemetry.metrics import Metrics
from tests.integration.shared import servicers
from tests.integration.shared.conftest import Running, Serve
from tests.support.waiting import eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

GRACE = 1.0


@pytest.fixture
def drain() -> Drain:
    return Drain()


async def stop(running: Running, drain: Drain, loops: LoopSupervisor | None = None, **settings: float) -> None:
    await shut_down(
        ServiceSettings(**{"drain_seconds": GRACE, **settings}),
        Runtime(name="test", version="0", drain=drain, metrics=Metrics(), clock=SystemClock(), instance="test"),
        running.server,
        loops or LoopSupervisor([]),
        hard=asyncio.Event(),
    )


async def endless():
    while True:
        yield pb.WatchJobsResponse()
        await asyncio.sleep(0.01)


async def test_stream_that_selects_on_drain_ends_with_its_last_frame_and_stop_is_quick(serve: Serve, drain: Drain):
    async def handle(_request, _context):
        async with aclosing(drain.guard(endless())) as frames:
            async for frame in frames:
                yield frame
        yield pb.WatchJobsResponse(draining=pb.WatchDraining())

    running = await serve(servicers.scheduler(servicers.UnaryStream(handle)))
    call = SchedulerServiceStub(running.channel).WatchJobs(pb.WatchJobsRequest())
    frames = aiter(call)
    await anext(frames)
    before = time.monotonic()
    stopping = asyncio.create_task(stop(running, drain, drain_seconds=30))
    rest = [frame async for frame in frames]
    await stopping

    assert rest[-1].HasField("draining")
    assert await call.code() is grpc.StatusCode.OK
    assert time.monotonic() - before < 10  # far below the grace


async def test_stream_that_ignores_drain_is_cut_when_the_grace_is_over(serve: Serve, drain: Drain):
    async def handle(_request, _context):
        async for frame in endless():
            yield frame

    running = await serve(servicers.scheduler(servicers.UnaryStream(handle)))
    call = SchedulerServiceStub(running.channel).WatchJobs(pb.WatchJobsRequest())
    frames = aiter(call)
    await anext(frames)
    before = time.monotonic()
    await stop(running, drain)

    assert time.monotonic() - before >= GRACE
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        [_ async for _ in frames]
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_running_unary_call_finishes(serve: Serve, drain: Drain):
    entered = asyncio.Event()

    async def handle(_request, _context):
        entered.set()
        await drain.wait()
        await asyncio.sleep(0.1)
        return pb.GetJobResponse()

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    call = asyncio.ensure_future(SchedulerServiceStub(running.channel).GetJob(servicers.job_request()))
    await entered.wait()
    await stop(running, drain)

    assert await call == pb.GetJobResponse()


async def test_health_says_not_serving_before_the_drain_and_its_watch_ends(serve: Serve, drain: Drain):
    running = await serve()
    call = health_pb2_grpc.HealthStub(running.channel).Watch(health_pb2.HealthCheckRequest())
    assert (await call.read()).status == SERVING
    stopping = asyncio.create_task(stop(running, drain, drain_delay_seconds=0.5, drain_seconds=30))

    assert (await call.read()).status == NOT_SERVING
    assert not drain.started
    assert await call.read() is grpc.aio.EOF
    assert (await servicers.health(running.channel, "liveness")).status == SERVING
    await stopping
    assert drain.started


async def test_loops_stop_after_the_server_has_answered_its_last_call(serve: Serve, drain: Drain):
    order = []

    async def handle(_request, _context):
        await drain.wait()
        await asyncio.sleep(0.05)
        order.append("call")
        return pb.GetJobResponse()

    async def loop(stop: asyncio.Event) -> None:
        await stop.wait()
        order.append("loop")

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    loops = LoopSupervisor([Loop(name="test", run=loop)])
    loops.start()
    call = asyncio.ensure_future(SchedulerServiceStub(running.channel).GetJob(servicers.job_request()))
    in_flight = ("scristill_rpc_server_in_flight", servicers.GET_JOB)
    await eventually(lambda: running.sample(in_flight[0], method=in_flight[1]) == 1)
    await stop(running, drain, loops)
    await call

    assert order == ["call", "loop"]


async def test_hard_stop_does_not_wait_for_the_grace(serve: Serve, drain: Drain):
    async def handle(_request, _context):
        async for frame in endless():
            yield frame

    running = await serve(servicers.scheduler(servicers.UnaryStream(handle)))
    call = SchedulerServiceStub(running.channel).WatchJobs(pb.WatchJobsRequest())
    await call.read()
    hard = asyncio.Event()
    runtime = Runtime(name="test", version="0", drain=drain, metrics=Metrics(), instance="test")
    before = time.monotonic()
    stopping = asyncio.create_task(
        shut_down(ServiceSettings(drain_seconds=60), runtime, running.server, LoopSupervisor([]), hard=hard)
    )
    await drain.wait()
    hard.set()
    await stopping

    assert time.monotonic() - before < 30


async def test_health_knows_each_service_and_no_other(serve: Serve):
    running = await serve()

    assert (await servicers.health(running.channel, "scristill.common.v1.ServerInfoService")).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await servicers.health(running.channel, "no.such.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_call_that_a_server_drops_when_it_stops_is_an_outage(serve: Serve):
    """Calls that have arrived while its loop was busy, and that it has not begun."""

    async def handle(_request, _context):
        return pb.GetJobResponse()

    running = await serve(servicers.scheduler(servicers.UnaryUnary(handle)))
    stub = SchedulerServiceStub(running.channel)

    async def call() -> RemoteError | None:
        try:
            with remote_errors("scheduler"):
                await stub.GetJob(servicers.job_request())
        except RemoteError as error:
            return error
        return None

    assert await call() is None
    calls = [asyncio.create_task(call()) for _ in range(50)]
    for _ in range(5):
        await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251 - this is what keeps the server from beginning them
    stopping = asyncio.create_task(running.server.stop(GRACE))
    failures = [error for error in await asyncio.gather(*calls) if error is not None]
    await stopping

    assert failures
    assert all(error.transient for error in failures), failures
