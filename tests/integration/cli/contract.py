"""All services of the contract that the command calls, in memory, on one real gRPC server with the suite's own chain.

Content decides what becomes of a source: empty and binary ones are skipped, `POISON` fails, `STUCK` never begins,
`TWICE` keeps its job failing for good while the source stays open. Every other line is a fact.
"""

# ruff: noqa: ARG002, N802 - methods and parameters are named by the contract

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from scristill.errors.v1 import error_reason_pb2, item_failure_pb2
from scristill.extractor.v1 import (
    consistency_service_pb2,
    consistency_service_pb2_grpc,
    extraction_service_pb2,
    extraction_service_pb2_grpc,
    project_service_pb2,
    project_service_pb2_grpc,
    source_service_pb2,
    source_service_pb2_grpc,
)
from scristill.extractor.v1.extraction_pb2 import Extraction, SourceQuote
from scristill.extractor.v1.project_pb2 import Project
from scristill.extractor.v1.source_pb2 import Source, SourceSpec, SourceState
from scristill.indexer.v1 import search_service_pb2, search_service_pb2_grpc
from scristill.indexer.v1.fact_pb2 import Evidence, FactContent
from scristill.scheduler.v1 import scheduler_service_pb2, scheduler_service_pb2_grpc
from scristill.scheduler.v1.job_pb2 import Job, JobState

from services.shared import errors
from services.shared.grpc.info import ServerInfo
from services.shared.grpc.interceptors.chain import build_chain
from services.shared.grpc.server import GrpcServer, ServerOptions, register
from services.shared.telemetry.metrics import Metrics

TOO_LARGE = 6_000_000
OPEN = (SourceState.SOURCE_STATE_PENDING, SourceState.SOURCE_STATE_EXTRACTING)


@dataclass
class Contract:
    port: int = 0
    projects: dict[str, Project] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    facts: dict[str, list[Extraction]] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    uploads: list[list[int]] = field(default_factory=list)
    traceparents: list[str] = field(default_factory=list)
    refusals: list[errors.ServiceError] = field(default_factory=list)
    """Raised by the next calls of CreateSources, one each."""
    pending_intents: int = 0
    working: asyncio.Event = field(default_factory=asyncio.Event)
    """Jobs wait for it."""
    events: list[Job] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    drains: int = 0
    watch_tokens: list[str] = field(default_factory=list)
    watches_open_late: bool = False
    """Only once some job is dead."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: GrpcServer | None = None

    async def start(self) -> None:
        self._server = GrpcServer(
            options=ServerOptions(port=self.port),
            chain=build_chain(
                metrics=Metrics(), classify=lambda _: None, default_deadline_seconds=10, max_concurrent_rpcs=100
            ),
            info=ServerInfo(service="contract", version="0", capabilities=()),
            registrations=[
                register(project_service_pb2_grpc.add_ProjectServiceServicer_to_server, Projects(self)),
                register(source_service_pb2_grpc.add_SourceServiceServicer_to_server, Sources(self)),
                register(extraction_service_pb2_grpc.add_ExtractionServiceServicer_to_server, Extractions(self)),
                register(consistency_service_pb2_grpc.add_ConsistencyServiceServicer_to_server, Consistency(self)),
                register(scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server, Scheduler(self)),
                register(search_service_pb2_grpc.add_SearchServiceServicer_to_server, Search(self)),
            ],
        )
        self.port = await self._server.start()

    async def stop(self) -> None:
        """At once, as a process that is killed."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def close(self) -> None:
        await self.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def environment(self) -> dict[str, str]:
        address = f"127.0.0.1:{self.port}"
        return {f"SCRISTILL_{name}_ADDRESS": address for name in ("SCHEDULER", "EXTRACTOR", "INDEXER")}

    def add_project(self, name: str) -> Project:
        project = Project(project_id=str(uuid.uuid4()), display_name=name)
        project.schema.template = "default"
        self.projects[project.project_id] = project
        return project

    def take(self, project_id: str, spec: SourceSpec, content: bytes) -> source_service_pb2.CreateSourceResult:
        if len(content) > TOO_LARGE:
            failure = item_failure_pb2.ItemFailure(
                code=3, reason=error_reason_pb2.ERROR_REASON_TOO_LARGE, message="larger than allowed"
            )
            return source_service_pb2.CreateSourceResult(failure=failure)
        source_id = str(uuid.uuid5(uuid.UUID(project_id), spec.uri))
        if self.contents.get(source_id) == content:
            return source_service_pb2.CreateSourceResult(source=self.sources[source_id])
        source = Source(
            source_id=source_id,
            project_id=project_id,
            uri=spec.uri,
            group=spec.group,
            state=SourceState.SOURCE_STATE_PENDING,
            version=1,
            job_id=str(uuid.uuid4()),
        )
        if source_id in self.sources:
            source.version = self.sources[source_id].version + 1
        if not content:
            source.state, source.message = SourceState.SOURCE_STATE_SKIPPED, "the file is empty"
        self.contents[source_id] = content
        self.sources[source_id] = source
        if content:
            self._spawn(source, content)
        return source_service_pb2.CreateSourceResult(source=source, changed=True)

    def _spawn(self, source: Source, content: bytes) -> None:
        task = asyncio.create_task(self._extract(source, content))
        self._tasks.add(task)

    async def _extract(self, source: Source, content: bytes) -> None:
        job = Job(job_id=source.job_id, type="extract", project_id=source.project_id, attempt=1, max_attempts=5)
        await self.publish(job, JobState.JOB_STATE_PENDING)
        await self.working.wait()
        if b"STUCK" in content:
            return
        source.state = SourceState.SOURCE_STATE_EXTRACTING
        job.progress.total_count = source.chunk_count = 2
        for done in (1, 2):
            job.progress.completed_count = done
            await self.publish(job, JobState.JOB_STATE_RUNNING)
        if b"TWICE" in content:
            await self.publish(job, JobState.JOB_STATE_DEAD)
        elif b"\x00" in content:
            source.state, source.message = SourceState.SOURCE_STATE_SKIPPED, "not text"
            await self.publish(job, JobState.JOB_STATE_SUCCEEDED)
        elif b"POISON" in content:
            source.state, source.message = SourceState.SOURCE_STATE_FAILED, "damaged"
            await self.publish(job, JobState.JOB_STATE_FAILED)
        else:
            self._keep_facts(source, content.decode())
            await self.publish(job, JobState.JOB_STATE_SUCCEEDED)

    def _keep_facts(self, source: Source, text: str) -> None:
        facts: list[Extraction] = []
        start = 0
        for line in text.splitlines(keepends=True):
            quote = line.rstrip("\n")
            facts.append(
                Extraction(
                    extraction_id=str(uuid.uuid4()),
                    project_id=source.project_id,
                    source_id=source.source_id,
                    statement=quote,
                    quote=SourceQuote(text=quote, start=start, end=start + len(quote)),
                    embedding_id=str(uuid.uuid4()),
                )
            )
            start += len(line)
        self.facts[source.source_id] = facts
        source.state = SourceState.SOURCE_STATE_EXTRACTED
        source.extraction_count = source.indexed_count = len(facts)
        source.extracted_chunk_count = source.chunk_count

    async def publish(self, job: Job, state: JobState.ValueType) -> None:
        job.state = state
        snapshot = Job()
        snapshot.CopyFrom(job)
        async with self.changed:
            self.jobs[job.job_id] = snapshot
            self.events.append(snapshot)
            self.changed.notify_all()

    async def drain_watches(self) -> None:
        async with self.changed:
            self.drains += 1
            self.changed.notify_all()


