"""Callers that come, leave and come back at random over two replicas, with connections to Redis breaking in between.

Whatever the schedule: who stays gets the whole text, exactly, and nothing runs on when nobody wants it.
"""

import asyncio
import random

import grpc
import pytest
import redis.asyncio
from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb

from tests.integration.llm_gateway.gateway import Gateway, StartGateway, request, text_of
from tests.support.provider import Answer, FakeProvider
from tests.support.waiting import eventually

PIECES = [f"{number} " for number in range(12)]
TEXT = "".join(PIECES)
BROKEN = Answer(pieces=PIECES, pause=0.02, cut_after=5)


async def caller(replicas: list[Gateway], call: pb.GenerateRequest, rng: random.Random) -> str | None:
    """The text of a caller that stays, or leaves and comes back where it was; None for one that has left for good."""
    await asyncio.sleep(rng.random() * 0.3)
    frames: list[pb.GenerateResponse] = []
    while True:
        patience = rng.random() * 0.3 if rng.random() < 0.4 else None
        seen = seq_of(frames)
        again = pb.GenerateRequest()
        again.CopyFrom(call)
        again.resume_after_seq = seen
        if not seen:
            frames.clear()
        stream = rng.choice(replicas).generate(again)
        try:
            async with asyncio.timeout(patience):
                while (frame := await stream.read()) is not grpc.aio.EOF:
                    frames.append(frame)
        except TimeoutError:
            stream.cancel()
            if rng.random() < 0.5:
                return None
        else:
            assert frames[-1].HasField("done")
            return text_of(frames)


def seq_of(frames: list[pb.GenerateResponse]) -> int:
    """The last delta of the attempt that counts."""
    seq = 0
    for frame in frames:
        seq = 0 if frame.HasField("started") else frame.delta.seq or seq
    return seq


async def break_connections(valkey_url: str, rng: random.Random) -> None:
    async with redis.asyncio.from_url(valkey_url) as client:
        for _ in range(2):
            await asyncio.sleep(rng.random() * 0.3)
            await client.client_kill_filter(_type="normal", skipme=True)


@pytest.mark.parametrize("seed", range(8))
async def test_who_stays_gets_the_whole_text(
    start_gateway: StartGateway, provider: FakeProvider, valkey_url: str, seed: int
) -> None:
    rng = random.Random(seed)
    replicas = [await start_gateway(lease_seconds=1), await start_gateway(lease_seconds=1)]
    provider.default = Answer(pieces=PIECES, pause=0.02)
    provider.script(*(rng.choice([BROKEN, provider.default, provider.default]) for _ in range(8)))
    calls = [request(f"call {number}") for number in range(8)]

    async with asyncio.TaskGroup() as group:
        callers = [
            group.create_task(caller(replicas, call, random.Random(rng.random()))) for call in calls for _ in range(4)
        ]
        group.create_task(break_connections(valkey_url, rng))

    texts = [task.result() for task in callers]
    assert {text for text in texts if text is not None} <= {TEXT}
    assert [text_of(await rng.choice(replicas).frames(call)) for call in calls] == [TEXT] * len(calls)
    await eventually(lambda: all(call.finished.is_set() or call.closed.is_set() for call in provider.calls))
