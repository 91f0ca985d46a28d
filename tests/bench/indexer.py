"""Measures the way from a committed fact to a searchable one, on real engines and processes. The last line is JSON.

    python -m tests.bench.indexer [--facts N] [--corpus N] [--seconds N]

Gateway (WordLlama) and indexer are processes of their own; this one commits facts and relays them as an extractor does.

- `facts_per_s`: from the first commit of facts without vectors until each has its embedding id recorded.
- `vs_raw_client`: facts whose vectors are kept, from the outbox until recorded, against
  `AsyncQdrantClient.upsert(wait=True)` of the same vectors and payload into a collection with the same indexes; the
  points are made beforehand, and the two take turns so that both meet collections of the same size.
- `visible_p50_ms`, `visible_p99_ms`: from the commit to the acknowledgement at 500 facts/s, ten in a transaction; a
  sample is searched for at that moment and must be found.
- `search_p99_ms`: hybrid searches over `corpus` facts, the embedding of the query included.
"""

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit
from uuid import UUID

from qdrant_client import AsyncQdrantClient, models
from scristill.indexer.v1 import fact_pb2, search_service_pb2

from services.extractor.domain.facts import Fact
from services.extractor.domain.outbox import Acknowledgement, statement_hash
from services.indexer.adapters.bm25 import Bm25Encoder
from tests.bench.corpus import Corpus, percentile
from tests.bench.extraction import Extraction, rate, running_extraction
from tests.bench.indexer_stack import Stack, index, running_stack
from tests.integration.indexer.builders import IndexerClient

MODEL = "wordllama"
DIMENSION = 256
COLLECTION = "facts"
FACTS_PER_SOURCE = 100
COMMITS_AT_ONCE = 4
ROUNDS = 3
RAW_BATCH = 250
RAW_IN_FLIGHT = 4
RATE_PER_SECOND = 500
FACTS_PER_COMMIT = 10
SEARCHES = 500

Vectors = dict[UUID, "array[float]"]


