"""Deletion of scopes: what was kept is gone from Valkey, and nothing of it comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
import redis.asyncio
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb

from services.llm_gateway.adapters.redis import connection
from services.llm_gateway.adapters.redis.dead_letters import RedisDeadLetters
from services.llm_gateway.adapters.redis.line import Line
from services.llm_gateway.adapters.redis.results import RedisResults
from services.llm_gateway.adapters.redis.scripts import Scripts
from services.llm_gateway.adapters.redis.tail import StreamTail
from services.llm_gateway.domain.calls import FinishReason, GenerateCall, Prompt, Usage
from services.llm_gateway.domain.errors import ScopeDeleted
from services.llm_gateway.domain.frames import Delta, Done, Started
from services.llm_gateway.domain.records import DeadLetter
from services.shared.errors import Reason
from services.shared.grpc.errors import from_rpc_error
from tests.integration.llm_gateway.gateway import Gateway, StartGateway, request, rest_of, text_of
from tests.support.provider import Answer, FakeProvider, Refusal

SCOPE = "source/one"
IDS = [f"11111111-2222-3333-4444-5555555555{number:02}" for number in range(12)]
KEEP = timedelta(seconds=60)
RESULT = [
    Started(provider="openai", model="openai/fake", attempt=1),
    Delta(seq=1, text="a secret"),
    Done(finish_reason=FinishReason.STOP, usage=Usage(), last_seq=1, model="openai/fake"),
]


@dataclass(slots=True, kw_only=True)
class Store:
    scripts: Scripts
    results: RedisResults
    letters: RedisDeadLetters
    raw: redis.asyncio.Redis

    async def everything(self) -> bytes:
        """All keys and values of the database."""
        found = b""
        for key in await self.raw.keys("*"):
            found += key + (await self.raw.dump(key) or b"")
        return found

    async def keep(self, request_id: str, *, scope: str = SCOPE) -> None:
        claim = await self.results.claim(request_id, fingerprint="f", owner="a", scope=scope)
        assert await self.results.append(request_id, fence=claim.fence, number=1, records=RESULT)


@pytest.fixture
async def store(valkey_url: str) -> AsyncIterator[Store]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(connection.connect(valkey_url))
        scripts = Scripts(await stack.enter_async_context(Line(client)))
        results = RedisResults(
            scripts=scripts,
            tail=StreamTail(client),
            keep=KEEP,
            lease=timedelta(milliseconds=300),
            longest=timedelta(seconds=90),
        )
        letters = RedisDeadLetters(client=client, scripts=scripts, keep=KEEP, limit=3, tombstone=KEEP)
        yield Store(scripts=scripts, results=results, letters=letters, raw=client)


def letter(request_id: str, *, scope: str = SCOPE) -> DeadLetter:
    call = GenerateCall(
        request_id=request_id, project_id="p", prompt=Prompt(system="a secret"), fingerprint="f", scope=scope
    )
    return DeadLetter(call=call, attempts=(), reason=Reason.OUTPUT_INVALID, fail_time=datetime.now(UTC), usage=Usage())


async def delete(gateway: Gateway, *scopes: str) -> list[pb.CachedResultsDeletion]:
    return list((await gateway.stub.DeleteCachedResults(pb.DeleteCachedResultsRequest(scopes=scopes))).results)


async def test_results_of_a_scope_are_removed_and_those_of_others_stay(
    start_gateway: StartGateway, provider: FakeProvider
) -> None:
    gateway = await start_gateway()
    mine = [request(scope=SCOPE) for _ in range(3)]
    others = [request(scope="source/two"), request()]
    for each in (*mine, *others):
        await gateway.frames(each)

    results = await delete(gateway, SCOPE, "source/unknown")

    assert [(each.scope, each.result_count) for each in results] == [(SCOPE, 3), ("source/unknown", 0)]
    assert {(await gateway.failure(each)).reason for each in mine} == {Reason.SCOPE_DELETED}
    assert [text_of(await gateway.frames(each)) for each in others] == ["ok", "ok"]
    assert len(provider.calls) == 5


async def test_deleting_again_names_the_same_counts(start_gateway: StartGateway, provider: FakeProvider) -> None:
    gateway = await start_gateway()
    await gateway.frames(request(scope=SCOPE))
    provider.script(Refusal(status=400))
    await gateway.failure(request(scope=SCOPE))

    first, second = await delete(gateway, SCOPE), await delete(gateway, SCOPE)

    assert (first[0].result_count, first[0].dead_letter_count) == (2, 1)
    assert second == first


async def test_call_that_runs_when_its_scope_is_deleted_is_stopped_and_stores_nothing(
    start_gateway: StartGateway, provider: FakeProvider, store: Store
) -> None:
    gateway = await start_gateway(lease_seconds=1.0)
    provider.script(Answer(pieces=["a secret", "rest"], hang_after=1))
    call = request(scope=SCOPE)
    stream = gateway.generate(call)
    while not (await stream.read()).HasField("delta"):
        pass
    (running,) = await provider.wait_for_calls(1)

    await delete(gateway, SCOPE)

    await asyncio.wait_for(running.closed.wait(), 10)
    with pytest.raises(grpc.RpcError) as raised:
        await rest_of(stream)
    assert from_rpc_error(raised.value, peer="llm_gateway").reason is Reason.SCOPE_DELETED
    assert b"secret" not in await store.everything()


async def test_dead_letters_of_a_scope_are_removed_with_their_prompts(
    start_gateway: StartGateway, provider: FakeProvider, store: Store
) -> None:
    gateway = await start_gateway()
    for scope in (SCOPE, "source/two"):
        provider.script(Refusal(status=400))
        await gateway.failure(request(f"a text of {scope}", scope=scope))

    (result,) = await delete(gateway, SCOPE)

    listed = (await gateway.stub.ListDeadLetters(pb.ListDeadLettersRequest())).dead_letters
    assert result.dead_letter_count == 1
    assert [each.scope for each in listed] == ["source/two"]
    assert SCOPE.encode() not in b"".join(
        [value for key in await store.raw.keys("*:letter:*") for value in await store.raw.hvals(key)]
    )


async def test_same_id_with_another_scope_is_another_request(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    call = request(scope=SCOPE)
    await gateway.frames(call)

    error = await gateway.failure(request(request_id=call.request_id, scope="source/two"))

    assert error.reason is Reason.REQUEST_ID_REUSED


async def test_each_scope_says_for_itself_that_redis_is_away(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(redis_url="redis://127.0.0.1:1/0")

    results = await delete(gateway, SCOPE, "source/two")

    assert [each.scope for each in results] == [SCOPE, "source/two"]
    assert {each.failure.reason for each in results} == {Reason.DEPENDENCY_UNAVAILABLE}


async def test_nothing_of_many_results_is_left_in_valkey(store: Store) -> None:
    ids = [f"{number:08}{IDS[0][8:]}" for number in range(600)]
    await asyncio.gather(*(store.keep(each) for each in ids))

    assert await store.results.delete_scope(SCOPE) == 600

    assert b"secret" not in await store.everything()
    assert await store.raw.keys("*:log") == []


async def test_holder_of_a_call_that_was_deleted_can_store_nothing(store: Store) -> None:
    claim = await store.results.claim(IDS[0], fingerprint="f", owner="a", scope=SCOPE)

    await store.results.delete_scope(SCOPE)

    assert not await store.results.append(IDS[0], fence=claim.fence, number=1, records=RESULT)
    assert b"secret" not in await store.everything()


async def test_deleted_scope_takes_no_new_call(store: Store) -> None:
    await store.results.delete_scope(SCOPE)

    with pytest.raises(ScopeDeleted):
        await store.results.claim(IDS[0], fingerprint="f", owner="a", scope=SCOPE)


async def test_call_between_entering_its_scope_and_its_claim_is_caught(store: Store) -> None:
    await store.keep(IDS[0])
    prefix = b"scristill:llm:{scope:%b}:" % SCOPE.encode()
    await store.scripts.run("enroll", keys=[prefix + b"calls", prefix + b"gone"], args=[IDS[1], 60_000])

    assert await store.results.delete_scope(SCOPE) == 1

    with pytest.raises(ScopeDeleted):
        await store.results.claim(IDS[1], fingerprint="f", owner="a")


async def test_call_that_was_forgotten_but_not_counted_is_counted_once(store: Store) -> None:
    """The process that deletes may die after each of its steps."""
    for each in IDS[:3]:
        await store.keep(each)
    keys: list[Any] = [b"scristill:llm:{%b}:%b" % (IDS[1].encode(), part) for part in (b"call", b"log", b"followers")]
    assert await store.scripts.run("forget", keys=keys, args=[60_000]) == 1

    assert await store.results.delete_scope(SCOPE) == 3
    assert await store.results.delete_scope(SCOPE) == 3


async def test_tombstones_outlive_the_longest_call_and_everything_expires(store: Store) -> None:
    for each in IDS[:2]:
        await store.keep(each)
    await store.keep(IDS[2], scope="source/two")
    await store.letters.put(letter(IDS[3], scope="source/two"))
    await store.results.delete_scope(SCOPE)
    await store.letters.delete_scope(SCOPE)

    remaining = {key: await store.raw.pttl(key) for key in await store.raw.keys("*")}

    calls = [b"scristill:llm:{%b}:call" % each.encode() for each in IDS[:2]]
    gone = b"scristill:llm:{scope:%b}:gone" % SCOPE.encode()
    assert all(remaining[key] > 90_000 for key in (*calls, gone))
    assert all(0 < each <= 151_000 for each in remaining.values())


async def test_set_of_a_scope_sheds_calls_whose_results_have_expired(valkey_url: str) -> None:
    async with connection.connect(valkey_url) as client, Line(client) as line:
        short = timedelta(milliseconds=100)
        results = RedisResults(
            scripts=Scripts(line), tail=StreamTail(client), keep=short, lease=short, longest=timedelta()
        )
        await results.claim(IDS[0], fingerprint="f", owner="a", scope=SCOPE)
        await asyncio.sleep(0.15)
        await results.claim(IDS[1], fingerprint="f", owner="a", scope=SCOPE)
        await asyncio.sleep(0.1)

        await results.claim(IDS[2], fingerprint="f", owner="a", scope=SCOPE)

        assert await client.zrange(b"scristill:llm:{scope:%b}:calls" % SCOPE.encode(), 0, -1) == [
            IDS[1].encode(),
            IDS[2].encode(),
        ]


async def test_letter_that_comes_after_the_deletion_is_not_kept(store: Store) -> None:
    await store.letters.put(letter(IDS[0]))
    assert await store.letters.delete_scope(SCOPE) == 1

    await store.letters.put(letter(IDS[1]))
    await store.letters.put(letter(IDS[2], scope=""))

    page = await store.letters.page(project_id="", size=10, after="")
    assert [each.call.request_id for each in page.letters] == [IDS[2]]


async def test_scope_counts_no_letters_that_went_before(store: Store) -> None:
    """The oldest beyond the limit, and those that an operator has deleted."""
    for each in IDS[:5]:
        await store.letters.put(letter(each))
    await store.letters.delete([IDS[4]])

    assert await store.raw.smembers(b"scristill:llm:{dead}:scope:%b:letters" % SCOPE.encode()) == {
        IDS[2].encode(),
        IDS[3].encode(),
    }
    assert await store.letters.delete_scope(SCOPE) == 2
