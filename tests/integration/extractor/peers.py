"""The extractor's peers as small real gRPC servers that keep their contract, with knobs for faults."""

# ruff: noqa: N802 - methods are named by gRPC

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import grpc
import grpc.aio
from scristill.errors.v1 import error_reason_pb2, item_failure_pb2
from scristill.indexer.v1 import fact_pb2, indexer_service_pb2_grpc
from scristill.indexer.v1 import indexer_service_pb2 as index_pb
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as model_pb
from scristill.llm_gateway.v1 import llm_gateway_service_pb2_grpc
from scristill.scheduler.v1 import job_pb2, scheduler_service_pb2_grpc
from scristill.scheduler.v1 import scheduler_service_pb2 as job_pb

from services.shared import ids
from services.shared.errors import PreconditionFailed, Reason, ServiceError, Unavailable
from services.shared.grpc import errors

SENTENCE = re.compile(r"[A-Z][^.!?]*[.!?]")


def facts_of(text: str) -> dict[str, Any]:
    """One fact and one entity per sentence: what a model would answer by the default template."""
    facts, entities = [], []
    for sentence in SENTENCE.findall(text):
        words = sentence.rstrip(".!?").split()
        if len(words) < 3:
            continue
        facts.append(
            {
                "subject": words[0],
                "predicate": words[1],
                "object": " ".join(words[2:]),
                "statement": sentence,
                "category": "other",
                "quote": sentence,
            }
        )
        entities.append({"name": words[0], "type": "person", "quote": words[0]})
    return {"facts": facts, "entities": entities}


def paragraphs(count: int, *, marker: str = "") -> str:
    """A document of about `count` chunks, each paragraph with a sentence of its own."""
    filler = "and this part of the sentence only fills the paragraph up " * 16
    return "\n\n".join(f"Person{n} visited town{n}{marker if n == count // 2 else ''} {filler}." for n in range(count))


async def abort(context: grpc.aio.ServicerContext, error: ServiceError) -> None:
    status = errors.to_status(error)
    await context.abort(
        errors.status_code(error.code), status.message, ((errors.DETAILS_KEY, status.SerializeToString()),)
    )


class OutputInvalid(PreconditionFailed):
    reason = Reason.OUTPUT_INVALID


class ScopeDeleted(PreconditionFailed):
    reason = Reason.SCOPE_DELETED


