"""The two stores of the reconciliation's benchmark: filled in bulk, and tampered with behind the services' backs."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import md5, sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import qdrant_edge as edge
from qdrant_client import AsyncQdrantClient, models

from deploy.local.ports import free_port
from deploy.local.qdrant.catalog import load_catalog
from services.indexer.domain.fact import FactId
from services.indexer.domain.identity import embedding_id
from tests.integration.indexer.processes import Process

COLLECTION = "facts"
"""The alias of the epoch that is searched."""
DIMENSION = 8
BATCH = 2000

_FACTS = """
INSERT INTO extractor.extractions
    (extraction_id, project_id, source_id, group_name, item_key, statement, category, field_values, quote,
     start_offset, end_offset, context_before, context_after, entities, confidence, model, chunk_index, version,
     content_hash, embedding_id, embedding_epoch)
SELECT CAST(md5('fact' || n) AS uuid), $1, ($2::uuid[])[1 + n % cardinality($2::uuid[])], 'facts', n::text,
       'Statement number ' || n || ' of a large corpus.', 'places', '[]', 'Statement', 0, 9, '', '', '{}', 0.9, 'bench',
       0, n + 1, sha256(convert_to('content' || n, 'UTF8')), CAST(md5('fact' || n) AS uuid), 1
  FROM generate_series($3::bigint, $4::bigint) n
"""
_STORED = """
SELECT extraction_id, version, content_hash, project_id FROM extractor.extractions
 WHERE extraction_id = ANY($1::uuid[])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """Fact `n` is the same in both stores: id, version and content follow from the number."""

    project_id: UUID
    sources: Sequence[UUID]

    def fact_id(self, number: int) -> UUID:
        return UUID(md5(f"fact{number}".encode(), usedforsecurity=False).hexdigest())

    def point_id(self, number: int) -> str:
        return embedding_id(1, FactId(str(self.fact_id(number))))

    def payload(self, number: int) -> dict[str, Any]:
        fact_id = self.fact_id(number)
        return {
            "fact_id": str(fact_id),
            "version": number + 1,
            "content_hash": sha256(f"content{number}".encode()).hexdigest(),
            "epoch": 1,
            "bucket": fact_id.int >> 116,
            "project_id": str(self.project_id),
            "source_id": str(self.sources[number % len(self.sources)]),
            "tombstone": False,
            "statement": f"Statement number {number} of a large corpus.",
            "group": "facts",
            "category": "places",
            "confidence": 0.9,
            "quote": "Statement",
            "start": 0,
            "end": 9,
            "source_title": "A document",
            "source_version": 1,
        }


async def fill_facts(sql: "asyncpg.Connection[Any]", filling: Filling, first: int, last: int) -> None:
    async with sql.transaction():
        await sql.execute("SET LOCAL statement_timeout = 0; SET LOCAL synchronous_commit = off")
        await sql.execute(_FACTS, filling.project_id, list(filling.sources), first, last - 1, timeout=600)
        await sql.execute("SELECT setval('extractor.fact_versions', $1)", last + 1)
    await sql.execute("VACUUM (ANALYZE) extractor.extractions", timeout=600)


class Index:
    """Qdrant's engine behind its server, which is down while the engine is filled."""

    def __init__(self, directory: Path) -> None:
        self._storage = directory
        port = free_port()
        arguments = ["--storage", str(directory), "--port", str(port)]
        self._process = Process(command=[sys.executable, "-m", "deploy.local.qdrant", *arguments], port=port)
        self.client = AsyncQdrantClient(
            host="127.0.0.1", grpc_port=port, prefer_grpc=True, check_compatibility=False, timeout=60
        )

    @property
    def url(self) -> str:
        return f"http://{self._process.address}"

    async def start(self) -> None:
        await self._process.start()

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            self._process.stop()

    def fill(self, filling: Filling, first: int, last: int) -> None:
        """Blocks. Leaves the server down."""
        self._process.stop()
        shard = edge.EdgeShard.load(str(self._shard()))
        for start in range(first, last, BATCH):
            points = [_point(filling, number) for number in range(start, min(start + BATCH, last))]
            shard.update(edge.UpdateOperation.upsert_points(points))
        shard.flush()
        shard.close()

    def _shard(self) -> Path:
        catalog = load_catalog(self._storage / "catalog.json")
        return self._storage / "collections" / catalog.collections[catalog.aliases[COLLECTION]].directory