async def embedded(desk: Extraction, corpus: Corpus, count: int) -> dict[str, float]:
    project_id = await desk.project()
    warm, *sources = await desk.sources(project_id, 1 + count // FACTS_PER_SOURCE)
    slots = asyncio.Semaphore(COMMITS_AT_ONCE)
    async with desk.relaying() as relay:

        async def publish(source_id: UUID, facts: Sequence[Fact]) -> None:
            async with slots:
                await desk.commit(project_id, source_id, facts)
                relay.wake()

        await publish(warm, corpus.facts(FACTS_PER_SOURCE))
        await desk.until_recorded([warm], FACTS_PER_SOURCE)
        documents = [(source_id, corpus.facts(FACTS_PER_SOURCE)) for source_id in sources]
        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for source_id, facts in documents:
                tasks.create_task(publish(source_id, facts))
        await desk.until_recorded(sources, len(sources) * FACTS_PER_SOURCE)
        return {"facts_per_s": round(rate(len(sources) * FACTS_PER_SOURCE, started))}


async def known_vectors(desk: Extraction, facts: Sequence[Fact], vectors: Vectors) -> float:
    """The facts and their vectors stand in the database before the relay begins."""
    project_id = await desk.project()
    sources = await desk.sources(project_id, len(facts) // FACTS_PER_SOURCE)
    for number, source_id in enumerate(sources):
        await desk.commit(project_id, source_id, facts[number * FACTS_PER_SOURCE : (number + 1) * FACTS_PER_SOURCE])
    rows = [(fact.fact_id, MODEL, statement_hash(fact.statement), vectors[fact.fact_id].tobytes()) for fact in facts]
    await desk.sql.copy_records_to_table("fact_vectors", schema_name="extractor", records=rows)
    await desk.sql.execute("ANALYZE")

    async def watch(acknowledgements: Sequence[Acknowledgement]) -> None:
        if any(each.vectors for each in acknowledgements):
            sys.exit("a fact was embedded though its vector is known")

    started = time.perf_counter()
    async with desk.relaying(watch):
        await desk.until_recorded(sources, len(facts))
        return rate(len(facts), started)


def raw_points(facts: Sequence[Fact], vectors: Vectors, encoder: Bm25Encoder) -> Iterator[models.PointStruct]:
    """What the indexer writes of the same facts."""
    project_id = str(UUID(int=1))
    for version, fact in enumerate(facts, 1):
        sparse = encoder.document(fact.statement)
        yield models.PointStruct(
            id=str(fact.fact_id),
            vector={
                "dense": list(vectors[fact.fact_id]),
                "bm25": models.SparseVector(indices=list(sparse.indices), values=list(sparse.values)),
            },
            payload={
                "fact_id": str(fact.fact_id),
                "version": version,
                "content_hash": fact.content_hash.hex(),
                "epoch": 1,
                "bucket": fact.fact_id.int >> 116,
                "project_id": project_id,
                "source_id": project_id,
                "tombstone": False,
                "statement": fact.statement,
                "group": fact.group,
                "category": fact.category,
                "confidence": fact.confidence,
                "source_title": "A document",
                "source_uri": f"file:///{project_id}.md",
                "source_version": 1,
                "entities": list(fact.entities),
                "fields": {value.name: value.value for value in fact.values},
                "extracted_at": "2026-01-01T00:00:00+00:00",
                "quote": fact.quote,
                "start": fact.start,
                "end": fact.end,
                "context_before": fact.context_before,
                "context_after": fact.context_after,
            },
        )


async def raw_client(client: AsyncQdrantClient, points: Sequence[models.PointStruct]) -> float:
    slots = asyncio.Semaphore(RAW_IN_FLIGHT)

    async def upsert(part: Sequence[models.PointStruct]) -> None:
        async with slots:
            await client.upsert("raw", points=list(part), wait=True)

    started = time.perf_counter()
    await asyncio.gather(*(upsert(points[at : at + RAW_BATCH]) for at in range(0, len(points), RAW_BATCH)))
    return rate(len(points), started)


async def against_raw_client(stack: Stack, desk: Extraction, corpus: Corpus, count: int) -> dict[str, float]:
    parts = urlsplit(stack.qdrant_url)
    client = AsyncQdrantClient(host=parts.hostname, grpc_port=parts.port, prefer_grpc=True, check_compatibility=False)
    await client.create_collection(
        "raw",
        vectors_config={"dense": models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    for name, schema in (await client.get_collection(COLLECTION)).payload_schema.items():
        await client.create_payload_index("raw", name, schema.data_type, wait=True)
    encoder = Bm25Encoder(language="english", average_length=20.0)
    rng = random.Random(5)
    known: list[float] = []
    raw: list[float] = []
    for _ in range(ROUNDS):
        facts = corpus.facts(count)
        vectors = {fact.fact_id: array("f", [rng.gauss(0.0, 1.0) for _ in range(DIMENSION)]) for fact in facts}
        known.append(await known_vectors(desk, facts, vectors))
        raw.append(await raw_client(client, list(raw_points(facts, vectors, encoder))))
    await client.delete_collection("raw")
    await client.close()
    return {
        "known_vectors_facts_per_s": round(statistics.median(known)),
        "raw_client_points_per_s": round(statistics.median(raw)),
        "vs_raw_client": round(statistics.median(known) / statistics.median(raw), 2),
    }


async def visibility(stack: Stack, desk: Extraction, corpus: Corpus, seconds: int) -> dict[str, float]:
    """A steady rate, whatever the answers take."""
    project_id = await desk.project()
    sources = await desk.sources(project_id, RATE_PER_SECOND * seconds // FACTS_PER_COMMIT)
    documents = [(source_id, corpus.facts(FACTS_PER_COMMIT)) for source_id in sources]
    statements = {fact.fact_id: fact.statement for _, facts in documents for fact in facts}
    committed: dict[UUID, float] = {}
    seen: dict[UUID, float] = {}
    looks: list[asyncio.Task[bool]] = []

    async def watch(acknowledgements: Sequence[Acknowledgement]) -> None:
        now = time.perf_counter()
        seen.update(dict.fromkeys((each.fact_id for each in acknowledgements), now))
        if len(seen) // 100 > len(looks):
            fact_id = acknowledgements[0].fact_id
            looks.append(asyncio.create_task(found(stack.indexer.client, project_id, fact_id, statements[fact_id])))

    async with desk.relaying(watch) as relay:

        async def publish(source_id: UUID, facts: Sequence[Fact]) -> None:
            await desk.commit(project_id, source_id, facts)
            committed.update(dict.fromkeys((fact.fact_id for fact in facts), time.perf_counter()))
            relay.wake()

        started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for number, (source_id, facts) in enumerate(documents):
                await asyncio.sleep(started + number * FACTS_PER_COMMIT / RATE_PER_SECOND - time.perf_counter())
                tasks.create_task(publish(source_id, facts))
        await desk.until_recorded(sources, len(statements))
    if not all(await asyncio.gather(*looks)):
        sys.exit("an acknowledged fact was not found")
    waits = [seen[fact_id] - committed[fact_id] for fact_id in statements]
    return {"visible_p50_ms": percentile(waits, 0.5), "visible_p99_ms": percentile(waits, 0.99)}


async def found(client: IndexerClient, project_id: UUID, fact_id: UUID, statement: str) -> bool:
    request = search_service_pb2.SearchRequest(
        project_id=str(project_id), query=statement, mode=search_service_pb2.SEARCH_MODE_SPARSE
    )
    return str(fact_id) in {hit.fact_id for hit in (await client.searcher.Search(request, timeout=10)).hits}


async def search_latency(client: IndexerClient, corpus: Corpus, size: int) -> dict[str, float]:
    """All facts of one project; the vectors of the corpus mean nothing."""
    project_id = str(UUID(int=2))
    rng = random.Random(6)
    vectors = [[rng.gauss(0.0, 1.0) for _ in range(DIMENSION)] for _ in range(2000)]
    while (held := (await client.stats(project_id)).live_point_count) < size:
        facts = corpus.facts(min(5000, size - held))
        await index(client, [_intent(fact, project_id, rng.choice(vectors)) for fact in facts])
    waits: list[float] = []
    for number in range(SEARCHES + 20):
        request = search_service_pb2.SearchRequest(project_id=project_id, query=corpus.sentence(4))
        started = time.perf_counter()
        response = await client.searcher.Search(request, timeout=10)
        if not response.hits:
            sys.exit("a search found nothing")
        if number >= 20:
            waits.append(time.perf_counter() - started)
    return {"search_p50_ms": percentile(waits, 0.5), "search_p99_ms": percentile(waits, 0.99)}


def _intent(fact: Fact, project_id: str, vector: list[float]) -> fact_pb2.FactIntent:
    return fact_pb2.FactIntent(
        fact_id=str(fact.fact_id),
        version=1,
        operation=fact_pb2.INTENT_OPERATION_UPSERT,
        project_id=project_id,
        source_id=str(UUID(int=3)),
        content_hash=fact.content_hash,
        vectors=[fact_pb2.KnownVector(embedding_model=MODEL, values=vector)],
        content=fact_pb2.FactContent(
            statement=fact.statement,
            evidence=fact_pb2.Evidence(quote=fact.quote, start=fact.start, end=fact.end),
            group=fact.group,
            category=fact.category,
            fields={value.name: value.value for value in fact.values},
            entities=fact.entities,
            confidence=fact.confidence,
        ),
    )


async def measure(*, facts: int, corpus_size: int, seconds: int) -> dict[str, float]:
    corpus = Corpus(seed=1)
    results: dict[str, float] = {}

    def note(values: dict[str, float]) -> None:
        print(values, file=sys.stderr, flush=True)
        results.update(values)

    async with running_stack() as stack, running_extraction(stack.engines, stack.indexer.address) as desk:
        note(await embedded(desk, corpus, facts))
        note(await visibility(stack, desk, corpus, seconds))
        note(await against_raw_client(stack, desk, corpus, facts // ROUNDS // FACTS_PER_SOURCE * FACTS_PER_SOURCE))
        note(await search_latency(stack.indexer.client, corpus, corpus_size))
    wanted = ("facts_per_s", "vs_raw_client", "visible_p50_ms", "visible_p99_ms", "search_p99_ms")
    return {name: results[name] for name in wanted}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.indexer")
    parser.add_argument("--facts", type=int, default=15_000)
    parser.add_argument("--corpus", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(measure(facts=options.facts, corpus_size=options.corpus, seconds=options.seconds))))


if __name__ == "__main__":
    main()
