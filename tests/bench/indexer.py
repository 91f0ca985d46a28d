"""Measures the indexer on real engines. The last line is one JSON object.

    python -m tests.bench.indexer [--facts N] [--corpus N]

- `facts_per_s`: facts without vectors, embedded by WordLlama in the gateway, until the last acknowledgement.
- `vs_raw_client`: facts with vectors through the indexer, against `AsyncQdrantClient.upsert(wait=True)` of the same
  points (vectors and payload) into a collection with the same indexes, as many batches in flight.
  `vs_raw_vectors_only` is against the raw client with dense vector and two fields, no sparse vector and no index.
- `visible_*`: from sending a fact to its acknowledgement at a steady rate; a sample is searched for at that moment and
  must be found.
- `search_*`: hybrid searches over `corpus` facts; the vector of the query costs nothing.
"""

import argparse
import asyncio
import hashlib
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from urllib.parse import urlsplit
from uuid import UUID

from qdrant_client import AsyncQdrantClient, models
from scristill.indexer.v1 import fact_pb2, search_service_pb2
from scristill.indexer.v1 import indexer_service_pb2 as pb

from services.indexer.adapters.bm25 import Bm25Encoder
from tests.bench.indexer_stack import DIMENSION, Stack, running_stack
from tests.integration.indexer.builders import APPLIED, IndexerClient, batch_frame, open_frame

FRAME = 250
IN_FLIGHT = 4
RATE_PER_SECOND = 500
SEARCHES = 500
PROJECT = "018f0000-0000-7000-8000-00000000be4c"


class Corpus:
    """Sentences over a vocabulary whose words are as unevenly frequent as real ones."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        letters = "abcdefghijklmnoprstuvwy"
        self._words = ["".join(self._rng.choices(letters, k=self._rng.randint(4, 9))) for _ in range(8000)]
        self._weights = [1.0 / (rank + 3) for rank in range(len(self._words))]
        self._vectors = [[self._rng.gauss(0.0, 1.0) for _ in range(DIMENSION)] for _ in range(2000)]

    def sentence(self, words: int = 14) -> str:
        return " ".join(self._rng.choices(self._words, self._weights, k=words)).capitalize() + "."

    def vector(self) -> list[float]:
        return self._rng.choice(self._vectors)

    def fact(self, *, vector: bool) -> fact_pb2.FactIntent:
        statement = self.sentence()
        identity = UUID(int=self._rng.getrandbits(128), version=4)
        return fact_pb2.FactIntent(
            fact_id=str(identity),
            version=self._rng.randint(1, 1_000_000),
            operation=fact_pb2.INTENT_OPERATION_UPSERT,
            project_id=PROJECT,
            source_id=str(UUID(int=self._rng.randint(1, 500))),
            content_hash=hashlib.sha256(statement.encode()).digest(),
            vector=self.vector() if vector else (),
            content=fact_pb2.FactContent(
                statement=statement,
                evidence=fact_pb2.Evidence(quote=statement, start=100, end=200, context_before="It was so:"),
                group="facts",
                category=self._rng.choice(["people", "places", "events"]),
                fields={"subject": "subject of it", "predicate": "is", "object": "object of it"},
                entities=self._rng.choices(self._words[:500], k=2),
                confidence=0.9,
                source_title="A document",
                source_uri="file:///document.md",
                source_version=1,
            ),
        )


async def index(client: IndexerClient, intents: Sequence[fact_pb2.FactIntent]) -> float:
    """Facts acknowledged per second. Every one must be applied."""

    async def requests() -> AsyncIterator[pb.IndexFactsRequest]:
        yield open_frame("bench")
        for start in range(0, len(intents), FRAME):
            yield batch_frame(intents[start : start + FRAME])

    started = time.perf_counter()
    applied = 0
    async for frame in client.indexer.IndexFacts(requests()):
        applied += sum(ack.outcome == APPLIED for ack in frame.acks.acks)
    if applied != len(intents):
        sys.exit(f"{len(intents) - applied} facts were not applied")
    return len(intents) / (time.perf_counter() - started)


def raw_connection(url: str) -> AsyncQdrantClient:
    parts = urlsplit(url)
    return AsyncQdrantClient(host=parts.hostname, grpc_port=parts.port, prefer_grpc=True, check_compatibility=False)


async def raw_rate(
    client: AsyncQdrantClient,
    collection: str,
    intents: Sequence[fact_pb2.FactIntent],
    point: Callable[[fact_pb2.FactIntent], models.PointStruct],
) -> float:
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def upsert(part: Sequence[fact_pb2.FactIntent]) -> None:
        async with slots:
            await client.upsert(collection, points=[point(intent) for intent in part], wait=True)

    started = time.perf_counter()
    await asyncio.gather(*(upsert(intents[at : at + FRAME]) for at in range(0, len(intents), FRAME)))
    return len(intents) / (time.perf_counter() - started)


def whole_point(encoder: Bm25Encoder) -> Callable[[fact_pb2.FactIntent], models.PointStruct]:
    """What the indexer writes, made by the client's own models."""

    def make(intent: fact_pb2.FactIntent) -> models.PointStruct:
        sparse, content = encoder.document(intent.content.statement), intent.content
        return models.PointStruct(
            id=intent.fact_id,
            vector={
                "dense": list(intent.vector),
                "bm25": models.SparseVector(indices=list(sparse.indices), values=list(sparse.values)),
            },
            payload={
                "fact_id": intent.fact_id,
                "version": intent.version,
                "content_hash": intent.content_hash.hex(),
                "epoch": 1,
                "bucket": int(intent.fact_id[:3], 16),
                "project_id": intent.project_id,
                "source_id": intent.source_id,
                "tombstone": False,
                "statement": content.statement,
                "group": content.group,
                "category": content.category,
                "confidence": content.confidence,
                "source_title": content.source_title,
                "source_uri": content.source_uri,
                "source_version": content.source_version,
                "entities": list(content.entities),
                "fields": dict(content.fields),
                "quote": content.evidence.quote,
                "start": content.evidence.start,
                "end": content.evidence.end,
                "context_before": content.evidence.context_before,
            },
        )

    return make


