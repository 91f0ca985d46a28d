"""The extractor's part of the benchmarks: its own unit of work and relay, in the process that also commits the facts.

That is how an extractor runs: the process that publishes a source wakes its relay. Only the texts and the model's
answers, which come before, are left out.
"""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg

from services.extractor.adapters.clients.index_audit import IndexAuditClient
from services.extractor.adapters.clients.indexer import IndexerClient
from services.extractor.adapters.postgres.unit_of_work import ExtractorUnitOfWork
from services.extractor.application.fact_relay import FactRelay, RelaySettings
from services.extractor.application.index_watch import IndexWatch
from services.extractor.application.settle import SettleFacts
from services.extractor.domain.facts import Fact
from services.extractor.domain.outbox import Acknowledgement, FactIntent
from services.extractor.settings import ExtractorSettings
from services.shared.database.engine import Database
from services.shared.database.migrations import Migrations, upgrade
from services.shared.grpc.channel import connect
from services.shared.ids import Uuid7
from services.shared.telemetry.metrics import Metrics
from tests.support.engines import Engines
from tests.support.waiting import eventually

RECORDED_WITHIN = 120.0

Watch = Callable[[Sequence[Acknowledgement]], Awaitable[None]]

_PROJECT = """
INSERT INTO extractor.projects
    (project_id, display_name, description, schema, model, grounding_policy, request_id, request_hash)
VALUES ($1, $2, '', '{}', '', 'drop', $1, '')
"""
_SOURCES = """
INSERT INTO extractor.sources (source_id, project_id, uri, version, visible_version)
SELECT s, $1, 'file:///' || s || '.md', 1, 1 FROM unnest($2::uuid[]) s
"""
_VERSIONS = """
INSERT INTO extractor.source_versions
    (source_id, version, job_id, state, title, group_name, media_type, content, content_hash, end_time)
SELECT s, 1, s, 4, 'A document', '', 'text/markdown', '', decode(repeat('00', 32), 'hex'), now()
  FROM unnest($1::uuid[]) s
"""
_RECORDED = """
SELECT count(*) FROM extractor.extractions
 WHERE source_id = ANY($1::uuid[]) AND embedding_id IS NOT NULL AND embedding_epoch > 0
"""


@dataclass(slots=True, kw_only=True)
class Extraction:
    """`sql` is a connection for what the benchmark itself asks."""

    url: str
    unit_of_work: ExtractorUnitOfWork
    sql: "asyncpg.Connection[Any]"
    indexer_address: str
    new_id: Callable[[], UUID] = field(default_factory=Uuid7)

    async def project(self) -> UUID:
        project_id = self.new_id()
        await self.sql.execute(_PROJECT, project_id, str(project_id))
        return project_id

    async def sources(self, project_id: UUID, count: int) -> list[UUID]:
        sources = [self.new_id() for _ in range(count)]
        await self.sql.execute(_SOURCES, project_id, sources)
        await self.sql.execute(_VERSIONS, sources)
        return sources

    async def commit(self, project_id: UUID, source_id: UUID, facts: Sequence[Fact]) -> None:
        """Facts and their intents, in one transaction, as a publication writes them."""
        async with self.unit_of_work() as repositories:
            await repositories.facts.replace(project_id, source_id, facts, traceparent="")

    async def until_recorded(self, sources: Sequence[UUID], count: int) -> None:
        """Until every intent is answered. Every fact must have its embedding id then."""
        await self.until_answered(within=RECORDED_WITHIN)
        recorded = await self.sql.fetchval(_RECORDED, list(sources))
        if recorded != count:
            sys.exit(f"{recorded} of {count} facts have their embedding id")

    async def until_answered(self, *, within: float) -> None:
        await eventually(self._outbox_is_empty, within=within)

    async def _outbox_is_empty(self) -> bool:
        return await self.sql.fetchval("SELECT NOT EXISTS (SELECT FROM extractor.outbox WHERE topic = 'fact')")

    @asynccontextmanager
    async def relaying(self, watch: Watch | None = None) -> AsyncIterator[FactRelay]:
        """The production relay, from its first lease to its end; `watch` sees acknowledgements as they arrive."""
        rng = random.Random(1)
        defaults = ExtractorSettings.model_fields
        settle = SettleFacts(unit_of_work=self.unit_of_work, owner="bench", rng=rng)
        async with connect(self.indexer_address) as channel:
            relay = FactRelay(
                unit_of_work=self.unit_of_work,
                indexer=IndexerClient(channel, client_id="bench", return_vectors=True),
                settle=settle if watch is None else _watched(settle, watch),
                watch=IndexWatch(
                    unit_of_work=self.unit_of_work,
                    index=IndexAuditClient(channel),
                    on_loss=lambda: sys.exit("the index has lost what it acknowledged"),
                    metrics=Metrics(),
                ),
                settings=RelaySettings(
                    owner="bench",
                    batch_size=defaults["relay_batch_size"].default,
                    max_in_flight=defaults["relay_max_in_flight"].default,
                ),
                rng=rng,
                metrics=Metrics(),
            )
            stop = asyncio.Event()
            task = asyncio.create_task(relay.run(stop))
            try:
                yield relay
            finally:
                stop.set()
                relay.wake()
                await task


class _Watched:
    def __init__(self, settle: SettleFacts, watch: Watch) -> None:
        self._settle = settle
        self._watch = watch

    async def __call__(self, acknowledgements: Sequence[Acknowledgement], sent: Mapping[UUID, FactIntent]) -> bool:
        await self._watch(acknowledgements)
        return await self._settle(acknowledgements, sent)


def _watched(settle: SettleFacts, watch: Watch) -> Any:
    return _Watched(settle, watch)


@asynccontextmanager
async def running_extraction(engines: Engines, indexer_address: str) -> AsyncIterator[Extraction]:
    databases = await engines.databases()
    async with databases.fresh() as url:
        await upgrade(Migrations(package="services.extractor.migrations", schema="extractor", url=url))
        concurrency = ExtractorSettings.model_fields["database_concurrency"].default
        database = Database(url, concurrency=concurrency, application_name="bench", metrics=Metrics())
        sql = await asyncpg.connect(url)
        try:
            yield Extraction(
                url=url, unit_of_work=ExtractorUnitOfWork(database), sql=sql, indexer_address=indexer_address
            )
        finally:
            await sql.close()
            await database.close()


def rate(count: int, started: float) -> float:
    return count / (time.perf_counter() - started)
