"""The service from call to index, with the real scheduler handing out its jobs."""

from collections.abc import AsyncIterator

import pytest
from scristill.errors.v1 import error_reason_pb2
from scristill.extractor.v1 import consistency_service_pb2 as consistency_pb
from scristill.extractor.v1 import source_pb2
from scristill.extractor.v1 import source_service_pb2 as source_pb
from scristill.scheduler.v1 import job_pb2
from scristill.scheduler.v1 import scheduler_service_pb2 as job_service_pb

from tests.integration.extractor.peers import ScriptedGateway, ScriptedIndexer
from tests.integration.extractor.service import Extractor, serving_extractor
from tests.integration.scheduler import harness
from tests.support.fixtures import MigratedDatabase
from tests.support.waiting import eventually

TEXT = "Ada wrote programs. Grace found bugs. Alan broke codes."


@pytest.fixture
async def replica(migrated_database: MigratedDatabase) -> AsyncIterator[harness.Replica]:
    async with harness.replica(await migrated_database("scheduler", harness.migrate)) as replica:
        yield replica


@pytest.fixture
async def extractor(extractor_url: str, peers: str, replica: harness.Replica) -> AsyncIterator[Extractor]:
    async with serving_extractor(
        extractor_url,
        scheduler_address=replica.address,
        llm_gateway_address=peers,
        indexer_address=peers,
        model_patience_seconds=1.0,
    ) as running:
        yield running


async def test_documents_are_extracted_and_indexed(extractor: Extractor, indexer: ScriptedIndexer) -> None:
    project_id = await extractor.project()
    results = await extractor.create(project_id, **{f"doc{n}": f"{TEXT} Person{n} came by." for n in range(12)})
    assert all(result.changed for result in results)

    async def done() -> bool:
        sources = [await extractor.source(result.source.source_id) for result in results]
        return all(s.state == source_pb2.SOURCE_STATE_EXTRACTED and s.indexed_count == 4 for s in sources)

    await eventually(done, within=30)
    facts = await extractor.facts(project_id)
    assert len(facts) == 48
    assert {fact.extraction_id for fact in facts} == indexer.live.keys()
    assert all(fact.embedding_id for fact in facts)
    counts = await extractor.consistency.GetConsistency(consistency_pb.GetConsistencyRequest(project_id=project_id))
    assert (counts.fact_count, counts.indexed_count, counts.pending_intent_count, counts.open_source_count) == (
        48,
        48,
        0,
        0,
    )


async def test_a_deleted_source_ends_its_running_job_as_cancelled(
    extractor: Extractor, gateway: ScriptedGateway, indexer: ScriptedIndexer, replica: harness.Replica
) -> None:
    project_id = await extractor.project()
    gateway.gate.clear()
    (result,) = await extractor.create(project_id, a=TEXT)
    await gateway.arrived.wait()

    await extractor.sources.DeleteSource(source_pb.DeleteSourceRequest(source_id=result.source.source_id))
    gateway.gate.set()

    async with harness.client(replica.address) as client:
        await eventually(lambda: _has_state(client, result.source.job_id, job_pb2.JOB_STATE_CANCELLED), within=20)
    assert await extractor.facts(project_id) == []
    assert indexer.live == {}


async def test_a_cancelled_job_tells_its_source(
    extractor: Extractor, gateway: ScriptedGateway, replica: harness.Replica
) -> None:
    project_id = await extractor.project()
    gateway.gate.clear()
    (result,) = await extractor.create(project_id, a=TEXT)
    await gateway.arrived.wait()

    async with harness.client(replica.address) as client:
        await client.jobs.CancelJob(job_service_pb.CancelJobRequest(job_id=result.source.job_id))
        await eventually(lambda: _has_state(client, result.source.job_id, job_pb2.JOB_STATE_CANCELLED), within=30)
    gateway.gate.set()

    source = await extractor.source(result.source.source_id)
    assert source.state == source_pb2.SOURCE_STATE_FAILED
    assert source.reason == error_reason_pb2.ERROR_REASON_CANCELLED_BY_CALLER


async def test_a_deleted_project_leaves_nothing_in_the_index(extractor: Extractor, indexer: ScriptedIndexer) -> None:
    from scristill.extractor.v1 import project_service_pb2  # noqa: PLC0415

    project_id = await extractor.project()
    await extractor.create(project_id, a=TEXT, b="Linus made git.")
    await eventually(lambda: len(indexer.live) == 4, within=20)

    response = await extractor.projects.DeleteProject(project_service_pb2.DeleteProjectRequest(project_id=project_id))

    assert (response.source_count, response.extraction_count) == (2, 4)
    await eventually(lambda: indexer.live == {})
    assert len(indexer.points) == 4


async def test_a_refused_chunk_fails_the_job_and_a_retry_completes_it(
    extractor: Extractor, gateway: ScriptedGateway, replica: harness.Replica
) -> None:
    project_id = await extractor.project()
    gateway.refuse = lambda _text: True
    (result,) = await extractor.create(project_id, a=TEXT)
    async with harness.client(replica.address) as client:
        await eventually(lambda: _has_state(client, result.source.job_id, job_pb2.JOB_STATE_FAILED), within=20)
        assert (await extractor.source(result.source.source_id)).state == source_pb2.SOURCE_STATE_FAILED
        gateway.refuse = lambda _text: False
        await client.jobs.RetryJob(job_service_pb.RetryJobRequest(job_id=result.source.job_id))

        async def extracted() -> bool:
            return (await extractor.source(result.source.source_id)).state == source_pb2.SOURCE_STATE_EXTRACTED

        await eventually(extracted, within=20)


async def _has_state(client: harness.Client, job_id: str, state: job_pb2.JobState.ValueType) -> bool:
    response = await client.jobs.ListJobs(
        job_service_pb.ListJobsRequest(filter=job_service_pb.JobFilter(job_ids=[job_id]))
    )
    return [job.state for job in response.jobs] == [state]
