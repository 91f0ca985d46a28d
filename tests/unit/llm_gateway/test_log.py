import asyncio

import pytest

from services.llm_gateway.application.log import GenerationLog, Reader
from services.llm_gateway.domain.calls import FinishReason, Usage
from services.llm_gateway.domain.frames import Delta, Done, Frame, Started
from services.shared.errors import ServerDraining

DONE = Done(finish_reason=FinishReason.STOP, usage=Usage(), last_seq=2, model="m")


def started(attempt: int) -> Started:
    return Started(provider="p", model="m", attempt=attempt)


def delta(seq: int) -> Delta:
    return Delta(seq=seq, text=str(seq))


async def read(log: GenerationLog, *, after_seq: int = 0) -> list[Frame]:
    return [frame async for frames in log.read(Reader(after_seq=after_seq)) for frame in frames]


async def test_late_reader_gets_everything_since_the_last_start() -> None:
    log = GenerationLog()
    log.append(started(1), delta(1), started(2), delta(1), DONE)

    assert await read(log) == [started(2), delta(1), DONE]


async def test_reader_that_resumes_gets_what_it_has_not_seen() -> None:
    log = GenerationLog()
    log.append(started(1), delta(1), delta(2), DONE)

    assert await read(log, after_seq=1) == [delta(2), DONE]
    assert await read(log, after_seq=2) == [DONE]


async def test_resuming_counts_for_nothing_once_text_was_voided() -> None:
    log = GenerationLog()
    log.append(started(1), delta(1), started(2), delta(1), delta(2), DONE)

    assert await read(log, after_seq=1) == [started(2), delta(1), delta(2), DONE]


async def test_failed_attempt_without_text_does_not_spoil_resuming() -> None:
    log = GenerationLog()
    log.append(started(1), started(2), delta(1), delta(2), DONE)

    assert await read(log, after_seq=1) == [delta(2), DONE]


async def test_reader_follows_live_and_jumps_to_the_new_start() -> None:
    log = GenerationLog()
    reading = asyncio.create_task(read(log))
    for frames in ([started(1)], [delta(1)], [started(2)], [delta(1), DONE]):
        await asyncio.sleep(0)
        log.append(*frames)

    found = await reading

    assert found[-3:] == [started(2), delta(1), DONE]


async def test_error_reaches_every_reader_after_the_frames() -> None:
    log = GenerationLog()
    log.append(started(1))
    log.fail(ServerDraining())
    frames = log.read(Reader())

    assert await anext(frames) == [started(1)]
    with pytest.raises(ServerDraining):
        await anext(frames)
