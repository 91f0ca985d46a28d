"""Watches an ingest until everything is extracted and indexed.

Chunks come from `WatchJobs`; sources, facts and the index from `GetConsistency`, which the extractor answers from
counts. Both speak of the whole project: what another client ingests into it at the same time counts too.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from uuid import UUID

from scristill.extractor.v1.consistency_service_pb2 import GetConsistencyResponse
from scristill.extractor.v1.source_pb2 import Source, SourceState
from scristill.scheduler.v1.job_pb2 import Job, JobState
from scristill.scheduler.v1.scheduler_service_pb2 import JobFilter

from services.cli.client.jobs import TERMINAL, Jobs
from services.cli.client.sources import OPEN_STATES, Sources
from services.cli.connection import patiently
from services.cli.documents import enum_name
from services.cli.ingest.outcome import Tally
from services.cli.telemetry import untraced

POLL_SECONDS = 0.4
STRANDED_SECONDS = 10.0
"""So long nothing may move before sources whose jobs have ended without success count as lost."""

_OPEN_JOBS = (JobState.JOB_STATE_PENDING, JobState.JOB_STATE_RUNNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    source_count: int
    source_done: int
    chunk_count: int
    """Of jobs that have begun."""
    chunk_done: int
    fact_count: int
    indexed_count: int
    pending_count: int


class ChunkProgress:
    """The last word on each job of the project."""

    def __init__(self) -> None:
        self._chunks: dict[str, tuple[int, int]] = {}
        self._unsuccessful: set[str] = set()
        self.done = 0
        self.total = 0

    def add(self, job: Job) -> None:
        known_done, known_total = self._chunks.get(job.job_id, (0, 0))
        total = job.progress.total_count
        done = total if job.state == JobState.JOB_STATE_SUCCEEDED else job.progress.completed_count
        self._chunks[job.job_id] = done, total
        self.done += done - known_done
        self.total += total - known_total
        if job.state in TERMINAL and job.state != JobState.JOB_STATE_SUCCEEDED:
            self._unsuccessful.add(job.job_id)
        else:
            self._unsuccessful.discard(job.job_id)

    @property
    def unsuccessful(self) -> int:
        """Jobs that have ended without success."""
        return len(self._unsuccessful)


class Follower:
    """`begin` before anything is sent; then `observe` is called a few times a second until `run` returns."""

    def __init__(
        self, *, sources: Sources, jobs: Jobs, project_id: str, tally: Tally, observe: Callable[[Progress], None]
    ) -> None:
        self._sources = sources
        self._jobs = jobs
        self._project_id = project_id
        self._tally = tally
        self._observe = observe
        self._chunks = ChunkProgress()
        self._jobs_from = ""

    async def begin(self) -> None:
        """Notes from where on jobs are watched: one that ends before the watch has opened must not be overlooked."""
        open_jobs = JobFilter(project_ids=[self._project_id], states=_OPEN_JOBS)
        page = await patiently(lambda: self._jobs.page(open_jobs))
        for job in page.jobs:
            self._chunks.add(job)
        self._jobs_from = page.resume_token

    async def run(self) -> None:
        """Returns when the tally is complete, no source of the project is open and no intent waits."""
        with untraced():
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(), name="watch-jobs")
                await self._poll()
                watch.cancel()

    async def _watch(self) -> None:
        watched = JobFilter(project_ids=[self._project_id])
        async for job in self._jobs.watch(watched, resume_token=self._jobs_from, patient=True):
            self._chunks.add(job)

    async def _poll(self) -> None:
        last: Progress | None = None
        moved = time.monotonic()
        while True:
            # Read before the call: what was sent by then, the answer knows.
            complete, asked = self._tally.complete, time.monotonic()
            counts = await patiently(lambda: self._sources.consistency(self._project_id))
            took = time.monotonic() - asked
            progress = self._progress(counts)
            if progress != last:
                last, moved = progress, time.monotonic()
            self._observe(progress)
            if complete and counts.pending_intent_count == 0:
                stranded = counts.open_source_count <= self._chunks.unsuccessful
                if counts.open_source_count == 0 or (stranded and time.monotonic() > moved + STRANDED_SECONDS):
                    return
            # Where counting takes long, it is done seldom.
            await asyncio.sleep(max(POLL_SECONDS, 10 * took))

    def _progress(self, counts: GetConsistencyResponse) -> Progress:
        accepted = len(self._tally.accepted)
        return Progress(
            source_count=accepted,
            source_done=max(0, accepted - counts.open_source_count),
            chunk_count=self._chunks.total,
            chunk_done=self._chunks.done,
            fact_count=counts.fact_count,
            indexed_count=counts.indexed_count,
            pending_count=counts.pending_intent_count,
        )


@dataclass(slots=True, kw_only=True)
class Result:
    """What the sources of one ingest have become."""

    states: Counter[str] = field(default_factory=Counter[str])
    chunk_count: int = 0
    fact_count: int = 0
    indexed_count: int = 0
    ungrounded_count: int = 0
    exceptions: list[Source] = field(default_factory=list[Source])
    """Neither extracted whole nor still open by another's doing: failed, partial, skipped, or without a living job."""

    def add(self, source: Source) -> None:
        self.states[enum_name(SourceState.DESCRIPTOR, source.state)] += 1
        self.chunk_count += source.chunk_count
        self.fact_count += source.extraction_count
        self.indexed_count += source.indexed_count
        self.ungrounded_count += source.ungrounded_count
        if source.state != SourceState.SOURCE_STATE_EXTRACTED:
            self.exceptions.append(source)

    @property
    def failed(self) -> bool:
        return any(source.state != SourceState.SOURCE_STATE_SKIPPED for source in self.exceptions)


async def result_of(accepted: set[UUID], listed: AsyncIterator[Source]) -> Result:
    """Reads the list only as far as the sources sought reach."""
    result = Result()
    missing = set(accepted)
    if not missing:
        return result
    async for source in listed:
        if (source_id := UUID(source.source_id)) in missing:
            missing.discard(source_id)
            result.add(source)
        if not missing:
            break
    return result


def reason_of(source: Source) -> str:
    if source.message:
        return source.message
    return "its job ended without success" if source.state in OPEN_STATES else ""