@dataclass(slots=True, kw_only=True)
class ScriptedGateway(llm_gateway_service_pb2_grpc.LlmGatewayServiceServicer):
    """Pays once per `request_id` and stores the answer. `failures` are raised by the next calls, one each.

    A scope that was deleted is refused. So many deletions as `cache_down` says fail, the last one for one item alone.
    """

    answer: Callable[[str], Any] = facts_of
    failures: list[ServiceError] = field(default_factory=list)
    refuse: Callable[[str], bool] = lambda _text: False
    paid: Counter[str] = field(default_factory=Counter)
    texts: list[str] = field(default_factory=list)
    calls: int = 0
    stored: dict[str, str] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[model_pb.GenerateRequest] = field(default_factory=list)
    deleted: dict[str, int] = field(default_factory=dict)
    cache_down: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    async def Generate(
        self, request: model_pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[model_pb.GenerateResponse]:
        self.calls += 1
        self.requests.append(request)
        self.arrived.set()
        if self.failures:
            await abort(context, self.failures.pop(0))
        if request.scope in self.deleted:
            await abort(context, ScopeDeleted("the scope was deleted"))
        text = request.prompt.documents[0].text
        if self.refuse(text):
            await abort(context, OutputInvalid("the output does not match"))
        await self.gate.wait()
        if request.request_id not in self.stored:
            self.paid[request.request_id] += 1
            self.texts.append(text)
            self.stored[request.request_id] = json.dumps(self.answer(text))
        output = self.stored[request.request_id]
        yield model_pb.GenerateResponse(started=model_pb.GenerationStarted(provider="scripted", attempt=1))
        yield model_pb.GenerateResponse(delta=model_pb.GenerationDelta(seq=1, text=output))
        yield model_pb.GenerateResponse(done=model_pb.GenerationDone(last_seq=1, model="scripted-1"))

    async def DeleteCachedResults(
        self, request: model_pb.DeleteCachedResultsRequest, context: grpc.aio.ServicerContext
    ) -> model_pb.DeleteCachedResultsResponse:
        if self.cache_down > 1:
            self.cache_down -= 1
            await abort(context, Unavailable.of("redis"))
        response = model_pb.DeleteCachedResultsResponse()
        for scope in request.scopes:
            result = response.results.add(scope=scope)
            if self.cache_down:
                self.cache_down -= 1
                result.failure.code, result.failure.reason = 14, error_reason_pb2.ERROR_REASON_DEPENDENCY_UNAVAILABLE
                continue
            kept = {each.request_id for each in self.requests if each.scope == scope}
            found = [self.stored.pop(each) for each in kept if each in self.stored]
            self.deleted[scope] = self.deleted.get(scope, 0) + len(found)
            result.result_count = self.deleted[scope]
        return response


@dataclass(slots=True, kw_only=True)
class Point:
    version: int
    content_hash: bytes
    tombstone: bool
    project_id: str = ""
    source_id: str = ""
    epoch: int = 1
    content: fact_pb2.FactContent | None = None


@dataclass(slots=True, kw_only=True)
class ScriptedIndexer(indexer_service_pb2_grpc.IndexerServiceServicer):
    """Applies intents by the version guard, as Qdrant would.

    `break_after_apply` breaks that many streams after a batch is applied and before it is acknowledged; `retry`
    answers RETRY that often; beyond `live_limit` nothing more is taken for now; `reject` names statements that are
    never taken; `twice` acknowledges everything twice; with `hold` acknowledgements wait for the gate; the last of
    `epochs` is the one that is searched.
    """

    points: dict[str, Point] = field(default_factory=dict)
    received: list[fact_pb2.FactIntent] = field(default_factory=list)
    break_after_apply: int = 0
    retry: int = 0
    reject: set[str] = field(default_factory=set)
    rejection: str = "nothing to embed"
    twice: bool = False
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    max_in_flight: int = 2000
    streams: int = 0
    drain_next: bool = False
    scans: list[index_pb.ScanDigestsRequest] = field(default_factory=list)
    scans_fail: bool = False
    list_fails: bool = False
    live_limit: int | None = None
    scan_gate: asyncio.Event = field(default_factory=asyncio.Event)
    listed: int = 0
    list_gate: asyncio.Event = field(default_factory=asyncio.Event)
    epochs: list[int] = field(default_factory=lambda: [1])

    def __post_init__(self) -> None:
        self.gate.set()
        self.list_gate.set()
        self.scan_gate.set()

    @property
    def live(self) -> dict[str, Point]:
        return {fact_id: point for fact_id, point in self.points.items() if not point.tombstone}

    async def IndexFacts(
        self, requests: AsyncIterator[index_pb.IndexFactsRequest], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[index_pb.IndexFactsResponse]:
        self.streams += 1
        count = 0
        async for request in requests:
            if request.WhichOneof("frame") == "open":
                yield index_pb.IndexFactsResponse(opened=index_pb.IndexStreamOpened(max_in_flight=self.max_in_flight))
                continue
            acks = [self._apply(intent) for intent in request.batch.intents]
            if self.break_after_apply:
                self.break_after_apply -= 1
                await abort(context, Unavailable.of("qdrant"))
            await self.gate.wait()
            for _ in range(2 if self.twice else 1):
                yield index_pb.IndexFactsResponse(acks=index_pb.IntentAcks(acks=acks))
            count += len(acks)
            if self.drain_next:
                self.drain_next = False
                yield index_pb.IndexFactsResponse(draining=index_pb.IndexStreamDraining())
        yield index_pb.IndexFactsResponse(done=index_pb.IndexStreamDone(acknowledged_count=count))

    async def ScanDigests(
        self, request: index_pb.ScanDigestsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[index_pb.ScanDigestsResponse]:
        self.scans.append(request)
        if self.scans_fail:
            await abort(context, Unavailable.of("qdrant"))
        await self.scan_gate.wait()
        last = request.last_bucket or 4095
        buckets: dict[int, list[Point]] = {}
        digests: dict[int, int] = Counter()
        for fact_id, point in self.live.items():
            bucket = int(fact_id[:3], 16)
            if request.first_bucket <= bucket <= last:
                content = bytes.fromhex(fact_id.replace("-", "")) + point.version.to_bytes(8) + point.content_hash
                content += point.epoch.to_bytes(8) + bytes.fromhex(point.project_id.replace("-", ""))
                digest = sha256(content).digest()[:16]
                digests[bucket] ^= int.from_bytes(digest)
                buckets.setdefault(bucket, []).append(point)
        rows = [
            fact_pb2.BucketDigest(bucket=b, digest=digests[b].to_bytes(16), point_count=len(buckets.get(b, ())))
            for b in range(request.first_bucket, last + 1)
        ]
        yield index_pb.ScanDigestsResponse(digests=index_pb.BucketDigests(digests=rows))
        yield index_pb.ScanDigestsResponse(done=index_pb.DigestScanDone(epoch=request.epoch or 1))

    async def ListPoints(
        self, request: index_pb.ListPointsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[index_pb.ListPointsResponse]:
        if self.list_fails:
            await abort(context, Unavailable.of("qdrant"))
        wanted = set(request.buckets)
        points = [
            fact_pb2.IndexedPoint(
                fact_id=fact_id,
                version=point.version,
                content_hash=point.content_hash,
                epoch=point.epoch,
                project_id=point.project_id,
                source_id=point.source_id,
                tombstone=point.tombstone,
            )
            for fact_id, point in self.points.items()
            if int(fact_id[:3], 16) in wanted
        ]
        self.listed += len(points)
        await self.list_gate.wait()
        if points:
            yield index_pb.ListPointsResponse(points=index_pb.IndexedPoints(points=points))
        yield index_pb.ListPointsResponse(done=index_pb.PointListDone(point_count=len(points)))

    def _apply(self, intent: fact_pb2.FactIntent) -> fact_pb2.IntentAck:
        copy = fact_pb2.FactIntent()
        copy.CopyFrom(intent)
        self.received.append(copy)
        ack = fact_pb2.IntentAck(fact_id=intent.fact_id, version=intent.version)
        full = self.live_limit is not None and len(self.live) >= self.live_limit
        if self.retry or (full and intent.operation == fact_pb2.INTENT_OPERATION_UPSERT):
            self.retry = max(0, self.retry - 1)
            ack.outcome = fact_pb2.INTENT_OUTCOME_RETRY
            ack.failure.CopyFrom(item_failure_pb2.ItemFailure(code=14, message="try again"))
            return ack
        if intent.content.statement in self.reject:
            ack.outcome = fact_pb2.INTENT_OUTCOME_REJECTED
            ack.failure.CopyFrom(
                item_failure_pb2.ItemFailure(
                    code=3, reason=error_reason_pb2.ERROR_REASON_TEXT_EMPTY, message=self.rejection
                )
            )
            return ack
        known = self.points.get(intent.fact_id)
        if known is None or known.version < intent.version:
            self.points[intent.fact_id] = Point(
                version=intent.version,
                content_hash=intent.content_hash,
                tombstone=intent.operation == fact_pb2.INTENT_OPERATION_DELETE,
                project_id=intent.project_id,
                source_id=intent.source_id,
                content=copy.content,
            )
        elif known.version > intent.version:
            ack.outcome = fact_pb2.INTENT_OUTCOME_SUPERSEDED
            return ack
        elif known.content_hash != intent.content_hash:
            ack.outcome = fact_pb2.INTENT_OUTCOME_REJECTED
            ack.failure.code, ack.failure.reason = 6, error_reason_pb2.ERROR_REASON_RESOURCE_EXISTS
            return ack
        ack.outcome = fact_pb2.INTENT_OUTCOME_APPLIED
        ack.epochs.extend(self.epochs)
        if intent.operation == fact_pb2.INTENT_OPERATION_UPSERT:
            ack.embedding_id = str(ids.derived(ids.namespace("embedding"), self.epochs[-1], intent.fact_id))
            ack.embedding_epoch = self.epochs[-1]
        return ack


@dataclass(slots=True, kw_only=True)
class ScriptedScheduler(scheduler_service_pb2_grpc.SchedulerServiceServicer):
    """Keeps what it is asked to create and to cancel. `down` calls fail; None among `changes` ends their watch."""

    created: dict[str, Any] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    down: int = 0
    refuse_all: bool = False
    jobs: dict[str, job_pb2.Job] = field(default_factory=dict)
    traces: list[str] = field(default_factory=list)
    changes: asyncio.Queue[job_pb2.Job | None] = field(default_factory=asyncio.Queue)

    async def CreateJobs(
        self, request: job_pb.CreateJobsRequest, context: grpc.aio.ServicerContext
    ) -> job_pb.CreateJobsResponse:
        self.traces += [value for key, value in context.invocation_metadata() if key == "traceparent"]
        if self.down:
            self.down -= 1
            await abort(context, Unavailable.of("postgresql"))
        response = job_pb.CreateJobsResponse()
        for spec in request.jobs:
            result = response.results.add(job_id=spec.job_id, created=spec.job_id not in self.created)
            if self.refuse_all:
                result.failure.code = 3
                result.failure.reason = error_reason_pb2.ERROR_REASON_REQUEST_ID_REUSED
                continue
            self.created.setdefault(spec.job_id, spec)
        return response

    async def CancelJob(
        self, request: job_pb.CancelJobRequest, context: grpc.aio.ServicerContext
    ) -> job_pb.CancelJobResponse:
        if self.down:
            self.down -= 1
            await abort(context, Unavailable.of("postgresql"))
        self.cancelled.append(request.job_id)
        return job_pb.CancelJobResponse()

    async def ListJobs(
        self, request: job_pb.ListJobsRequest, context: grpc.aio.ServicerContext
    ) -> job_pb.ListJobsResponse:
        del context
        wanted = [self.jobs[job_id] for job_id in request.filter.job_ids if job_id in self.jobs]
        return job_pb.ListJobsResponse(jobs=wanted)

    async def WatchJobs(
        self, request: job_pb.WatchJobsRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[job_pb.WatchJobsResponse]:
        del context
        yield job_pb.WatchJobsResponse(opened=job_pb.WatchOpened())
        while (job := await self.changes.get()) is not None:
            if job.state in request.filter.states and job.type in request.filter.types:
                yield job_pb.WatchJobsResponse(event=job_pb.JobEvent(job=job))


@asynccontextmanager
async def serving(*peers: Any) -> AsyncIterator[str]:
    """`host:port` of one server for all of them."""
    server = grpc.aio.server()
    for peer in peers:
        if isinstance(peer, ScriptedGateway):
            llm_gateway_service_pb2_grpc.add_LlmGatewayServiceServicer_to_server(peer, server)
        elif isinstance(peer, ScriptedIndexer):
            indexer_service_pb2_grpc.add_IndexerServiceServicer_to_server(peer, server)
        else:
            scheduler_service_pb2_grpc.add_SchedulerServiceServicer_to_server(peer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
