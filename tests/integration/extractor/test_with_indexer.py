"""The extractor's side of consistency against the real indexer on the real Qdrant engine."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import grpc.aio
import pytest
from qdrant_client import AsyncQdrantClient
from qdrant_client import models as qdrant_models
from scristill.extractor.v1 import consistency_service_pb2 as pb
from scristill.extractor.v1 import source_service_pb2
from scristill.indexer.v1 import search_service_pb2
from scristill.indexer.v1.search_service_pb2_grpc import SearchServiceStub

from services.extractor.domain.project import Project
from services.indexer.bootstrap import bootstrap
from services.indexer.settings import IndexerSettings
from services.shared.lifecycle import Drain, LoopSupervisor
from services.shared.process import build_server
from services.shared.service import Runtime
from services.shared.telemetry.metrics import Metrics
from tests.integration.extractor.conftest import Desk
from tests.integration.extractor.service import Extractor, serving_extractor
from tests.integration.indexer.models import DIMENSION, ScriptedModels
from tests.integration.indexer.models import serving as serving_models
from tests.support.waiting import eventually

TEXT = " ".join(f"Person{n} visited town{n}." for n in range(30))


@pytest.fixture
def prefix() -> str:
    return f"t{secrets.token_hex(6)}"


@pytest.fixture
def models() -> ScriptedModels:
    return ScriptedModels()


@pytest.fixture
async def indexer_address(qdrant_url: str, prefix: str, models: ScriptedModels) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        models_port = await stack.enter_async_context(serving_models(models))
        settings = IndexerSettings(
            port=0,
            qdrant_url=qdrant_url,
            llm_gateway_address=f"127.0.0.1:{models_port}",
            collection_prefix=prefix,
            drain_seconds=2.0,
        )
        runtime = Runtime(name="indexer", version="0", drain=Drain(), metrics=Metrics(), instance="indexer-tests")
        service = await stack.enter_async_context(bootstrap(settings, runtime))
        server = build_server(settings, runtime, service)
        port = await server.start()
        stack.push_async_callback(server.stop, 1.0)
        loops = LoopSupervisor(service.loops)
        loops.start()
        stack.push_async_callback(loops.stop, patience=2.0)
        yield f"127.0.0.1:{port}"


@pytest.fixture
async def extractor(extractor_url: str, peers: str, indexer_address: str) -> AsyncIterator[Extractor]:
    async with serving_extractor(
        extractor_url, scheduler_address=peers, llm_gateway_address=peers, indexer_address=indexer_address
    ) as running:
        yield running


@pytest.fixture
async def qdrant(qdrant_url: str) -> AsyncIterator[AsyncQdrantClient]:
    host, port = qdrant_url.removeprefix("http://").split(":")
    client = AsyncQdrantClient(host=host, grpc_port=int(port), prefer_grpc=True, check_compatibility=False)
    yield client
    await client.close()


# What a repair does, to every fact.
_SEND_ALL_AGAIN = """
WITH revised AS (
    UPDATE extractor.extractions SET version = nextval('extractor.fact_versions'), embedding_id = NULL
    RETURNING extraction_id, version, project_id, source_id
)
INSERT INTO extractor.outbox (topic, key, operation, version, project_id, source_id)
SELECT 'fact', extraction_id, 1, version, project_id, source_id FROM revised
"""


async def _filled(extractor: Extractor, desk: Desk) -> bool:
    """Reconciles until the index holds every fact; it may answer that it has no collection yet."""
    try:
        certificate = await _reconciled(extractor)
    except grpc.aio.AioRpcError:
        return False
    return await _indexed(desk) and certificate.point_count == 30


async def _points(qdrant: AsyncQdrantClient, prefix: str) -> list[qdrant_models.Record]:
    records, _ = await qdrant.scroll(prefix, limit=100, with_vectors=["dense"])
    return records


async def _kept(desk: Desk) -> int:
    (row,) = await desk.execute("SELECT count(*) AS count FROM extractor.fact_vectors")
    return row.count


async def _indexed(desk: Desk) -> bool:
    rows = await desk.execute("SELECT embedding_id FROM extractor.extractions")
    return bool(rows) and all(row.embedding_id for row in rows) and not await desk.outbox()


async def _reconciled(extractor: Extractor) -> pb.ConsistencyCertificate:
    frames = [frame async for frame in extractor.consistency.Reconcile(pb.ReconcileRequest())]
    return frames[-1].certificate


async def test_digests_of_both_stores_are_byte_equal(extractor: Extractor, desk: Desk) -> None:
    await desk.distilled(await desk.project(), TEXT)
    await eventually(lambda: _indexed(desk), within=30)

    certificate = await _reconciled(extractor)

    assert certificate.fact_digest == certificate.point_digest
    assert (certificate.fact_count, certificate.point_count) == (30, 30)
    assert certificate.drift_counts == {}


async def test_points_that_qdrant_lost_or_changed_are_repaired(
    extractor: Extractor, desk: Desk, qdrant: AsyncQdrantClient, prefix: str
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    await eventually(lambda: _indexed(desk), within=30)
    lost, changed, moved, *_ = await desk.facts(project)
    await qdrant.delete(prefix, qdrant_models.PointIdsList(points=[str(lost.embedding_id)]), wait=True)
    await qdrant.set_payload(prefix, {"content_hash": "00" * 32}, points=[str(changed.embedding_id)], wait=True)
    await qdrant.set_payload(prefix, {"project_id": str(uuid4())}, points=[str(moved.embedding_id)], wait=True)

    certificate = await _reconciled(extractor)

    assert certificate.drift_counts == {"MISSING": 1, "WRONG_PAYLOAD": 1, "WRONG_PROJECT": 1}
    await eventually(lambda: _indexed(desk), within=30)
    again = await _reconciled(extractor)
    assert again.fact_digest == again.point_digest
    assert again.drift_counts == {}


async def _wiped(qdrant: AsyncQdrantClient, prefix: str) -> None:
    for collection in (await qdrant.get_collections()).collections:
        if collection.name.startswith(prefix):
            await qdrant.delete_collection(collection.name)


async def test_a_wiped_index_is_filled_again_without_a_model(
    extractor: Extractor, desk: Desk, qdrant: AsyncQdrantClient, prefix: str, models: ScriptedModels
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    await eventually(lambda: _indexed(desk), within=30)
    before = {record.id: record.vector for record in await _points(qdrant, prefix)}
    await _wiped(qdrant, prefix)
    models.requests.clear()

    await eventually(lambda: _filled(extractor, desk), within=30)

    # The new epoch asks for the length of its vectors.
    assert models.texts == ["scristill"]
    after = {record.id: record.vector for record in await _points(qdrant, prefix)}
    assert set(after) == set(before)
    assert all(after[each]["dense"] == pytest.approx(before[each]["dense"]) for each in before)


async def test_an_edited_fact_is_embedded_anew_and_one_that_only_moved_is_not(
    extractor: Extractor, desk: Desk, models: ScriptedModels
) -> None:
    project = await desk.project()
    await desk.distilled(project, "Ada wrote programs. Grace found bugs.")
    await eventually(lambda: _indexed(desk), within=30)
    models.requests.clear()

    await desk.distilled(project, "Once upon a time. Ada wrote letters. Grace found bugs.", fence=2)
    await eventually(lambda: _indexed(desk), within=30)

    assert sorted(models.texts) == ["Ada wrote letters.", "Once upon a time."]


async def test_a_kept_vector_that_does_not_fit_is_made_anew(
    extractor: Extractor, desk: Desk, models: ScriptedModels
) -> None:
    project = await desk.project()
    await desk.distilled(project, "Ada wrote programs. Grace found bugs.")
    await eventually(lambda: _indexed(desk), within=30)
    models.requests.clear()
    await desk.execute(
        "UPDATE extractor.fact_vectors SET vector = substr(vector, 5) WHERE extraction_id = ("
        "SELECT extraction_id FROM extractor.extractions WHERE statement = 'Ada wrote programs.')"
    )

    await desk.execute(_SEND_ALL_AGAIN)
    await eventually(lambda: _indexed(desk), within=30)

    assert models.texts == ["Ada wrote programs."]
    assert not await desk.execute("SELECT key FROM extractor.dead_letters")
    lengths = await desk.execute("SELECT DISTINCT octet_length(vector) AS bytes FROM extractor.fact_vectors")
    assert [row.bytes for row in lengths] == [4 * DIMENSION]


async def test_vectors_go_with_their_facts(extractor: Extractor, desk: Desk) -> None:
    source = await desk.distilled(await desk.project(), TEXT)
    await eventually(lambda: _indexed(desk), within=30)
    assert await _kept(desk) == 30

    await extractor.sources.DeleteSource(source_service_pb2.DeleteSourceRequest(source_id=str(source.source_id)))

    assert await _kept(desk) == 0


async def test_without_keeping_every_rebuild_asks_the_model(
    extractor_url: str, peers: str, indexer_address: str, desk: Desk, models: ScriptedModels
) -> None:
    async with serving_extractor(
        extractor_url,
        scheduler_address=peers,
        llm_gateway_address=peers,
        indexer_address=indexer_address,
        keep_vectors=False,
    ):
        await desk.distilled(await desk.project(), "Ada wrote programs.")
        await eventually(lambda: _indexed(desk), within=30)
        await desk.execute(_SEND_ALL_AGAIN)
        await eventually(lambda: _indexed(desk), within=30)

    assert models.texts.count("Ada wrote programs.") == 2
    assert await _kept(desk) == 0


async def test_a_deletion_is_certified_by_what_qdrant_holds(extractor: Extractor, desk: Desk) -> None:
    source = await desk.distilled(await desk.project(), TEXT)
    await eventually(lambda: _indexed(desk), within=30)

    request = source_service_pb2.DeleteSourceRequest(source_id=str(source.source_id), certify=True)
    certificate = (await extractor.sources.DeleteSource(request, timeout=30)).certificate

    assert (certificate.fact_count, certificate.point_count, certificate.remaining_point_count) == (30, 30, 0)
    assert (await _reconciled(extractor)).point_count == 0


@pytest.fixture
async def searcher(indexer_address: str) -> AsyncIterator[SearchServiceStub]:
    async with grpc.aio.insecure_channel(indexer_address) as channel:
        yield SearchServiceStub(channel)


async def _token(extractor: Extractor, project: Project) -> str:
    request = pb.GetConsistencyRequest(project_id=str(project.project_id))
    return (await extractor.consistency.GetConsistency(request, timeout=10)).consistency_token


async def _found(searcher: SearchServiceStub, project: Project, token: str, *, seconds: float = 20) -> int:
    request = search_service_pb2.SearchRequest(
        project_id=str(project.project_id), query="Who visited a town?", page_size=100, consistency_token=token
    )
    return len((await searcher.Search(request, timeout=seconds)).hits)


async def test_search_with_a_token_sees_all_that_was_there_and_nothing_that_was_deleted(
    extractor: Extractor, searcher: SearchServiceStub, desk: Desk
) -> None:
    project = await desk.project()
    source = await desk.distilled(project, TEXT)

    assert await _found(searcher, project, await _token(extractor, project)) == 30

    request = source_service_pb2.DeleteSourceRequest(source_id=str(source.source_id))
    token = (await extractor.sources.DeleteSource(request, timeout=10)).consistency_token
    assert await _found(searcher, project, token) == 0


async def test_search_with_a_token_waits_while_the_relay_is_held_up(
    extractor: Extractor, searcher: SearchServiceStub, desk: Desk
) -> None:
    """Somebody has leased one of the intents and does not answer."""
    project = await desk.project()
    await desk.distilled(project, TEXT)
    await _found(searcher, project, await _token(extractor, project))
    source = await desk.ingest(project, "Zoe visited nowhere.", uri="file:///b.txt")
    await desk.run_job(source)
    await eventually(lambda: _indexed(desk), within=30)
    await desk.execute(
        "INSERT INTO extractor.outbox"
        " (topic, key, operation, version, since, project_id, source_id, lease_owner, due_time)"
        " SELECT 'fact', extraction_id, 1, version, version, project_id, source_id, 'held', now() + interval '1 hour'"
        " FROM extractor.extractions ORDER BY version DESC LIMIT 1"
    )
    token = await _token(extractor, project)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await _found(searcher, project, token, seconds=1)
    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await desk.execute("UPDATE extractor.outbox SET lease_owner = NULL, due_time = now()")

    assert await _found(searcher, project, token) == 31


async def test_token_from_before_the_index_was_wiped_is_not_fulfilled_by_an_empty_one(
    extractor: Extractor, searcher: SearchServiceStub, desk: Desk, qdrant: AsyncQdrantClient, prefix: str
) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    token = await _token(extractor, project)
    assert await _found(searcher, project, token) == 30
    aliases = {each.alias_name: each.collection_name for each in (await qdrant.get_aliases()).aliases}
    for name in (aliases[prefix], f"{prefix}_epochs"):
        await qdrant.delete_collection(name)

    with pytest.raises(grpc.aio.AioRpcError):
        await _found(searcher, project, token, seconds=2)
    await _reconciled(extractor)

    assert await _found(searcher, project, await _token(extractor, project)) == 30
    assert await _found(searcher, project, token) == 30
