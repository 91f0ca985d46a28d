"""Each guard of the write path, and what happens without it: these tests fail when a guard is removed."""

from datetime import UTC, datetime, timedelta

import pytest
from qdrant_client import AsyncQdrantClient
from qdrant_client import grpc as qdrant_grpc

from services.indexer.adapters.qdrant import connection, points
from services.indexer.adapters.qdrant.connection import QdrantConnection
from services.indexer.adapters.qdrant.epoch_store import QdrantEpochStore
from services.indexer.adapters.qdrant.points import QdrantFacts
from services.indexer.domain.epochs import Catalogue, Epoch, Model
from services.indexer.domain.identity import embedding_id
from services.shared.clock import SystemClock
from services.shared.errors import OutcomeUnknown
from services.shared.telemetry.metrics import Metrics
from tests.integration.indexer.builders import APPLIED, RETRY, IndexerClient, delete, fact_id, upsert
from tests.integration.indexer.conftest import RunningIndexer, StartIndexer
from tests.support.waiting import eventually


class MovedClock(SystemClock):
    """The present, so much later or earlier."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return super().now() + self._by


async def overwritten_by_an_older_version(client: IndexerClient) -> bool:
    await client.apply_one(upsert(fact_id(1), 5))
    await client.apply_one(upsert(fact_id(1), 4))
    (point,) = await client.points()
    return point.version == 4


async def test_f1_version_filter_keeps_older_writes_out(client: IndexerClient) -> None:
    assert not await overwritten_by_an_older_version(client)


async def test_f1_without_the_version_filter_older_writes_get_in(
    client: IndexerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    always = qdrant_grpc.Condition(filter=qdrant_grpc.Filter())
    monkeypatch.setattr(points.conditions, "less_than", lambda *_: always)

    assert await overwritten_by_an_older_version(client)


@pytest.mark.parametrize("status", ["Acknowledged", "WaitTimeout", "ClockRejected", "UnknownUpdateStatus"])
async def test_f4_only_completed_is_durable(status: str) -> None:
    result = qdrant_grpc.UpdateResult(status=getattr(qdrant_grpc.UpdateStatus, status))

    with pytest.raises(OutcomeUnknown):
        connection._require_completed(result)


async def test_write_that_qdrant_did_not_complete_is_never_acknowledged_as_applied(
    client: IndexerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.apply_one(upsert(fact_id(0)))

    async def not_completed(self: QdrantConnection, request: qdrant_grpc.UpsertPoints) -> None:
        raise OutcomeUnknown.of("qdrant")

    monkeypatch.setattr(QdrantConnection, "upsert", not_completed)

    assert (await client.apply_one(upsert(fact_id(1)))).outcome == RETRY


async def test_f4_write_that_vanished_is_not_called_applied(
    client: IndexerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Qdrant said completed and does not have it: the read after the write is what counts."""
    await client.apply_one(upsert(fact_id(0)))

    async def forgets(self: QdrantConnection, request: qdrant_grpc.UpsertPoints) -> None:
        return None

    monkeypatch.setattr(QdrantConnection, "upsert", forgets)

    assert (await client.apply_one(upsert(fact_id(1)))).outcome == RETRY


async def test_f16_tombstones_go_after_their_retention_and_not_before(start_indexer: StartIndexer) -> None:
    hours = {"tombstone_retention_hours": 24.0}
    async with start_indexer(clock=MovedClock(timedelta(hours=-30)), **hours) as past:
        await past.client.apply([delete(fact_id(number), 2) for number in range(5)])
    async with start_indexer(tombstone_interval_seconds=3600.0, **hours) as running:
        await running.client.apply([delete(fact_id(10), 2), upsert(fact_id(11))])
    async with start_indexer(tombstone_interval_seconds=0.05, **hours) as running:

        async def collected() -> bool:
            return (await running.client.stats()).tombstone_count == 1

        await eventually(collected)
        remaining = {point.fact_id: point.tombstone for point in await running.client.points()}
        await eventually(lambda: _sample(running, "scristill_indexer_tombstones") == 1)
        assert _sample(running, "scristill_indexer_tombstones_swept_timestamp_seconds")

    assert remaining == {fact_id(10): True, fact_id(11): False}


def _sample(running: RunningIndexer, name: str) -> float:
    return running.metrics.registry.get_sample_value(name) or 0.0


async def test_f15_fact_that_came_back_is_not_collected_with_its_old_tombstone(
    start_indexer: StartIndexer, qdrant_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the search for old tombstones and their removal the fact returns."""
    async with start_indexer(clock=MovedClock(timedelta(days=-30))) as running:
        await running.client.apply_one(delete(fact_id(1), 2))
        facts, link, epoch = await _direct(qdrant_url, prefix)
        scroll = link.scroll

        async def scroll_then_return(request):
            page = await scroll(request)
            assert (await running.client.apply_one(upsert(fact_id(1), 3))).outcome == APPLIED
            return page

        monkeypatch.setattr(link, "scroll", scroll_then_return)
        found = await facts.collect_tombstones(epoch, older_than=datetime.now(UTC), limit=10)
        await link.close()

        assert found == 1
        (point,) = await running.client.points()
        assert (point.version, point.tombstone) == (3, False)


async def _direct(qdrant_url: str, prefix: str) -> tuple[QdrantFacts, QdrantConnection, Epoch]:
    link = QdrantConnection(url=qdrant_url, api_key=None, timeout_seconds=10, metrics=Metrics())
    epoch = (await QdrantEpochStore(link, prefix=prefix).load()).serving
    return QdrantFacts(link, SystemClock()), link, epoch


async def test_only_one_of_two_transitions_of_the_catalogue_wins(qdrant_url: str, prefix: str) -> None:
    link = QdrantConnection(url=qdrant_url, api_key=None, timeout_seconds=10, metrics=Metrics())
    store = QdrantEpochStore(link, prefix=prefix)
    now, model = datetime.now(UTC), Model(name="m", dimension=4)
    one = Catalogue().create(model=model, name=f"{prefix}_e{{}}".format, now=now, request_id="one")
    other = Catalogue().create(model=model, name=f"{prefix}_e{{}}".format, now=now, request_id="other")

    answers = [await store.replace(one), await store.replace(other)]

    assert answers == [True, False]
    assert await store.load() == one
    await link.close()


async def test_tombstone_has_no_vectors_left(client: IndexerClient, qdrant: AsyncQdrantClient, collection: str) -> None:
    await client.apply_one(upsert(fact_id(1), 1))
    await client.apply_one(delete(fact_id(1), 2))

    (point,) = await qdrant.retrieve(collection, [embedding_id(1, fact_id(1))], with_vectors=True)

    assert not point.vector
    assert "statement" not in point.payload
