"""The stream itself: frames, backpressure, drain, several callers."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from scristill.indexer.v1 import indexer_service_pb2 as pb

from tests.integration.indexer.builders import (
    APPLIED,
    IndexerClient,
    batch_frame,
    fact_id,
    new_id,
    open_frame,
    upsert,
)
from tests.integration.indexer.conftest import RunningIndexer, StartIndexer
from tests.integration.indexer.models import ScriptedModels
from tests.support.waiting import eventually


class ManualStream:
    """A stream whose requests are sent one by one and whose responses are kept."""

    def __init__(self, client: IndexerClient) -> None:
        self.frames: list[pb.IndexFactsResponse] = []
        self.sent = 0
        self._requests: asyncio.Queue[pb.IndexFactsRequest | None] = asyncio.Queue()
        self.call = client.indexer.IndexFacts(self._generate())
        self._reading = asyncio.create_task(self._read())

    async def _generate(self) -> AsyncIterator[pb.IndexFactsRequest]:
        while (request := await self._requests.get()) is not None:
            self.sent += 1
            yield request

    async def _read(self) -> None:
        async for frame in self.call:
            self.frames.append(frame)

    def send(self, request: pb.IndexFactsRequest) -> None:
        self._requests.put_nowait(request)

    def close(self) -> None:
        self._requests.put_nowait(None)

    async def ended(self) -> None:
        async with asyncio.timeout(20):
            await self._reading

    @property
    def kinds(self) -> list[str]:
        return [frame.WhichOneof("frame") for frame in self.frames]

    @property
    def acks(self) -> int:
        return sum(len(frame.acks.acks) for frame in self.frames)


async def test_opened_says_epochs_and_limit(client: IndexerClient) -> None:
    stream = ManualStream(client)
    stream.send(open_frame())

    await eventually(lambda: stream.kinds == ["opened"])
    stream.close()
    await stream.ended()

    opened = stream.frames[0].opened
    assert opened.max_in_flight == 2000
    assert [epoch.epoch for epoch in opened.epochs] == [1]
    assert stream.kinds == ["opened", "done"]


@pytest.mark.parametrize("frames", [[batch_frame([upsert(fact_id(1))])], [open_frame(), open_frame()]])
async def test_open_is_the_first_frame_and_only_the_first(client: IndexerClient, frames) -> None:
    stream = ManualStream(client)
    for frame in frames:
        stream.send(frame)

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stream.ended()

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "done" not in stream.kinds


async def test_empty_batch_breaks_the_contract(client: IndexerClient) -> None:
    stream = ManualStream(client)
    stream.send(open_frame())
    stream.send(batch_frame([]))

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stream.ended()

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_server_stops_reading_while_too_much_is_in_flight(
    start_indexer: StartIndexer, models: ScriptedModels
) -> None:
    async with start_indexer(max_in_flight=100) as running:
        await running.client.apply_one(upsert(fact_id(0)))
        models.gate.clear()
        stream = ManualStream(running.client)
        stream.send(open_frame())
        frames = 60
        for _ in range(frames):
            stream.send(batch_frame([upsert(new_id(), 1, "x" * 8000) for _ in range(50)]))

        async def held() -> int:
            return (await running.client.stats()).in_flight_count

        await eventually(lambda: _at_least(held, 100))
        await asyncio.sleep(0.3)
        assert await held() <= 150
        assert stream.sent < frames

        models.gate.set()
        stream.close()
        await stream.ended()
        assert stream.acks == frames * 50
        assert await held() == 0


async def _at_least(count, limit: int) -> bool:
    return await count() >= limit


async def test_limit_over_all_streams_holds_new_ones_back(start_indexer: StartIndexer, models: ScriptedModels) -> None:
    async with start_indexer(max_pending=100) as running:
        await running.client.apply_one(upsert(fact_id(0)))
        models.gate.clear()
        streams = [ManualStream(running.client) for _ in range(4)]
        for stream in streams:
            stream.send(open_frame())
            for _ in range(10):
                stream.send(batch_frame([upsert(new_id()) for _ in range(50)]))

        async def held() -> int:
            return (await running.client.stats()).in_flight_count

        await eventually(lambda: _at_least(held, 100))
        await asyncio.sleep(0.3)
        assert await held() <= 100 + 4 * 50

        models.gate.set()
        for stream in streams:
            stream.close()
            await stream.ended()
        assert sum(stream.acks for stream in streams) == 2000


async def test_drain_is_announced_and_what_was_sent_is_still_acknowledged(
    indexer: RunningIndexer, models: ScriptedModels
) -> None:
    await indexer.client.apply_one(upsert(fact_id(0)))
    models.gate.clear()
    stream = ManualStream(indexer.client)
    stream.send(open_frame())
    stream.send(batch_frame([upsert(fact_id(1))]))
    await eventually(lambda: len(models.texts) >= 2)

    indexer.drain.start()
    await eventually(lambda: "draining" in stream.kinds)
    stream.close()
    models.gate.set()
    await stream.ended()

    assert stream.kinds == ["opened", "draining", "acks", "done"]
    assert stream.frames[1].draining.HasField("reconnect_delay")


async def test_callers_share_batches_and_get_their_own_acknowledgements(
    indexer: RunningIndexer, models: ScriptedModels
) -> None:
    await indexer.client.apply_one(upsert(fact_id(0)))
    models.requests.clear()
    mine = [[upsert(new_id()) for _ in range(5)] for _ in range(20)]

    answers = await asyncio.gather(*(indexer.client.apply(intents) for intents in mine))

    for intents, acks in zip(mine, answers, strict=True):
        assert {ack.fact_id for ack in acks} == {intent.fact_id for intent in intents}
        assert {ack.outcome for ack in acks} == {APPLIED}
    assert len(models.requests) < 20


async def test_caller_that_leaves_frees_what_it_held(indexer: RunningIndexer, models: ScriptedModels) -> None:
    await indexer.client.apply_one(upsert(fact_id(0)))
    models.gate.clear()
    stream = ManualStream(indexer.client)
    stream.send(open_frame())
    stream.send(batch_frame([upsert(new_id()) for _ in range(50)]))

    async def held() -> int:
        return (await indexer.client.stats()).in_flight_count

    await eventually(lambda: _at_least(held, 50))
    stream.call.cancel()

    async def freed() -> bool:
        return await held() == 0

    await eventually(freed)
    models.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await stream.ended()


async def test_acknowledgements_are_counted_by_outcome(indexer: RunningIndexer) -> None:
    await indexer.client.apply([upsert(fact_id(1), 2), upsert(fact_id(1), 1)])

    text = indexer.metrics.render().decode()

    assert 'scristill_indexer_acks_total{outcome="applied"} 1.0' in text
    assert 'scristill_indexer_acks_total{outcome="superseded"} 1.0' in text
    assert "scristill_indexer_in_flight 0.0" in text
