"""`RedisResults` on a real Valkey: each guard of the lease and its fence."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta

import pytest
import redis.asyncio

from services.llm_gateway.adapters.redis import connection
from services.llm_gateway.adapters.redis.line import Line
from services.llm_gateway.adapters.redis.results import RedisResults
from services.llm_gateway.adapters.redis.scripts import Scripts
from services.llm_gateway.adapters.redis.tail import StreamTail
from services.llm_gateway.application.ports import (
    CancelRequested,
    Claimed,
    Failed,
    HandedOver,
    Record,
    RunningElsewhere,
    Stored,
)
from services.llm_gateway.domain.calls import FinishReason, Usage
from services.llm_gateway.domain.errors import ProviderUnavailable
from services.llm_gateway.domain.frames import Delta, Done, Started
from services.shared.errors import RequestIdReused, Unavailable

ID = "11111111-2222-3333-4444-555555555555"
numbers: Counter[int] = Counter()
STARTED = Started(provider="openai", model="openai/fake", attempt=1)
DONE = Done(finish_reason=FinishReason.STOP, usage=Usage(input_tokens=3), last_seq=1, model="openai/fake")


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[RedisResults]:
    async with connection.connect(valkey_url) as client, Line(client) as line:
        tail = StreamTail(client)
        stop = asyncio.Event()
        running = asyncio.create_task(tail.run(stop))
        yield RedisResults(
            scripts=Scripts(line),
            tail=tail,
            keep=timedelta(seconds=60),
            lease=timedelta(milliseconds=300),
            longest=timedelta(seconds=5),
        )
        stop.set()
        await running


async def claim(store: RedisResults, owner: str, *, fingerprint: str = "f") -> Claimed | RunningElsewhere | Stored:
    return await store.claim(ID, fingerprint=fingerprint, owner=owner)


async def append(store: RedisResults, *, fence: int, records: list[Record]) -> bool:
    numbers[fence] += 1
    return await store.append(ID, fence=fence, number=numbers[fence], records=records)


@pytest.fixture(autouse=True)
def fresh_numbers() -> None:
    numbers.clear()


async def expire(store: RedisResults) -> None:
    await asyncio.sleep(store.lease_seconds + 0.05)


async def test_first_claim_gets_the_call_and_the_second_follows_it(store: RedisResults) -> None:
    assert await claim(store, "a") == Claimed(fence=1, attempts=0)
    assert await claim(store, "b") == RunningElsewhere(fence=1, position="0-0")


async def test_claim_with_another_fingerprint_is_refused(store: RedisResults) -> None:
    await claim(store, "a")

    with pytest.raises(RequestIdReused):
        await claim(store, "b", fingerprint="other")


async def test_expired_claim_goes_to_the_next_with_a_higher_fence(store: RedisResults) -> None:
    await claim(store, "a")
    await append(store, fence=1, records=[STARTED])
    await expire(store)

    assert await claim(store, "b") == Claimed(fence=2, attempts=1)


async def test_append_renews_the_lease(store: RedisResults) -> None:
    await claim(store, "a")
    for _ in range(4):
        await asyncio.sleep(0.15)
        assert await append(store, fence=1, records=[])

    assert isinstance(await claim(store, "b"), RunningElsewhere)


async def test_overtaken_holder_can_store_nothing(store: RedisResults) -> None:
    await claim(store, "a")
    await expire(store)
    await claim(store, "b")

    assert not await append(store, fence=1, records=[STARTED, DONE])

    assert isinstance(await claim(store, "c"), RunningElsewhere)


async def test_overtaken_holder_can_neither_abandon_nor_release_the_run(store: RedisResults) -> None:
    await claim(store, "a")
    await expire(store)
    await claim(store, "b")

    await store.abandon(ID, fence=1)
    await store.release(ID, owner="a")

    assert await append(store, fence=2, records=[STARTED])


async def test_ended_run_takes_no_more_records(store: RedisResults) -> None:
    await claim(store, "a")
    await append(store, fence=1, records=[STARTED, DONE])

    assert not await append(store, fence=1, records=[Delta(seq=1, text="late")])


async def test_stored_result_holds_the_records_of_its_run_only(store: RedisResults) -> None:
    await claim(store, "a")
    await append(store, fence=1, records=[STARTED, Delta(seq=1, text="void")])
    await expire(store)
    await claim(store, "b")
    records = [STARTED, Delta(seq=1, text="good"), DONE]
    await append(store, fence=2, records=records)

    assert await claim(store, "c") == Stored(fence=2, records=records)


async def test_failed_run_is_claimed_anew_and_its_error_is_followed(store: RedisResults) -> None:
    await claim(store, "a")
    followed = await claim(store, "b")
    assert isinstance(followed, RunningElsewhere)
    error = ProviderUnavailable("no", metadata={"attempts": 3}, retry_delay=timedelta(seconds=2))
    await append(store, fence=1, records=[Failed(error=error)])

    async with aclosing(store.follow(ID, position=followed.position)) as batches:
        (record,) = await asyncio.wait_for(anext(batches), 5)

    assert isinstance(record, Failed)
    assert isinstance(record.error, ProviderUnavailable)
    assert (record.error.message, record.error.metadata) == ("no", {"attempts": "3"})
    assert record.error.retry_delay == timedelta(seconds=2)
    assert await claim(store, "b") == Claimed(fence=2, attempts=0)


async def test_released_run_tells_its_followers_and_can_be_claimed_at_once(store: RedisResults) -> None:
    await claim(store, "a")
    followed = await claim(store, "b")
    assert isinstance(followed, RunningElsewhere)
    async with aclosing(store.follow(ID, position=followed.position)) as batches:
        waiting = asyncio.ensure_future(anext(batches))
        await store.release(ID, owner="a")

        assert await asyncio.wait_for(waiting, 5) == [HandedOver()]

    assert await claim(store, "b") == Claimed(fence=2, attempts=0)


async def test_run_with_followers_is_not_abandoned_until_the_last_asks_for_it(store: RedisResults) -> None:
    await claim(store, "a")
    await claim(store, "b")
    await claim(store, "c")
    assert not await store.abandon(ID, fence=1)

    async with aclosing(store.follow(ID, position=store.now)) as batches:
        waiting = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0.05)
        await store.leave(ID, owner="b")
        assert not await store.abandon(ID, fence=1)
        await store.leave(ID, owner="c")
        assert await asyncio.wait_for(waiting, 5) == [CancelRequested()]

    assert await store.abandon(ID, fence=1)
    assert isinstance(await claim(store, "d"), Claimed)


async def test_leaving_a_run_that_has_callers_of_its_own_cancels_nothing(store: RedisResults) -> None:
    await claim(store, "a")
    await claim(store, "b")

    await store.leave(ID, owner="b")

    assert await append(store, fence=1, records=[STARTED, DONE])
    stored = await claim(store, "c")
    assert isinstance(stored, Stored)
    assert CancelRequested() not in stored.records


async def test_everything_of_a_call_expires(store: RedisResults, valkey_url: str) -> None:
    await claim(store, "a")
    await claim(store, "b")
    await append(store, fence=1, records=[STARTED, DONE])

    async with redis.asyncio.from_url(valkey_url) as client:
        keys = await client.keys("*")
        remaining = [await client.pttl(key) for key in keys]

    assert len(keys) == 3
    assert all(0 < each <= 60_000 for each in remaining)


async def test_store_that_is_away_is_unavailable() -> None:
    async with connection.connect("redis://127.0.0.1:1/0") as client, Line(client) as line:
        tail = StreamTail(client)
        store = RedisResults(
            scripts=Scripts(line),
            tail=tail,
            keep=timedelta(seconds=1),
            lease=timedelta(seconds=1),
            longest=timedelta(seconds=1),
        )

        with pytest.raises(Unavailable) as raised:
            await claim(store, "a")

    assert raised.value.metadata == {"dependency": "redis"}


async def test_tail_reads_on_where_it_was_after_its_connection_broke(store: RedisResults, valkey_url: str) -> None:
    await claim(store, "a")
    async with aclosing(store.follow(ID, position="0-0")) as batches:
        await append(store, fence=1, records=[STARTED])
        first = await asyncio.wait_for(anext(batches), 5)
        async with redis.asyncio.from_url(valkey_url) as client:
            await client.client_kill_filter(_type="normal", skipme=True)
        await append(store, fence=1, records=[Delta(seq=1, text="x")])

        second = await asyncio.wait_for(anext(batches), 5)

    assert first == [STARTED]
    assert second == [Delta(seq=1, text="x")]


async def test_scripts_are_sent_again_when_redis_has_forgotten_them(store: RedisResults, valkey_url: str) -> None:
    async with redis.asyncio.from_url(valkey_url) as client:
        await client.script_flush()

    claims = await asyncio.gather(*(store.claim(f"{ID[:-2]}{n:02}", fingerprint="f", owner="a") for n in range(50)))

    assert claims == [Claimed(fence=1, attempts=0)] * 50


async def test_write_that_is_sent_twice_is_stored_once(store: RedisResults) -> None:
    await claim(store, "a")
    for number, records in ((1, [STARTED]), (1, [STARTED]), (2, [DONE]), (2, [DONE])):
        assert await store.append(ID, fence=1, number=number, records=records)

    assert await claim(store, "b") == Stored(fence=1, records=[STARTED, DONE])


async def test_claim_that_is_sent_twice_is_the_same_claim(store: RedisResults) -> None:
    assert await claim(store, "a") == await claim(store, "a") == Claimed(fence=1, attempts=0)


async def test_scripts_survive_a_broken_connection(store: RedisResults, valkey_url: str) -> None:
    await claim(store, "a")
    async with redis.asyncio.from_url(valkey_url) as client:
        await client.client_kill_filter(_type="normal", skipme=True)

    assert isinstance(await claim(store, "b"), RunningElsewhere)


async def test_cancelled_caller_does_not_disturb_the_answers_of_others(store: RedisResults) -> None:
    calls = [asyncio.create_task(store.claim(f"{ID[:-2]}{n:02}", fingerprint="f", owner="a")) for n in range(50)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()

    assert await asyncio.gather(*calls[1::2]) == [Claimed(fence=1, attempts=0)] * 25
    assert await claim(store, "b", fingerprint="g") == Claimed(fence=1, attempts=0)


async def test_follower_that_joins_while_records_arrive_misses_none(store: RedisResults) -> None:
    await claim(store, "a")
    await append(store, fence=1, records=[Delta(seq=1, text="x")])

    async with aclosing(store.follow(ID, position=store.now)) as late:
        waiting = asyncio.ensure_future(anext(late))
        await asyncio.sleep(0.05)  # the reader blocks, asked for what comes after the first record
        early = store.follow(ID, position="0-0")
        joining = asyncio.ensure_future(anext(early))
        await append(store, fence=1, records=[Delta(seq=2, text="y")])

        found = list(await asyncio.wait_for(joining, 5))
        while len(found) < 2:
            found += await asyncio.wait_for(anext(early), 5)
        await early.aclose()
        assert await asyncio.wait_for(waiting, 5) == [Delta(seq=2, text="y")]

    assert found == [Delta(seq=1, text="x"), Delta(seq=2, text="y")]
