"""Between the contract's messages and the scheduler's values. Protobuf types stop here."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from math import floor
from typing import TypeVar
from uuid import UUID

import orjson
from google.protobuf import duration_pb2, timestamp_pb2
from scristill.errors.v1 import error_reason_pb2
from scristill.scheduler.v1 import job_pb2, scheduler_service_pb2, worker_service_pb2

from services.scheduler.application.ports import DurationStats, QueueStats, Renewed, Settled
from services.scheduler.application.produce import CreateResult
from services.scheduler.domain.job import (
    Completion,
    FailedAttempt,
    Failure,
    Job,
    JobFilter,
    JobSpec,
    JobState,
    LeasedJob,
    LeaseRef,
    Progress,
    Release,
    Renewal,
)
from services.scheduler.domain.policy import Policies
from services.scheduler.domain.schedule import MissedFirePolicy, Schedule
from services.shared import ids
from services.shared.errors import InvalidRequest
from services.shared.grpc.errors import to_item_failure

MessageT = TypeVar("MessageT")
ValueT = TypeVar("ValueT")

_LONGEST_DELAY = timedelta(days=3650)
_STATES = frozenset(int(state) for state in JobState)
_LATEST = datetime(9000, 1, 1, tzinfo=UTC)

_SPECS_PER_TURN = 250
_DRAFTS = 64

_BY_REQUEST = ids.namespace("job")
_BY_PARENT = ids.namespace("child-job")

NewIds = Callable[[int], Sequence[str]]


class SpecReader:
    """Turns specs of one call into values: identities made final, texts checked."""

    def __init__(self, *, new_ids: NewIds, traceparent: str) -> None:
        self._new_ids = new_ids
        self._traceparent = traceparent

    async def read_many(self, specs: Sequence[job_pb2.JobSpec], *, request_id: str, field: str) -> list[JobSpec]:
        """Reads a long list without holding the event loop. `field` is its path in the request."""
        read: list[JobSpec] = []
        for start in range(0, len(specs), _SPECS_PER_TURN):
            if start:
                await asyncio.sleep(0)
            part = specs[start : start + _SPECS_PER_TURN]
            identities = self._identities(request_id, range(start, start + len(part)))
            for index, (spec, identity) in enumerate(zip(part, identities, strict=True), start=start):
                try:
                    read.append(self._read(spec, identity, recurs=bool(request_id)))
                except InvalidRequest as error:
                    raise _under(f"{field}[{index}]", error) from error
        return read

    def read(self, spec: job_pb2.JobSpec, *, request_id: str, field: str) -> JobSpec:
        try:
            (identity,) = self._identities(request_id, range(1))
            return self._read(spec, identity, recurs=bool(request_id))
        except InvalidRequest as error:
            raise _under(field, error) from error

    def read_children(self, completion: worker_service_pb2.JobCompletion) -> tuple[JobSpec, ...]:
        """A child without an identity gets one from its parent and its place."""
        parent = completion.lease.job_id.lower()
        children: list[JobSpec] = []
        for index, spec in enumerate(completion.children):
            try:
                children.append(self._read(spec, str(ids.derived(_BY_PARENT, parent, index)), recurs=True))
            except InvalidRequest as error:
                raise _under(f"children[{index}]", error) from error
        return tuple(children)

    def _identities(self, request_id: str, places: range) -> Sequence[str]:
        """For specs without one: the same again for the same request, new ones for a call that has no name."""
        if request_id:
            return [str(ids.derived(_BY_REQUEST, request_id.lower(), place)) for place in places]
        return self._new_ids(len(places))

    def _read(self, spec: job_pb2.JobSpec, identity: str, *, recurs: bool) -> JobSpec:
        """A spec without an identity gets `identity`; `recurs` says whether that may come again.

        Names fields from the spec on: a path for each of thousands would cost as much as reading them. So do keywords.
        """
        job_id = spec.job_id.lower()
        project_id, limit_key = spec.project_id, spec.limit_key
        refuse_nul(project_id, field="project_id")
        if limit_key:
            refuse_nul(limit_key, field="limit_key")
        return JobSpec(
            job_id or identity,
            recurs or bool(job_id),
            spec.type,
            project_id,
            spec.priority,
            json_object(spec.payload, field="payload"),
            _to_time(spec.schedule_time, field="schedule_time") if spec.HasField("schedule_time") else None,
            limit_key,
            spec.max_attempts,
            self._traceparent,
        )


def _under(path: str, error: InvalidRequest) -> InvalidRequest:
    """The same refusal, with the place of the message whose field it names."""
    violation = error.field_violations[0]
    return InvalidRequest.of(f"{path}.{violation.field}", violation.description)


def json_object(text: str, *, field: str) -> str:
    """Checks that a text is a JSON object; the empty one becomes `{}`."""
    if not text or text == "{}":
        return "{}"
    if not isinstance(_parsed(text, field), dict):
        raise InvalidRequest.of(field, "must be a JSON object")
    return text


def json_text(text: str, *, field: str) -> str:
    if text:
        _parsed(text, field)
    return text


def _parsed(text: str, field: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest.of(field, "must be JSON") from error


def refuse_nul(text: str, *, field: str) -> None:
    if "\x00" in text:
        raise InvalidRequest.of(field, "must not contain NUL")


def _clean(text: str) -> str:
    """Free text for people: PostgreSQL stores every character but NUL."""
    return text.replace("\x00", "\ufffd")


def _to_time(timestamp: timestamp_pb2.Timestamp, *, field: str) -> datetime:
    try:
        return min(timestamp.ToDatetime(tzinfo=UTC), _LATEST)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest.of(field, "is out of range") from error


def to_delay(duration: duration_pb2.Duration) -> timedelta:
    seconds = min(max(duration.seconds + duration.nanos / 1e9, 0.0), _LONGEST_DELAY.total_seconds())
    return timedelta(seconds=seconds)


def to_lease(lease: job_pb2.LeaseRef) -> LeaseRef:
    return LeaseRef(job_id=lease.job_id.lower(), fencing_token=lease.fencing_token)


def to_filter(job_filter: scheduler_service_pb2.JobFilter) -> JobFilter:
    """Unspecified or unknown states in the list mean no state that exists, unless they are all there is."""
    for field, texts in (("types", job_filter.types), ("project_ids", job_filter.project_ids)):
        for text in texts:
            refuse_nul(text, field=f"filter.{field}")
    states = tuple(JobState(state) for state in job_filter.states if state in _STATES)
    return JobFilter(
        types=tuple(job_filter.types),
        project_ids=tuple(job_filter.project_ids),
        states=() if 0 in job_filter.states else states,
        job_ids=_ids(job_filter.job_ids, field="filter.job_ids"),
        parent_job_ids=_ids(job_filter.parent_job_ids, field="filter.parent_job_ids"),
    )


def _ids(texts: Sequence[str], *, field: str) -> tuple[str, ...]:
    try:
        return tuple(str(UUID(text)) for text in texts)
    except ValueError as error:
        raise InvalidRequest.of(field, "must hold UUIDs") from error


def read_each(messages: Iterable[MessageT], read: Callable[[MessageT], ValueT], *, field: str) -> list[ValueT]:
    """What `read` makes of each. Its refusals name fields of one message; the place of that in the request is added."""
    values: list[ValueT] = []
    for index, message in enumerate(messages):
        try:
            values.append(read(message))
        except InvalidRequest as error:
            raise _under(f"{field}[{index}]", error) from error
    return values


def to_renewal(renewal: worker_service_pb2.LeaseRenewal) -> Renewal:
    progress = renewal.progress if renewal.HasField("progress") else None
    return Renewal(
        lease=to_lease(renewal.lease),
        progress=Progress(
            completed_count=progress.completed_count,
            total_count=progress.total_count,
            message=_clean(progress.message),
        )
        if progress
        else None,
        checkpoint=json_text(renewal.checkpoint, field="checkpoint"),
    )


def to_completion(completion: worker_service_pb2.JobCompletion, *, specs: SpecReader) -> Completion:
    return Completion(
        lease=to_lease(completion.lease),
        result=json_object(completion.result, field="result"),
        children=specs.read_children(completion) if completion.children else (),
    )


def to_failed_attempt(attempt: worker_service_pb2.FailedAttempt) -> FailedAttempt:
    return FailedAttempt(
        lease=to_lease(attempt.lease),
        failure=Failure(reason=min(attempt.failure.reason, 32767), message=_clean(attempt.failure.message)),
        permanent=attempt.permanent,
        retry_delay=to_delay(attempt.retry_delay) if attempt.HasField("retry_delay") else None,
        gate_until_time=_to_time(attempt.gate_until_time, field="gate_until_time")
        if attempt.HasField("gate_until_time")
        else None,
    )


def to_release(release: worker_service_pb2.JobRelease) -> Release:
    return Release(
        lease=to_lease(release.lease),
        delay=to_delay(release.delay),
        checkpoint=json_text(release.checkpoint, field="checkpoint"),
    )


def from_time(moment: datetime | None) -> timestamp_pb2.Timestamp | None:
    """A tenth of what `FromDatetime` costs, which the constructors of messages call too."""
    if moment is None:
        return None
    return timestamp_pb2.Timestamp(seconds=floor(moment.timestamp()), nanos=moment.microsecond * 1000)


def from_duration(span: timedelta | None) -> duration_pb2.Duration | None:
    if span is None:
        return None
    duration = duration_pb2.Duration()
    duration.FromTimedelta(span)
    return duration


def from_job(job: Job) -> job_pb2.Job:
    return job_pb2.Job(
        job_id=job.job_id,
        type=job.type,
        project_id=job.project_id,
        state=job_pb2.JobState.ValueType(job.state),
        priority=job.priority,
        payload=job.payload,
        result=job.result,
        progress=_from_progress(job.progress),
        last_failure=_from_failure(job.last_failure),
        attempt=job.attempt,
        max_attempts=job.max_attempts,
        stall_count=job.stall_count,
        max_stalls=job.max_stalls,
        fencing_token=job.fencing_token,
        worker_id=job.worker_id,
        limit_key=job.limit_key,
        parent_job_id=job.parent_job_id,
        cancel_requested=job.cancel_requested and not job.state.terminal,
        traceparent=job.traceparent,
        create_time=from_time(job.create_time),
        update_time=from_time(job.update_time),
        schedule_time=from_time(job.schedule_time),
        start_time=from_time(job.start_time),
        end_time=from_time(job.end_time),
        lease_expire_time=from_time(job.lease_expire_time),
    )


def _from_progress(progress: Progress | None) -> job_pb2.JobProgress | None:
    if progress is None:
        return None
    return job_pb2.JobProgress(
        completed_count=progress.completed_count, total_count=progress.total_count, message=progress.message
    )


def _from_failure(failure: Failure | None) -> job_pb2.JobFailure | None:
    if failure is None:
        return None
    return job_pb2.JobFailure(
        reason=error_reason_pb2.ErrorReason.ValueType(failure.reason),
        message=failure.message,
        attempt=failure.attempt,
        fail_time=from_time(failure.fail_time),
    )


def from_create_results(results: Iterable[CreateResult]) -> scheduler_service_pb2.CreateJobsResponse:
    """Results are made where they stay: to make each apart and copy it costs three times as much."""
    response = scheduler_service_pb2.CreateJobsResponse()
    for result in results:
        message = response.results.add(job_id=result.job_id, created=result.created)
        if result.refusal is not None:
            message.failure.CopyFrom(to_item_failure(result.refusal))
    return response


def to_schedule(schedule: scheduler_service_pb2.Schedule) -> Schedule:
    if schedule.job.job_id:
        raise InvalidRequest.of("schedule.job.job_id", "must be empty: every firing makes a job of its own")
    refuse_nul(schedule.schedule_id, field="schedule.schedule_id")
    refuse_nul(schedule.job.project_id, field="schedule.job.project_id")
    refuse_nul(schedule.job.limit_key, field="schedule.job.limit_key")
    return Schedule(
        schedule_id=schedule.schedule_id,
        cron=" ".join(schedule.cron.replace("\x00", " ").split()),
        type=schedule.job.type,
        project_id=schedule.job.project_id,
        priority=schedule.job.priority,
        payload=json_object(schedule.job.payload, field="schedule.job.payload"),
        limit_key=schedule.job.limit_key,
        max_attempts=schedule.job.max_attempts,
        missed_fire_policy=MissedFirePolicy(schedule.missed_fire_policy or MissedFirePolicy.FIRE_ONCE),
        paused=schedule.paused,
    )


def from_schedule(schedule: Schedule) -> scheduler_service_pb2.Schedule:
    return scheduler_service_pb2.Schedule(
        schedule_id=schedule.schedule_id,
        cron=schedule.cron,
        job=job_pb2.JobSpec(
            type=schedule.type,
            project_id=schedule.project_id,
            priority=schedule.priority,
            payload=schedule.payload,
            limit_key=schedule.limit_key,
            max_attempts=schedule.max_attempts,
        ),
        missed_fire_policy=scheduler_service_pb2.MissedFirePolicy.ValueType(schedule.missed_fire_policy),
        paused=schedule.paused,
        next_fire_time=from_time(schedule.next_fire_time),
        last_fire_time=from_time(schedule.last_fire_time),
    )


def from_queue(queue: QueueStats) -> scheduler_service_pb2.QueueStats:
    return scheduler_service_pb2.QueueStats(
        type=queue.type,
        project_id=queue.project_id,
        ready_count=queue.ready_count,
        scheduled_count=queue.scheduled_count,
        running_count=queue.running_count,
        dead_count=queue.dead_count,
        oldest_ready_age=from_duration(queue.oldest_ready_age),
        paused=queue.paused,
    )


def from_durations(stats: DurationStats) -> scheduler_service_pb2.DurationStats:
    return scheduler_service_pb2.DurationStats(
        type=stats.type,
        completed_count=stats.completed_count,
        average=from_duration(stats.average),
        minimum=from_duration(stats.minimum),
        maximum=from_duration(stats.maximum),
        p50=from_duration(stats.p50),
        p95=from_duration(stats.p95),
    )


class LeaseWriter:
    """Writes leased jobs. Those of one type that were leased together differ in little, and start as copies."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        self._drafts: dict[tuple[str, datetime, datetime | None], job_pb2.LeasedJob] = {}

    def write(self, jobs: Iterable[LeasedJob]) -> worker_service_pb2.JobLeases:
        return worker_service_pb2.JobLeases(jobs=[self._write(job) for job in jobs])

    def _write(self, job: LeasedJob) -> job_pb2.LeasedJob:
        key = job.type, job.lease_expire_time, job.deadline_time
        leased = job_pb2.LeasedJob()
        leased.CopyFrom(self._drafts.get(key) or self._draft(key))
        leased.lease.job_id = job.lease.job_id
        leased.lease.fencing_token = job.lease.fencing_token
        leased.project_id = job.project_id
        leased.payload = job.payload
        leased.attempt = job.attempt
        leased.stall_count = job.stall_count
        leased.checkpoint = job.checkpoint
        leased.traceparent = job.traceparent
        leased.parent_job_id = job.parent_job_id
        leased.limit_key = job.limit_key
        return leased

    def _draft(self, key: tuple[str, datetime, datetime | None]) -> job_pb2.LeasedJob:
        job_type, lease_expire_time, deadline_time = key
        policy = self._policies.of(job_type)
        if len(self._drafts) >= _DRAFTS:
            self._drafts.clear()
        draft = self._drafts[key] = job_pb2.LeasedJob(
            type=job_type,
            lease_duration=from_duration(policy.lease_duration),
            heartbeat_interval=from_duration(policy.heartbeat),
            lease_expire_time=from_time(lease_expire_time),
            deadline_time=from_time(deadline_time),
        )
        return draft


def from_renewed(renewed: Renewed) -> worker_service_pb2.LeaseDirective:
    return worker_service_pb2.LeaseDirective(
        job_id=renewed.lease.job_id,
        directive=worker_service_pb2.Directive.ValueType(renewed.directive),
        lease_expire_time=from_time(renewed.lease_expire_time),
    )


def from_settled(settled: Settled) -> worker_service_pb2.JobOutcome:
    return worker_service_pb2.JobOutcome(
        job_id=settled.lease.job_id,
        state=job_pb2.JobState.ValueType(settled.state or 0),
        failure=to_item_failure(settled.failure) if settled.failure else None,
    )