class _Servicer:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract


class Projects(_Servicer, project_service_pb2_grpc.ProjectServiceServicer):
    async def CreateProject(self, request, context):
        for project in self._contract.projects.values():
            if project.display_name == request.project.display_name:
                raise errors.AlreadyExists.of("project", project.project_id)
        project = self._contract.add_project(request.project.display_name)
        return project_service_pb2.CreateProjectResponse(project=project)

    async def GetProject(self, request, context):
        for project in self._contract.projects.values():
            if request.project_id == project.project_id or request.display_name == project.display_name:
                return project_service_pb2.GetProjectResponse(project=project)
        raise errors.NotFound.of("project", request.project_id or request.display_name)

    async def ListProjects(self, request, context):
        return project_service_pb2.ListProjectsResponse(projects=reversed(self._contract.projects.values()))


class Sources(_Servicer, source_service_pb2_grpc.SourceServiceServicer):
    async def CreateSources(self, request, context):
        contract = self._contract
        contract.traceparents += [value for key, value in context.invocation_metadata() if key == "traceparent"]
        if contract.refusals:
            raise contract.refusals.pop(0)
        contract.batches.append(len(request.sources))
        results = [contract.take(request.project_id, each.spec, each.data) for each in request.sources]
        return source_service_pb2.CreateSourcesResponse(results=results)

    async def UploadSource(self, request_iterator, context):
        header, chunks = None, []
        async for frame in request_iterator:
            if frame.HasField("header"):
                header = frame.header
                if header.size_bytes > TOO_LARGE:
                    raise errors.TooLarge("larger than allowed")
            else:
                chunks.append(frame.chunk)
        if header.size_bytes != sum(map(len, chunks)):
            raise errors.InvalidRequest.of("header.size_bytes", "is not the size of what was sent")
        self._contract.uploads.append([len(chunk) for chunk in chunks])
        result = self._contract.take(header.project_id, header.spec, b"".join(chunks))
        return source_service_pb2.UploadSourceResponse(result=result)

    async def GetSource(self, request, context):
        text = self._contract.contents[request.source_id].decode()
        return source_service_pb2.GetSourceResponse(source=self._contract.sources[request.source_id], text=text)

    async def ListSources(self, request, context):
        """Two per page, to exercise the paging."""
        start = int(request.page_token or 0)
        wanted = [
            source
            for source in self._contract.sources.values()
            if source.project_id == request.project_id and (not request.states or source.state in request.states)
        ]
        more = str(start + 2) if start + 2 < len(wanted) else ""
        return source_service_pb2.ListSourcesResponse(sources=wanted[start : start + 2], next_page_token=more)


