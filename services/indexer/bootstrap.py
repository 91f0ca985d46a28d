"""The only wiring of the indexer: what is opened here is closed in reverse order."""

import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from scristill.indexer.v1 import indexer_service_pb2_grpc, search_service_pb2_grpc

from services.indexer.adapters.bm25 import Bm25Encoder
from services.indexer.adapters.clients.llm_gateway import GatewayEmbedder
from services.indexer.adapters.qdrant.connection import QdrantConnection
from services.indexer.adapters.qdrant.epoch_store import QdrantEpochStore
from services.indexer.adapters.qdrant.points import QdrantFacts
from services.indexer.adapters.qdrant.scans import QdrantScanner
from services.indexer.adapters.qdrant.searches import QdrantSearcher
from services.indexer.application.apply_intents import ApplyIntents
from services.indexer.application.await_watermark import AwaitWatermark
from services.indexer.application.backfill import Backfill
from services.indexer.application.collect_tombstones import TombstoneCollector
from services.indexer.application.epochs import Epochs
from services.indexer.application.inspect_index import InspectIndex
from services.indexer.application.intake import Intake
from services.indexer.application.metrics import IntakeMetrics
from services.indexer.application.search_facts import SearchFacts
from services.indexer.application.switch_epochs import SwitchEpochs
from services.indexer.application.vectors import Vectorizer
from services.indexer.domain.epochs import Naming
from services.indexer.entrypoints.credit import Credit
from services.indexer.entrypoints.indexer_servicer import IndexerServicer
from services.indexer.entrypoints.mapping import IntentReader
from services.indexer.entrypoints.search_servicer import SearchServicer
from services.indexer.entrypoints.traced import TracedApply
from services.indexer.settings import IndexerSettings
from services.shared.checks import Check, CheckFailed
from services.shared.errors import ServiceError
from services.shared.grpc.channel import Channel, connect
from services.shared.grpc.server import register
from services.shared.lifecycle import Loop
from services.shared.service import Runtime, Service, ServiceDefinition
from services.shared.telemetry.metrics import Metrics

CAPABILITIES = (
    "epochs",
    "index.stream",
    "index.tombstones",
    "search.consistency",
    "search.dense",
    "search.hybrid",
    "search.sparse",
)

_LOOP_RESTART = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """What the use cases share."""

    settings: IndexerSettings
    runtime: Runtime
    store: QdrantEpochStore
    epochs: Epochs
    facts: QdrantFacts
    scanner: QdrantScanner
    searcher: QdrantSearcher
    vectorizer: Vectorizer
    sparse: Bm25Encoder
    apply: ApplyIntents


@asynccontextmanager
async def bootstrap(settings: IndexerSettings, runtime: Runtime) -> AsyncGenerator[Service]:
    async with AsyncExitStack() as stack:
        qdrant = connect_qdrant(settings, runtime.metrics)
        stack.push_async_callback(qdrant.close)
        gateway = await stack.enter_async_context(connect(settings.llm_gateway_address, metrics=runtime.metrics))
        core = _core(settings, runtime, qdrant, gateway)
        metrics = IntakeMetrics(runtime.metrics)
        intake = await stack.enter_async_context(_intake(settings, core.apply, metrics))
        indexer, search = _indexer(core, intake, metrics), SearchServicer(_search(core))
        yield Service(
            registrations=[
                register(indexer_service_pb2_grpc.add_IndexerServiceServicer_to_server, indexer),
                register(search_service_pb2_grpc.add_SearchServiceServicer_to_server, search),
            ],
            loops=[
                Loop(name="epochs", run=core.epochs.run, restart_after=_LOOP_RESTART),
                Loop(name="backfill", run=_backfill(core).run, restart_after=_LOOP_RESTART),
                Loop(name="tombstones", run=_collector(core).run, restart_after=_LOOP_RESTART),
            ],
            capabilities=CAPABILITIES,
        )


