"""One machine, one project under load, and what is waited for: the ground that all faults are played on."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc.aio
from qdrant_client import AsyncQdrantClient
from scristill.extractor.v1 import consistency_service_pb2 as consistency_pb
from scristill.extractor.v1 import project_service_pb2
from scristill.extractor.v1.project_service_pb2_grpc import ProjectServiceStub
from scristill.indexer.v1 import search_service_pb2
from scristill.indexer.v1.search_service_pb2_grpc import SearchServiceStub
from scristill.scheduler.v1 import job_pb2, scheduler_service_pb2
from scristill.scheduler.v1.scheduler_service_pb2_grpc import SchedulerServiceStub

from tests.chaos.library import ONE_TRY, Library, answered
from tests.chaos.verdict import Point, Verdict, certified, judged, live_points
from tests.support.invariants import Peers, check_at_rest
from tests.support.machine import Machine, running_machine
from tests.support.waiting import eventually

LOOK_SECONDS = 0.1
QDRANT_TIMEOUT_SECONDS = 2
SETTINGS = {
    "INDEXER_QDRANT_TIMEOUT_SECONDS": str(QDRANT_TIMEOUT_SECONDS),
    "EXTRACTOR_RELAY_LEASE_SECONDS": "5",
    "EXTRACTOR_RECONCILE_LOOK_SECONDS": "2",
    "EXTRACTOR_RECONCILE_SETTLE_SECONDS": "10",
}
"""Shorter than in production, so that what waits for them ends within a test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How long faults act, and how much is written meanwhile."""

    down_seconds: float
    repeats: int
    pause_seconds: float
    """Between two operations of the load."""
    rest_within: float


SHORT = Form(down_seconds=2.5, repeats=1, pause_seconds=0.1, rest_within=60.0)
LONG = Form(down_seconds=60.0, repeats=8, pause_seconds=0.05, rest_within=400.0)


def form() -> Form:
    return LONG if os.environ.get("CHAOS") == "long" else SHORT


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The machine and its clients."""

    machine: Machine
    peers: Peers
    projects: ProjectServiceStub
    jobs: SchedulerServiceStub
    search: SearchServiceStub
    qdrant: AsyncQdrantClient
    form: Form

    async def new_project(self, name: str) -> str:
        request = project_service_pb2.CreateProjectRequest(
            request_id=str(uuid4()), project=project_service_pb2.NewProject(display_name=name)
        )
        response = await answered(lambda: self.projects.CreateProject(request, timeout=ONE_TRY))
        return response.project.project_id

    async def scene(self, name: str, *, seed: str = "") -> "Scene":
        project_id = await self.new_project(name)
        library = Library(peers=self.peers, project_id=project_id, rng=random.Random(seed))
        return Scene(world=self, library=library, machine=self.machine, form=self.form)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    world: World
    machine: Machine
    library: Library
    form: Form

    @asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Writes, edits and deletes until the block ends; some facts are indexed when it begins."""
        await self.library.add(6)
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(stop), name="load")
            try:
                await self.indexes(40)
                yield
            finally:
                stop.set()

    async def consistency(self, project_id: str = "") -> consistency_pb.GetConsistencyResponse:
        request = consistency_pb.GetConsistencyRequest(project_id=project_id)
        return await answered(lambda: self.world.peers.consistency.GetConsistency(request, timeout=ONE_TRY))

    async def indexes(self, more: int) -> None:
        """Waits until so many facts more are acknowledged than were, net of deletions."""
        project_id = self.library.project_id
        floor = (await self.consistency(project_id)).indexed_count + more

        async def reached() -> bool:
            return (await self.consistency(project_id)).indexed_count >= floor

        await eventually(reached, within=self.form.rest_within, every=LOOK_SECONDS)

    async def waits(self, intents: int = 20) -> None:
        """Waits until the fault is felt: so many intents cannot leave."""

        async def backed_up() -> bool:
            return (await self.consistency(self.library.project_id)).pending_intent_count >= intents

        await eventually(backed_up, within=self.form.rest_within, every=LOOK_SECONDS)

    async def last_run(self) -> str:
        """Of the newest reconciliation that has ended well."""
        return (await self.consistency()).certificate.run_id

    async def reconciled_since(self, run_id: str) -> None:
        """Waits until a newer reconciliation has ended, which nobody asked for."""

        async def newer() -> bool:
            return await self.last_run() != run_id

        await eventually(newer, within=self.form.rest_within, every=LOOK_SECONDS)

    async def token(self) -> str:
        return (await self.consistency(self.library.project_id)).consistency_token

    async def search(self, source_ids: Sequence[str], *, token: str) -> set[str]:
        """Statements of these sources that a search with the token finds, whenever it is answered."""
        request = search_service_pb2.SearchRequest(
            project_id=self.library.project_id,
            query="Der Dampfer verbindet die Insel mit der Stadt.",
            filter=search_service_pb2.SearchFilter(source_ids=source_ids),
            page_size=100,
            consistency_token=token,
        )
        response = await answered(lambda: self.world.search.Search(request, timeout=ONE_TRY))
        return {hit.content.statement for hit in response.hits}

    async def live_points(self) -> list[Point]:
        return await live_points(self.world.qdrant, self.library.project_id)

    async def rest(self) -> None:
        """Waits until nothing is left to do: no open source, no intent, no job."""

        async def resting() -> bool:
            state = await self.consistency()
            assert (state.open_source_count, state.pending_intent_count) == (0, 0)
            assert (open_jobs := await self._open_jobs()) == [], open_jobs
            return True

        await eventually(resting, within=self.form.rest_within, every=LOOK_SECONDS)

    async def check(self, *, repairs: bool = False) -> None:
        """At rest all is true; with `repairs`, after a reconciliation that may have found something."""
        await self.rest()
        if repairs:
            await certified(self.world.peers)
            await self.rest()
        verdict = await self.verdict()
        assert verdict.holds, verdict
        await check_at_rest(self.world.peers, self.library.project_id)

    async def verdict(self) -> Verdict:
        return await judged(
            self.world.peers,
            self.world.qdrant,
            self.library.shelf,
            self.library.project_id,
            await certified(self.world.peers),
        )

    async def _work(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.library.step()
            await asyncio.sleep(self.form.pause_seconds)

    async def _open_jobs(self) -> list[str]:
        request = scheduler_service_pb2.ListJobsRequest(
            filter=scheduler_service_pb2.JobFilter(
                project_ids=[self.library.project_id], states=[job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING]
            )
        )
        response = await answered(lambda: self.world.jobs.ListJobs(request, timeout=ONE_TRY))
        return [job.job_id for job in response.jobs]


@asynccontextmanager
async def running_world(root: Path, form: Form) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        machine = await stack.enter_async_context(running_machine(root, SETTINGS))
        ports = machine.layout.ports
        peers = await stack.enter_async_context(
            Peers.of({"EXTRACTOR_PORT": str(ports["extractor"]), "INDEXER_PORT": str(ports["indexer"])})
        )
        extractor, scheduler, indexer = [
            await stack.enter_async_context(grpc.aio.insecure_channel(machine.layout.address(name)))
            for name in ("extractor", "scheduler", "indexer")
        ]
        qdrant = AsyncQdrantClient(
            host="127.0.0.1", grpc_port=ports["qdrant"], prefer_grpc=True, check_compatibility=False
        )
        stack.push_async_callback(qdrant.close)
        yield World(
            machine=machine,
            peers=peers,
            projects=ProjectServiceStub(extractor),
            jobs=SchedulerServiceStub(scheduler),
            search=SearchServiceStub(indexer),
            qdrant=qdrant,
            form=form,
        )