class Extractions(_Servicer, extraction_service_pb2_grpc.ExtractionServiceServicer):
    async def ListExtractions(self, request, context):
        chosen = list(request.filter.source_ids) or list(self._contract.facts)
        facts = [fact for source_id in chosen for fact in self._contract.facts.get(source_id, [])]
        start = int(request.page_token or 0)
        end = start + (request.page_size or 50)
        more = str(end) if end < len(facts) else ""
        return extraction_service_pb2.ListExtractionsResponse(extractions=facts[start:end], next_page_token=more)


class Consistency(_Servicer, consistency_service_pb2_grpc.ConsistencyServiceServicer):
    async def GetConsistency(self, request, context):
        contract = self._contract
        counted = [s for s in contract.sources.values() if request.project_id in ("", s.project_id)]
        fact_count = sum(source.extraction_count for source in counted)
        return consistency_service_pb2.GetConsistencyResponse(
            fact_count=fact_count,
            indexed_count=fact_count - contract.pending_intents,
            pending_intent_count=contract.pending_intents,
            open_source_count=sum(source.state in OPEN for source in counted),
        )


class Scheduler(_Servicer, scheduler_service_pb2_grpc.SchedulerServiceServicer):
    async def ListJobs(self, request, context):
        found = [job for job in reversed(self._contract.jobs.values()) if _matches(request.filter, job)]
        token = str(len(self._contract.events))
        return scheduler_service_pb2.ListJobsResponse(jobs=found, resume_token=token)

    async def CancelJob(self, request, context):
        job = self._contract.jobs.get(request.job_id)
        if job is None:
            raise errors.NotFound.of("job", request.job_id)
        await self._contract.publish(job, JobState.JOB_STATE_CANCELLED)
        return scheduler_service_pb2.CancelJobResponse(job=job, affected_count=1)

    async def WatchJobs(self, request, context) -> AsyncIterator[scheduler_service_pb2.WatchJobsResponse]:
        contract = self._contract
        contract.watch_tokens.append(request.resume_token)
        if contract.watches_open_late:
            async with contract.changed:
                await contract.changed.wait_for(
                    lambda: JobState.JOB_STATE_DEAD in {job.state for job in contract.events}
                )
        position, drains = int(request.resume_token or len(contract.events)), contract.drains
        frame = scheduler_service_pb2.WatchJobsResponse
        yield frame(resume_token=str(position), opened=scheduler_service_pb2.WatchOpened())
        if request.include_current and not request.resume_token:
            for job in list(contract.jobs.values()):
                if job.state in (JobState.JOB_STATE_PENDING, JobState.JOB_STATE_RUNNING):
                    yield frame(resume_token=str(position), event=scheduler_service_pb2.JobEvent(job=job))
        while True:
            while position < len(contract.events):
                job = contract.events[position]
                position += 1
                if _matches(request.filter, job):
                    yield frame(resume_token=str(position), event=scheduler_service_pb2.JobEvent(job=job))
            if contract.drains > drains:
                yield frame(resume_token=str(position), draining=scheduler_service_pb2.WatchDraining())
                return
            async with contract.changed:
                await contract.changed.wait_for(
                    lambda: position < len(contract.events) or contract.drains > drains  # noqa: B023, awaited at once
                )


class Search(_Servicer, search_service_pb2_grpc.SearchServiceServicer):
    async def Search(self, request, context):
        hits = [
            search_service_pb2.SearchHit(fact_id=fact.extraction_id, source_id=source_id, score=1.0, content=content)
            for source_id, facts in self._contract.facts.items()
            for fact in facts
            if request.query in fact.statement
            for content in [_content(fact, self._contract.sources[source_id])]
        ]
        return search_service_pb2.SearchResponse(hits=hits[: request.page_size], epoch=1)


def _content(fact: Extraction, source: Source) -> FactContent:
    evidence = Evidence(quote=fact.quote.text, start=fact.quote.start, end=fact.quote.end, context_after=" and more")
    return FactContent(statement=fact.statement, evidence=evidence, source_uri=source.uri)


def _matches(wanted: scheduler_service_pb2.JobFilter, job: Job) -> bool:
    return (
        (not wanted.job_ids or job.job_id in wanted.job_ids)
        and (not wanted.project_ids or job.project_id in wanted.project_ids)
        and (not wanted.states or job.state in wanted.states)
        and (not wanted.types or job.type in wanted.types)
    )