def small_point(intent: fact_pb2.FactIntent) -> models.PointStruct:
    payload = {"project_id": intent.project_id, "version": intent.version}
    return models.PointStruct(id=intent.fact_id, vector={"dense": list(intent.vector)}, payload=payload)


async def against_raw_client(stack: Stack, corpus: Corpus, count: int) -> dict[str, float]:
    """In turns, so that all of them meet collections of the same size."""
    client = raw_connection(stack.qdrant_url)
    dense = {"dense": models.VectorParams(size=DIMENSION, distance=models.Distance.COSINE)}
    await client.create_collection("raw_small", vectors_config=dense)
    await client.create_collection(
        "raw_whole",
        vectors_config=dense,
        sparse_vectors_config={"bm25": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    for name, schema in (await client.get_collection(stack.instant_prefix)).payload_schema.items():
        await client.create_payload_index("raw_whole", name, schema.data_type, wait=True)
    make = whole_point(Bm25Encoder(language="english", average_length=20.0))
    rates: dict[str, list[float]] = {"known": [], "whole": [], "small": []}
    for _ in range(3):
        facts = [[corpus.fact(vector=True) for _ in range(count // 3)] for _ in rates]
        rates["known"].append(await index(stack.instant, facts[0]))
        rates["whole"].append(await raw_rate(client, "raw_whole", facts[1], make))
        rates["small"].append(await raw_rate(client, "raw_small", facts[2], small_point))
    await client.close()
    known, whole, small = (sorted(each)[1] for each in rates.values())
    return {
        "known_vectors_facts_per_s": round(known),
        "raw_client_points_per_s": round(whole),
        "raw_vectors_only_points_per_s": round(small),
        "vs_raw_client": round(known / whole, 2),
        "vs_raw_vectors_only": round(known / small, 2),
    }


async def visibility(client: IndexerClient, corpus: Corpus, seconds: int) -> dict[str, float]:
    """Facts of ten at a time, at a steady rate, whatever the answers take."""
    sent: dict[str, float] = {}
    waits: list[float] = []
    missing = 0
    batches = [[corpus.fact(vector=False) for _ in range(10)] for _ in range(RATE_PER_SECOND * seconds // 10)]
    statements = {intent.fact_id: intent.content.statement for batch in batches for intent in batch}

    async def requests() -> AsyncIterator[pb.IndexFactsRequest]:
        yield open_frame("bench")
        started = time.perf_counter()
        for number, batch in enumerate(batches):
            await asyncio.sleep(max(0.0, started + number * 10 / RATE_PER_SECOND - time.perf_counter()))
            sent.update(dict.fromkeys((intent.fact_id for intent in batch), time.perf_counter()))
            yield batch_frame(batch)

    async for frame in client.indexer.IndexFacts(requests()):
        now = time.perf_counter()
        waits.extend(now - sent[ack.fact_id] for ack in frame.acks.acks)
        if len(waits) % 100 < len(frame.acks.acks):
            fact = frame.acks.acks[0].fact_id
            missing += fact not in await found(client, statements[fact])
    if missing:
        sys.exit(f"{missing} acknowledged facts were not found")
    return {"visible_p50_ms": percentile(waits, 0.5), "visible_p99_ms": percentile(waits, 0.99)}


async def found(client: IndexerClient, statement: str) -> set[str]:
    request = search_service_pb2.SearchRequest(
        project_id=PROJECT, query=statement, mode=search_service_pb2.SEARCH_MODE_SPARSE
    )
    return {hit.fact_id for hit in (await client.searcher.Search(request, timeout=10)).hits}


async def search_latency(client: IndexerClient, corpus: Corpus) -> dict[str, float]:
    waits: list[float] = []
    for number in range(SEARCHES + 20):
        request = search_service_pb2.SearchRequest(project_id=PROJECT, query=corpus.sentence(4))
        started = time.perf_counter()
        await client.searcher.Search(request, timeout=10)
        if number >= 20:
            waits.append(time.perf_counter() - started)
    return {"search_p50_ms": percentile(waits, 0.5), "search_p99_ms": percentile(waits, 0.99)}


def percentile(seconds: Sequence[float], share: float) -> float:
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))] * 1000, 1)


def say(name: str, values: dict[str, float]) -> dict[str, float]:
    print(f"{name}: {values}", file=sys.stderr, flush=True)
    return values


async def measure(*, facts: int, corpus_size: int, steady_seconds: int) -> dict[str, float]:
    corpus = Corpus(seed=1)
    results: dict[str, float] = {}
    async with running_stack() as stack:
        await index(stack.wordllama, [corpus.fact(vector=False) for _ in range(500)])
        rate = await index(stack.wordllama, [corpus.fact(vector=False) for _ in range(facts)])
        results |= say("embedded", {"facts_per_s": round(rate)})
        results |= say("visibility", await visibility(stack.wordllama, corpus, steady_seconds))
        results |= say("known vectors", await against_raw_client(stack, corpus, facts))
        while (held := (await stack.instant.stats()).live_point_count) < corpus_size:
            await index(stack.instant, [corpus.fact(vector=True) for _ in range(min(5000, corpus_size - held))])
        results |= say("search", {"search_corpus": corpus_size, **await search_latency(stack.instant, corpus)})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.indexer")
    parser.add_argument("--facts", type=int, default=15_000)
    parser.add_argument("--corpus", type=int, default=100_000)
    parser.add_argument("--steady-seconds", type=int, default=10)
    options = parser.parse_args()
    results = asyncio.run(
        measure(facts=options.facts, corpus_size=options.corpus, steady_seconds=options.steady_seconds)
    )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
