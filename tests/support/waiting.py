"""Waiting on a condition instead of on a clock."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

INTERVAL_SECONDS = 0.02

Result = TypeVar("Result")


async def eventually(
    check: Callable[[], Result | Awaitable[Result]], *, within: float = 30.0, every: float = INTERVAL_SECONDS
) -> Result:
    """Repeats `check`, with pauses of `every` seconds, until its answer is true, and returns that answer.

    A check may be sync or async. An AssertionError counts as "not yet", so that a check can be written as a test is;
    any other error ends the wait at once. When the time is up, the last AssertionError or the last answer is raised.
    """
    deadline = time.monotonic() + within
    while True:
        failure: AssertionError | None = None
        answer: Result | None = None
        try:
            outcome = check()
            answer = await outcome if inspect.isawaitable(outcome) else outcome
        except AssertionError as error:
            failure = error
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise failure or AssertionError(f"not so within {within} s; the last answer was {answer!r}")
        await asyncio.sleep(every)