def _core(settings: IndexerSettings, runtime: Runtime, qdrant: QdrantConnection, gateway: Channel) -> Core:
    embedder = GatewayEmbedder(gateway, timeout_seconds=settings.embed_timeout_seconds)
    store = QdrantEpochStore(qdrant, prefix=settings.collection_prefix)
    epochs = Epochs(
        store=store,
        embedder=embedder,
        clock=runtime.clock,
        name=_naming(settings),
        model=settings.embedding_model,
        view_seconds=settings.epoch_view_seconds,
    )
    facts = QdrantFacts(qdrant, runtime.clock)
    vectorizer = Vectorizer(embedder, batch_size=settings.embed_batch_size, concurrency=settings.embed_concurrency)
    sparse = Bm25Encoder(language=settings.sparse_language, average_length=settings.sparse_average_length)
    return Core(
        settings=settings,
        runtime=runtime,
        store=store,
        epochs=epochs,
        facts=facts,
        scanner=QdrantScanner(qdrant, page_size=settings.scan_page_size),
        searcher=QdrantSearcher(qdrant, candidates=settings.search_candidates, rrf_k=settings.search_rrf_k),
        vectorizer=vectorizer,
        sparse=sparse,
        apply=ApplyIntents(epochs=epochs, facts=facts, vectorizer=vectorizer, sparse=sparse),
    )


def _naming(settings: IndexerSettings) -> Naming:
    return lambda number: f"{settings.collection_prefix}_e{number}_{secrets.token_hex(4)}"


def _indexer(core: Core, intake: Intake, metrics: IntakeMetrics) -> IndexerServicer:
    settings, clock = core.settings, core.runtime.clock
    return IndexerServicer(
        intake=intake,
        epochs=core.epochs,
        inspect=InspectIndex(epochs=core.epochs, facts=core.facts, scanner=core.scanner, clock=clock),
        switch=SwitchEpochs(
            epochs=core.epochs,
            store=core.store,
            scanner=core.scanner,
            clock=clock,
            name=_naming(settings),
            settle_seconds=2 * settings.epoch_view_seconds,
        ),
        reader=IntentReader(max_content_bytes=settings.max_content_bytes),
        credit=Credit(settings.max_pending, gauge=metrics.in_flight),
        max_in_flight=settings.max_in_flight,
        drain=core.runtime.drain,
    )


def _search(core: Core) -> SearchFacts:
    return SearchFacts(
        epochs=core.epochs,
        searcher=core.searcher,
        vectorizer=core.vectorizer,
        sparse=core.sparse,
        await_watermark=AwaitWatermark(core.facts),
        timeout_seconds=core.settings.search_timeout_seconds,
    )


def _backfill(core: Core) -> Backfill:
    return Backfill(
        epochs=core.epochs,
        facts=core.facts,
        scanner=core.scanner,
        apply=core.apply,
        rng=Random(),  # noqa: S311 - only spreads work
        interval_seconds=core.settings.backfill_interval_seconds,
        copied=core.runtime.metrics.counter(
            "scristill_indexer_backfilled_total", "Facts brought over into an epoch that is being built."
        ),
    )


def _collector(core: Core) -> TombstoneCollector:
    return TombstoneCollector(
        epochs=core.epochs,
        facts=core.facts,
        clock=core.runtime.clock,
        retention=timedelta(hours=core.settings.tombstone_retention_hours),
        interval=timedelta(seconds=core.settings.tombstone_interval_seconds),
        metrics=core.runtime.metrics,
    )


def connect_qdrant(settings: IndexerSettings, metrics: Metrics) -> QdrantConnection:
    return QdrantConnection(
        url=settings.qdrant_url,
        api_key=settings.qdrant_api_key.get_secret_value() or None,
        timeout_seconds=settings.qdrant_timeout_seconds,
        metrics=metrics,
    )


def _intake(settings: IndexerSettings, apply: ApplyIntents, metrics: IntakeMetrics) -> Intake:
    return Intake(
        TracedApply(apply),
        metrics=metrics,
        batch_size=settings.batch_size,
        linger=timedelta(milliseconds=settings.batch_linger_ms),
        concurrency=settings.batch_concurrency,
        max_pending=settings.max_pending,
    )


def checks(settings: IndexerSettings) -> Sequence[Check]:
    return [Check(name="qdrant", run=lambda: _check_qdrant(settings))]


async def _check_qdrant(settings: IndexerSettings) -> None:
    connection = connect_qdrant(settings, Metrics())
    try:
        await connection.collection_names()
    except ServiceError as error:
        raise CheckFailed(error.message) from error
    finally:
        await connection.close()


DEFINITION = ServiceDefinition(name="indexer", settings=IndexerSettings, bootstrap=bootstrap, checks=checks)
