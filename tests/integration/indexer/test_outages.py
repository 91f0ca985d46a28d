"""Qdrant and the gateway away, slow or cut in the middle: what is not known is never called applied."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from scristill.errors.v1 import error_reason_pb2

from services.shared.errors import Code
from tests.integration.indexer.builders import APPLIED, RETRY, IndexerClient, delete, fact_id, upsert
from tests.integration.indexer.conftest import RunningIndexer, StartIndexer
from tests.integration.indexer.models import ScriptedModels
from tests.support.tcp_proxy import TcpProxy
from tests.support.waiting import eventually


@pytest.fixture
async def wire(qdrant_url: str) -> AsyncIterator[TcpProxy]:
    parts = urlsplit(qdrant_url)
    async with TcpProxy(parts.hostname, parts.port) as proxy:
        yield proxy


@pytest.fixture
async def indexer(start_indexer: StartIndexer, wire: TcpProxy) -> AsyncIterator[RunningIndexer]:
    """Qdrant behind the proxy; the first epoch exists."""
    async with start_indexer(qdrant_url=f"http://{wire.address}", qdrant_timeout_seconds=2.0) as running:
        await running.client.apply_one(upsert(fact_id(0)))
        yield running


async def until_applied(client: IndexerClient, *intents) -> None:
    async def applied() -> bool:
        return all(ack.outcome == APPLIED for ack in await client.apply(intents))

    await eventually(applied, within=20)


async def test_unreachable_qdrant_gives_retry_for_each_item(indexer: RunningIndexer, wire: TcpProxy) -> None:
    wire.cut()

    acks = await indexer.client.apply([upsert(fact_id(number)) for number in range(1, 6)])

    assert {ack.outcome for ack in acks} == {RETRY}
    assert all(ack.failure.code == Code.UNAVAILABLE and ack.failure.HasField("retry_delay") for ack in acks)
    assert not any(ack.epochs or ack.embedding_id for ack in acks)
    wire.resume()
    await until_applied(indexer.client, *(upsert(fact_id(number)) for number in range(1, 6)))


async def test_f8_time_out_whose_write_landed_is_unknown_and_applied_when_sent_again(
    indexer: RunningIndexer, wire: TcpProxy
) -> None:
    wire.delay(1.1)
    intent = upsert(fact_id(1))

    ack = await indexer.client.apply_one(intent)

    assert ack.outcome == RETRY
    assert ack.failure.reason == error_reason_pb2.ERROR_REASON_OUTCOME_UNKNOWN
    wire.resume()

    async def landed() -> bool:
        return any(point.fact_id == fact_id(1) for point in await indexer.client.points())

    await eventually(landed, within=20)
    assert (await indexer.client.apply_one(intent)).outcome == APPLIED
    assert (await indexer.client.stats()).live_point_count == 2


async def test_stalled_qdrant_is_given_up_after_its_deadline(indexer: RunningIndexer, wire: TcpProxy) -> None:
    wire.stall()

    ack = await indexer.client.apply_one(upsert(fact_id(1)))

    assert ack.outcome == RETRY
    wire.resume()
    await until_applied(indexer.client, upsert(fact_id(1)))


async def test_f7_connection_cut_in_mid_batch_loses_nothing(indexer: RunningIndexer, wire: TcpProxy) -> None:
    intents = {fact_id(number): upsert(fact_id(number), 1, f"Fact {number}.") for number in range(1, 400)}

    async def cut_often() -> None:
        for _ in range(10):
            await asyncio.sleep(0.05)
            wire.reset_connections()

    async with asyncio.TaskGroup() as group:
        group.create_task(cut_often())
        open_intents = dict(intents)
        while open_intents:
            acks = await indexer.client.apply(list(open_intents.values()))
            for ack in acks:
                assert ack.outcome in (APPLIED, RETRY)
                if ack.outcome == APPLIED:
                    open_intents.pop(ack.fact_id)

    points = {point.fact_id: point.version for point in await indexer.client.points()}
    assert points == dict.fromkeys([fact_id(0), *intents], 1)


async def test_f12_old_write_that_arrives_late_does_not_overwrite(indexer: RunningIndexer, wire: TcpProxy) -> None:
    """A write is held up on its way; a newer one passes it by another road."""
    wire.delay(1.1)
    late = asyncio.create_task(indexer.client.apply_one(upsert(fact_id(1), 1)))
    ack = await late
    wire.resume()
    assert ack.outcome == RETRY
    await until_applied(indexer.client, delete(fact_id(1), 2))

    await indexer.client.apply_one(upsert(fact_id(1), 1))

    points = {point.fact_id: point for point in await indexer.client.points()}
    assert points[fact_id(1)].tombstone
    assert points[fact_id(1)].version == 2


async def test_gateway_away_gives_retry_and_deletes_still_pass(indexer: RunningIndexer, models: ScriptedModels) -> None:
    models.down = True

    acks = {ack.fact_id: ack for ack in await indexer.client.apply([upsert(fact_id(1)), delete(fact_id(0), 2)])}

    assert acks[fact_id(1)].outcome == RETRY
    assert acks[fact_id(1)].failure.metadata["dependency"] == "llm_gateway"
    assert acks[fact_id(0)].outcome == APPLIED
    models.down = False
    assert (await indexer.client.apply_one(upsert(fact_id(1)))).outcome == APPLIED


async def test_service_comes_up_before_its_dependencies(
    start_indexer: StartIndexer, wire: TcpProxy, models: ScriptedModels
) -> None:
    wire.cut()
    models.down = True
    async with start_indexer(
        qdrant_url=f"http://{wire.address}", qdrant_timeout_seconds=2.0, epoch_view_seconds=0.2
    ) as running:
        wire.resume()
        models.down = False

        async def ready() -> bool:
            try:
                return bool((await running.client.stats()).epochs)
            except Exception:  # noqa: BLE001 - any failure means not yet
                return False

        await eventually(ready, within=20)
        assert (await running.client.apply_one(upsert(fact_id(1)))).outcome == APPLIED


async def test_wiped_qdrant_is_set_up_again(indexer: RunningIndexer, qdrant, prefix: str) -> None:
    for name in (await indexer.client.collection(), f"{prefix}_epochs"):
        await qdrant.delete_collection(name)

    await until_applied(indexer.client, upsert(fact_id(1)))

    assert (await indexer.client.stats()).live_point_count == 1
