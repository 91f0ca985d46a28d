"""`WorkerService`: the stream that hands jobs out, and the batches that report on them."""

from datetime import timedelta
from functools import partial

from scristill.scheduler.v1 import worker_service_pb2 as pb
from scristill.scheduler.v1 import worker_service_pb2_grpc as pb_grpc

from services.scheduler.application.dispatcher import Dispatcher
from services.scheduler.application.lease_stream import LeaseStream
from services.scheduler.application.signals import Signals
from services.scheduler.application.work import WorkOnJobs
from services.scheduler.domain.job import Renewal
from services.scheduler.domain.policy import Policies
from services.scheduler.entrypoints import mapping
from services.shared.clock import Clock
from services.shared.grpc.interceptors.base import Context
from services.shared.lifecycle import Drain
from services.shared.telemetry import tracing

_MAX_FRAME_JOBS = 1000
_DEFAULT_PING = timedelta(seconds=15)
_SHORTEST_PING = timedelta(seconds=1)
_LONGEST_PING = timedelta(seconds=60)
_RECONNECT_DELAY = timedelta(milliseconds=200)


class WorkerServicer(pb_grpc.WorkerServiceServicer):
    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        work: WorkOnJobs,
        signals: Signals,
        policies: Policies,
        clock: Clock,
        drain: Drain,
        accept_timeout: timedelta,
        new_ids: mapping.NewIds,
    ) -> None:
        self._dispatcher = dispatcher
        self._work = work
        self._signals = signals
        self._writer = mapping.LeaseWriter(policies)
        self._clock = clock
        self._drain = drain
        self._accept_timeout = accept_timeout
        self._new_ids = new_ids

    async def LeaseJobs(  # pyright: ignore[reportIncompatibleMethodOverride] - writes frames itself, no generator
        self, request: pb.LeaseJobsRequest, context: Context
    ) -> None:
        for text in (request.worker_id, *request.types):
            mapping.refuse_nul(text, field="worker_id, types")
        held = [mapping.to_lease(lease) for lease in request.held_leases]
        stream = LeaseStream(
            worker_id=request.worker_id, types=request.types, max_in_flight=request.max_in_flight, held=held
        )
        await self._dispatcher.open(stream)
        orderly = False
        try:
            await context.write(pb.LeaseJobsResponse(opened=self._opened(stream)))
            if held:
                # A worker that comes back keeps what it holds, also what a broken stream had put in doubt.
                await self._work.renew([Renewal(lease=lease, progress=None, checkpoint="") for lease in held])
            frame_jobs = request.max_batch_size or _MAX_FRAME_JOBS
            await self._send(stream, context, frame_jobs=frame_jobs, ping=_ping_interval(request))
            orderly = True
            await context.write(
                pb.LeaseJobsResponse(
                    draining=pb.LeaseStreamDraining(reconnect_delay=mapping.from_duration(_RECONNECT_DELAY))
                )
            )
        finally:
            await self._dispatcher.close(stream, orderly=orderly)
            self._signals.expiring.set()

    async def RenewLeases(self, request: pb.RenewLeasesRequest, context: Context) -> pb.RenewLeasesResponse:
        with self._dispatcher.call_of(request.worker_id):
            renewals = mapping.read_each(request.renewals, mapping.to_renewal, field="renewals")
            renewed = await self._work.renew(renewals)
            return pb.RenewLeasesResponse(directives=[mapping.from_renewed(each) for each in renewed])

    async def CompleteJobs(self, request: pb.CompleteJobsRequest, context: Context) -> pb.CompleteJobsResponse:
        with self._dispatcher.call_of(request.worker_id):
            specs = mapping.SpecReader(new_ids=self._new_ids, traceparent=tracing.current_traceparent())
            completions = mapping.read_each(
                request.completions, partial(mapping.to_completion, specs=specs), field="completions"
            )
            settled = await self._work.complete(completions)
            return pb.CompleteJobsResponse(outcomes=[mapping.from_settled(each) for each in settled])

    async def FailJobs(self, request: pb.FailJobsRequest, context: Context) -> pb.FailJobsResponse:
        with self._dispatcher.call_of(request.worker_id):
            attempts = mapping.read_each(request.attempts, mapping.to_failed_attempt, field="attempts")
            settled = await self._work.fail(attempts)
            return pb.FailJobsResponse(outcomes=[mapping.from_settled(each) for each in settled])

    async def ReleaseJobs(self, request: pb.ReleaseJobsRequest, context: Context) -> pb.ReleaseJobsResponse:
        with self._dispatcher.call_of(request.worker_id):
            releases = mapping.read_each(request.releases, mapping.to_release, field="releases")
            settled = await self._work.release(releases)
            return pb.ReleaseJobsResponse(outcomes=[mapping.from_settled(each) for each in settled])

    async def _send(self, stream: LeaseStream, context: Context, *, frame_jobs: int, ping: timedelta) -> None:
        """Jobs as they arrive, a ping when none did for a while; ends with the drain or the next stream."""
        ending = False
        while not ending:
            await stream.wait(ping.total_seconds())
            ending = self._drain.started or stream.replaced
            jobs = stream.collect()
            for start in range(0, len(jobs), frame_jobs):
                await context.write(pb.LeaseJobsResponse(leases=self._writer.write(jobs[start : start + frame_jobs])))
            if not jobs and not ending:
                ping_frame = pb.LeaseStreamPing(server_time=mapping.from_time(self._clock.now()))
                await context.write(pb.LeaseJobsResponse(ping=ping_frame))

    def _opened(self, stream: LeaseStream) -> pb.LeaseStreamOpened:
        return pb.LeaseStreamOpened(
            stream_id=stream.stream_id,
            accept_timeout=mapping.from_duration(self._accept_timeout),
            server_time=mapping.from_time(self._clock.now()),
        )


def _ping_interval(request: pb.LeaseJobsRequest) -> timedelta:
    if not request.HasField("ping_interval"):
        return _DEFAULT_PING
    return min(max(mapping.to_delay(request.ping_interval), _SHORTEST_PING), _LONGEST_PING)