def _point(filling: Filling, number: int) -> edge.Point:
    vector = [(number >> shift) % 7 + 1.0 for shift in range(DIMENSION)]
    return edge.Point(filling.point_id(number), {"dense": vector}, filling.payload(number))


@dataclass(slots=True)
class Tampering:
    """Changes one store and not the other. `injected` says what must be found, by fact."""

    sql: "asyncpg.Connection[Any]"
    index: Index
    filling: Filling
    injected: dict[UUID, str] = field(default_factory=dict[UUID, str])

    async def all_kinds(self, points: int, each: int) -> None:
        step = points // (6 * each)
        numbers = iter(range(step // 2, points, step))

        def some() -> list[int]:
            return [next(numbers) for _ in range(each)]

        await self._missing(some())
        await self._stale(some())
        await self._ghosts(each)
        await self._payload(some(), "wrong_epoch", {"epoch": 7})
        await self.wrong_payload(some())
        await self._payload(some(), "wrong_project", {"project_id": str(uuid4())})

    async def wrong_payload(self, numbers: Sequence[int]) -> None:
        await self._payload(numbers, "wrong_payload", {"content_hash": "00" * 32})

    async def repaired(self) -> set[UUID]:
        """Facts that stand in the index as they do in the database: with their content, or with a tombstone."""
        ids = list(self.injected)
        rows = {row["extraction_id"]: row for row in await self.sql.fetch(_STORED, ids)}
        points = await self.index.client.retrieve(
            COLLECTION, [embedding_id(1, FactId(str(fact_id))) for fact_id in ids], with_payload=True
        )
        held = {UUID(point.payload["fact_id"]): point.payload for point in points}
        return {fact_id for fact_id in ids if _right(rows.get(fact_id), held.get(fact_id))}

    async def _missing(self, numbers: Sequence[int]) -> None:
        self._note(numbers, "missing")
        selector = models.PointIdsList(points=[self.filling.point_id(number) for number in numbers])
        await self.index.client.delete(COLLECTION, selector, wait=True)

    async def _stale(self, numbers: Sequence[int]) -> None:
        self._note(numbers, "stale")
        await self.sql.execute(
            "UPDATE extractor.extractions SET version = nextval('extractor.fact_versions') "
            "WHERE extraction_id = ANY($1::uuid[])",
            [self.filling.fact_id(number) for number in numbers],
        )

    async def _ghosts(self, count: int) -> None:
        """Points as a database has them that was restored since: of facts it does not know."""
        points = list(self._unknown(count))
        await self.index.client.upsert(COLLECTION, points, wait=True)
        self.injected |= {UUID(point.payload["fact_id"]): "ghost" for point in points if point.payload}

    def _unknown(self, count: int) -> Iterator[models.PointStruct]:
        for number in range(count):
            fact_id = uuid4()
            payload = self.filling.payload(number) | {"fact_id": str(fact_id), "bucket": fact_id.int >> 116}
            yield models.PointStruct(
                id=embedding_id(1, FactId(str(fact_id))), vector={"dense": [1.0] * DIMENSION}, payload=payload
            )

    async def _payload(self, numbers: Sequence[int], kind: str, change: dict[str, Any]) -> None:
        self._note(numbers, kind)
        ids: list[Any] = [self.filling.point_id(number) for number in numbers]
        await self.index.client.set_payload(COLLECTION, change, points=ids, wait=True)

    def _note(self, numbers: Sequence[int], kind: str) -> None:
        self.injected |= {self.filling.fact_id(number): kind for number in numbers}


def _right(row: Any, held: dict[str, Any] | None) -> bool:
    if row is None:
        return held is None or held["tombstone"]
    return held is not None and (held["version"], held["content_hash"], held["epoch"], held["project_id"]) == (
        row["version"],
        row["content_hash"].hex(),
        1,
        str(row["project_id"]),
    )
