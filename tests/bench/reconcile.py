"""Measures the comparison of PostgreSQL and Qdrant under live writes. The last line is one JSON object.

    python -m tests.bench.reconcile [--points N] [--single N]

Real engines, an indexer and an extractor as processes; the model is simulated. Both stores are filled in bulk, the
index through the engine's own library while its server is down; that is not measured.

- `single_drift_seconds`: one wrong point among `single`, from the call of `Reconcile` until the drift is streamed.
- `seconds`: one run over `points` of them with `drift_injected` drifts, a hundred of each kind, written straight into
  the stores, while facts arrive at 500/s through the ordinary way.
- `drift_repaired`: injected drifts that the run named by their kind and that are right in Qdrant afterwards.
- `false_repairs`: facts named that were not tampered with, and facts named by another kind.
- `rss_growth_mb`: the largest growth of a process, extractor or indexer, over what it had before the run.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import grpc.aio
import psutil
from scristill.extractor.v1 import consistency_service_pb2 as pb
from scristill.extractor.v1 import consistency_service_pb2_grpc as pb_grpc

from tests.bench.corpus import Corpus
from tests.bench.extraction import Extraction, running_extraction
from tests.bench.indexer_stack import Indexer, running_indexer, service, until_usable
from tests.bench.reconcile_stores import DIMENSION, Filling, Index, Tampering, fill_facts
from tests.integration.indexer.models import ScriptedModels, serving
from tests.support.engines import Engines

RATE_PER_SECOND = 500
FACTS_PER_COMMIT = 10
PER_KIND = 100
SETTLED_WITHIN = 60.0
KINDS = {
    pb.DRIFT_KIND_MISSING: "missing",
    pb.DRIFT_KIND_STALE: "stale",
    pb.DRIFT_KIND_GHOST: "ghost",
    pb.DRIFT_KIND_WRONG_EPOCH: "wrong_epoch",
    pb.DRIFT_KIND_WRONG_PAYLOAD: "wrong_payload",
    pb.DRIFT_KIND_WRONG_PROJECT: "wrong_project",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    index: Index
    indexer: Indexer
    desk: Extraction
    consistency: pb_grpc.ConsistencyServiceStub
    processes: Sequence[psutil.Process]
    filling: Filling


@dataclass(slots=True, kw_only=True)
class Found:
    """What a run has named, by fact, and when the first one came."""

    kinds: dict[UUID, str]
    seconds: float = 0.0
    first_seconds: float = 0.0


@asynccontextmanager
async def running() -> AsyncIterator[Bench]:
    async with AsyncExitStack() as stack:
        engines = stack.enter_context(Engines())
        index = Index(engines.root / "index")
        stack.callback(index.stop)
        await index.start()
        models = ScriptedModels(dimensions={"instant": DIMENSION}, default="instant")
        gateway = f"127.0.0.1:{await stack.enter_async_context(serving(models))}"
        indexer = await stack.enter_async_context(running_indexer(index.url, gateway))
        desk = await stack.enter_async_context(running_extraction(engines, indexer.address))
        environment = {
            "EXTRACTOR_DATABASE_URL": desk.url,
            "EXTRACTOR_INDEXER_ADDRESS": indexer.address,
            "EXTRACTOR_LLM_GATEWAY_ADDRESS": gateway,
            "EXTRACTOR_SCHEDULER_ADDRESS": gateway,
            # The facts are committed by this process, which has no relay to wake.
            "EXTRACTOR_RELAY_POLL_SECONDS": "0.05",
            "EXTRACTOR_RECONCILE_PERIOD_SECONDS": "1000000",
        }
        address, pid = await stack.enter_async_context(service("extractor", environment))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
        project_id = await desk.project()
        filling = Filling(project_id=project_id, sources=await desk.sources(project_id, 100))
        yield Bench(
            index=index,
            indexer=indexer,
            desk=desk,
            consistency=pb_grpc.ConsistencyServiceStub(channel),
            processes=[psutil.Process(pid), psutil.Process(indexer.pid)],
            filling=filling,
        )


async def fill(bench: Bench, first: int, last: int) -> None:
    started = time.perf_counter()
    await asyncio.to_thread(bench.index.fill, bench.filling, first, last)
    await fill_facts(bench.desk.sql, bench.filling, first, last)
    await bench.index.start()
    await until_usable(bench.indexer.client)
    print(f"filled {last - first} in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)


async def reconcile(bench: Bench) -> Found:
    found = Found(kinds={})
    started = time.perf_counter()
    async for frame in bench.consistency.Reconcile(pb.ReconcileRequest()):
        for drift in frame.drift.drifts:
            found.first_seconds = found.first_seconds or time.perf_counter() - started
            found.kinds[UUID(drift.fact_id)] = KINDS[drift.kind]
    found.seconds = time.perf_counter() - started
    return found


async def arriving(desk: Extraction, corpus: Corpus, stop: asyncio.Event) -> int:
    """Facts at a steady rate until told to stop; returns how many."""
    project_id = await desk.project()
    started = time.perf_counter()
    committed = 0
    async with asyncio.TaskGroup() as tasks:
        while not stop.is_set():
            (source_id,) = await desk.sources(project_id, 1)
            tasks.create_task(desk.commit(project_id, source_id, corpus.facts(FACTS_PER_COMMIT)))
            committed += FACTS_PER_COMMIT
            await asyncio.sleep(started + committed / RATE_PER_SECOND - time.perf_counter())
    return committed


async def growth(processes: Sequence[psutil.Process], stop: asyncio.Event) -> float:
    """In MB, the largest of any of the processes at any moment."""
    before = [process.memory_info().rss for process in processes]
    most = 0
    while not stop.is_set():
        now = [process.memory_info().rss for process in processes]
        most = max(most, *(after - known for after, known in zip(now, before, strict=True)))
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await stop.wait()
    return round(most / 1e6, 1)


async def single_drift(bench: Bench, points: int) -> float:
    tampering = Tampering(bench.desk.sql, bench.index, bench.filling)
    await tampering.wrong_payload([points // 2])
    found = await reconcile(bench)
    if found.kinds != tampering.injected:
        sys.exit(f"one wrong point was injected, found: {found.kinds}")
    await bench.desk.until_answered(within=SETTLED_WITHIN)
    return found.first_seconds


async def all_drifts(bench: Bench, points: int) -> dict[str, float]:
    tampering = Tampering(bench.desk.sql, bench.index, bench.filling)
    await tampering.all_kinds(points, PER_KIND)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        writes = tasks.create_task(arriving(bench.desk, Corpus(seed=1), stop))
        rss = tasks.create_task(growth(bench.processes, stop))
        await asyncio.sleep(1)
        found = await reconcile(bench)
        stop.set()
    print(f"{writes.result()} facts arrived in {found.seconds:.1f} s", file=sys.stderr)
    await bench.desk.until_answered(within=SETTLED_WITHIN)
    named = {fact_id for fact_id, kind in tampering.injected.items() if found.kinds.get(fact_id) == kind}
    wrong = [fact_id for fact_id, kind in found.kinds.items() if tampering.injected.get(fact_id) != kind]
    return {
        "seconds": round(found.seconds, 1),
        "rss_growth_mb": rss.result(),
        "drift_injected": len(tampering.injected),
        "drift_repaired": len(named & await tampering.repaired()),
        "false_repairs": len(wrong),
    }


async def measure(*, points: int, single: int) -> dict[str, float]:
    async with running() as bench:
        # Without a run that ended well one would begin by itself, while the stores are filled.
        await reconcile(bench)
        await fill(bench, 0, single)
        seconds = await single_drift(bench, single)
        print(f"one drift found in {seconds:.2f} s", file=sys.stderr, flush=True)
        await fill(bench, single, points)
        drifts = await all_drifts(bench, points)
    return {"points": points, **drifts, "single_drift_seconds": round(seconds, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.reconcile")
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--single", type=int, default=100_000)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(points=options.points, single=options.single))))


if __name__ == "__main__":
    main()
