"""`SchedulerService`: the side of those who have work to do, and of operators."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any

from scristill.scheduler.v1 import scheduler_service_pb2 as pb
from scristill.scheduler.v1 import scheduler_service_pb2_grpc as pb_grpc

from services.scheduler.application.dispatcher import Dispatcher
from services.scheduler.application.ports import Controls, Schedules
from services.scheduler.application.produce import ProduceJobs
from services.scheduler.application.statistics import DEFAULT_WINDOW, QueueStatistics
from services.scheduler.application.upkeep import Steerer
from services.scheduler.application.watch import Position, WatchJobs
from services.scheduler.domain.job import Job, JobFilter
from services.scheduler.entrypoints import mapping
from services.shared import paging
from services.shared.grpc.interceptors.base import Context
from services.shared.lifecycle import Drain
from services.shared.telemetry import tracing

_DEFAULT_CHECKPOINT = timedelta(seconds=15)
_SHORTEST_CHECKPOINT = timedelta(seconds=1)
_LONGEST_CHECKPOINT = timedelta(seconds=60)
_RECONNECT_DELAY = timedelta(milliseconds=200)
_SCHEDULES = {"list": "schedules"}


class SchedulerServicer(pb_grpc.SchedulerServiceServicer):
    def __init__(
        self,
        *,
        produce: ProduceJobs,
        watch: WatchJobs,
        statistics: QueueStatistics,
        controls: Controls,
        schedules: Schedules,
        steerer: Steerer,
        dispatcher: Dispatcher,
        drain: Drain,
        new_ids: mapping.NewIds,
    ) -> None:
        self._produce = produce
        self._watch = watch
        self._statistics = statistics
        self._controls = controls
        self._schedules = schedules
        self._steerer = steerer
        self._dispatcher = dispatcher
        self._drain = drain
        self._new_ids = new_ids

    async def CreateJob(self, request: pb.CreateJobRequest, context: Context) -> pb.CreateJobResponse:
        spec = self._specs().read(request.job, request_id=request.request_id, field="job")
        job, created = await self._produce.create_one(spec)
        return pb.CreateJobResponse(job=mapping.from_job(job), created=created)

    async def CreateJobs(self, request: pb.CreateJobsRequest, context: Context) -> pb.CreateJobsResponse:
        specs = await self._specs().read_many(request.jobs, request_id=request.request_id, field="jobs")
        parent = mapping.to_lease(request.parent_lease) if request.HasField("parent_lease") else None
        if parent is not None:
            self._dispatcher.heard_by(parent)
        results = await self._produce.create_many(specs, parent=parent)
        return mapping.from_create_results(results)

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=mapping.from_job(await self._produce.get(request.job_id.lower())))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        job_filter = mapping.to_filter(request.filter)
        arguments = _arguments(job_filter)
        position = paging.decode_token(request.page_token, arguments=arguments)
        # Read before the page, so that no change after it can be missed.
        resume = await self._watch.position()
        page = await self._produce.list_page(
            job_filter, after=_cursor(position), limit=paging.page_size(request.page_size)
        )
        token = paging.encode_token(_position(page.jobs[-1]), arguments=arguments) if page.more else ""
        return pb.ListJobsResponse(
            jobs=[mapping.from_job(job) for job in page.jobs], next_page_token=token, resume_token=resume.token
        )

    async def CancelJob(self, request: pb.CancelJobRequest, context: Context) -> pb.CancelJobResponse:
        cancelled = await self._produce.cancel(
            request.job_id.lower(),
            message=request.message.replace("\x00", ""),
            descend=not request.keep_children,
        )
        return pb.CancelJobResponse(job=mapping.from_job(cancelled.job), affected_count=cancelled.affected_count)

    async def RetryJob(self, request: pb.RetryJobRequest, context: Context) -> pb.RetryJobResponse:
        job = await self._produce.retry(request.job_id.lower(), request_id=request.request_id.lower())
        return pb.RetryJobResponse(job=mapping.from_job(job))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Context) -> pb.DeleteJobResponse:
        await self._produce.delete(request.job_id.lower())
        return pb.DeleteJobResponse()

    async def WatchJobs(self, request: pb.WatchJobsRequest, context: Context) -> AsyncIterator[pb.WatchJobsResponse]:
        job_filter = mapping.to_filter(request.filter)
        given = Position.of(request.resume_token)
        start = given or await self._watch.position()
        if given is not None:
            await self._watch.require_kept(given)
        with_current = request.include_current and given is None
        # While the present states are sent, no token: a stream that breaks in between must start over.
        yield pb.WatchJobsResponse(resume_token="" if with_current else start.token, opened=pb.WatchOpened())
        if with_current:
            async for job in self._watch.current(job_filter):
                yield pb.WatchJobsResponse(event=pb.JobEvent(job=mapping.from_job(job)))
            yield pb.WatchJobsResponse(resume_token=start.token, checkpoint=pb.WatchCheckpoint())
        frames = self._changes(job_filter, start, interval=_checkpoint_interval(request).total_seconds())
        async with aclosing(frames):
            async for frame in frames:
                yield frame

    async def GetQueueStats(self, request: pb.GetQueueStatsRequest, context: Context) -> pb.GetQueueStatsResponse:
        for name in request.types:
            mapping.refuse_nul(name, field="types")
        window = mapping.to_delay(request.window) if request.HasField("window") else DEFAULT_WINDOW
        queues, durations = await self._statistics.get(
            sorted(set(request.types)), by_project=request.by_project, window=window
        )
        return pb.GetQueueStatsResponse(
            queues=[mapping.from_queue(queue) for queue in queues],
            durations=[mapping.from_durations(each) for each in durations],
        )

    async def PauseQueue(self, request: pb.PauseQueueRequest, context: Context) -> pb.PauseQueueResponse:
        mapping.refuse_nul(request.type, field="type")
        await self._controls.pause(request.type)
        await self._steerer.refresh()
        return pb.PauseQueueResponse()

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: Context) -> pb.ResumeQueueResponse:
        mapping.refuse_nul(request.type, field="type")
        await self._controls.resume(request.type)
        await self._steerer.refresh()
        return pb.ResumeQueueResponse()

    async def SetProjectWeight(
        self, request: pb.SetProjectWeightRequest, context: Context
    ) -> pb.SetProjectWeightResponse:
        mapping.refuse_nul(request.project_id, field="project_id")
        await self._controls.set_weight(request.project_id, request.weight)
        await self._steerer.refresh()
        return pb.SetProjectWeightResponse()

    async def SetKeyLimit(self, request: pb.SetKeyLimitRequest, context: Context) -> pb.SetKeyLimitResponse:
        mapping.refuse_nul(request.limit_key, field="limit_key")
        await self._controls.set_key_limit(
            request.limit_key, max_in_flight=request.max_in_flight, max_per_second=request.max_per_second
        )
        self._dispatcher.open_key(request.limit_key)
        return pb.SetKeyLimitResponse()

    async def PutSchedule(self, request: pb.PutScheduleRequest, context: Context) -> pb.PutScheduleResponse:
        stored = await self._schedules.put(mapping.to_schedule(request.schedule))
        return pb.PutScheduleResponse(schedule=mapping.from_schedule(stored))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Context) -> pb.ListSchedulesResponse:
        limit = paging.page_size(request.page_size)
        position = paging.decode_token(request.page_token, arguments=_SCHEDULES)
        found = await self._schedules.list_page(after=position["schedule_id"] if position else "", limit=limit + 1)
        page = found[:limit]
        more = len(found) > limit
        token = paging.encode_token({"schedule_id": page[-1].schedule_id}, arguments=_SCHEDULES) if more else ""
        return pb.ListSchedulesResponse(
            schedules=[mapping.from_schedule(schedule) for schedule in page], next_page_token=token
        )

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Context) -> pb.DeleteScheduleResponse:
        await self._schedules.delete(request.schedule_id)
        return pb.DeleteScheduleResponse()

    async def _changes(
        self, job_filter: JobFilter, start: Position, *, interval: float
    ) -> AsyncGenerator[pb.WatchJobsResponse]:
        position = start
        sent = time.monotonic()
        async for batch in self._drain.guard(self._watch.events(job_filter, start=start)):
            for event in batch.events:
                frame = pb.JobEvent(job=mapping.from_job(event.job), deleted=event.deleted)
                yield pb.WatchJobsResponse(resume_token=event.position.token, event=frame)
            position = batch.position
            now = time.monotonic()
            if batch.events:
                sent = now
            elif now - sent >= interval:
                sent = now
                yield pb.WatchJobsResponse(resume_token=position.token, checkpoint=pb.WatchCheckpoint())
        yield pb.WatchJobsResponse(
            resume_token=position.token,
            draining=pb.WatchDraining(reconnect_delay=mapping.from_duration(_RECONNECT_DELAY)),
        )

    def _specs(self) -> mapping.SpecReader:
        return mapping.SpecReader(new_ids=self._new_ids, traceparent=tracing.current_traceparent())


def _checkpoint_interval(request: pb.WatchJobsRequest) -> timedelta:
    if not request.HasField("checkpoint_interval"):
        return _DEFAULT_CHECKPOINT
    return min(max(mapping.to_delay(request.checkpoint_interval), _SHORTEST_CHECKPOINT), _LONGEST_CHECKPOINT)


def _arguments(job_filter: JobFilter) -> Mapping[str, Any]:
    return {
        "types": job_filter.types,
        "project_ids": job_filter.project_ids,
        "states": [int(state) for state in job_filter.states],
        "job_ids": job_filter.job_ids,
        "parent_job_ids": job_filter.parent_job_ids,
    }


def _position(job: Job) -> Mapping[str, Any]:
    return {"create_time": job.create_time, "job_id": job.job_id}


def _cursor(position: Mapping[str, Any] | None) -> tuple[datetime, str] | None:
    return (datetime.fromisoformat(position["create_time"]), position["job_id"]) if position else None
