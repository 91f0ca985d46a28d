"""The time left for the work at hand, carried through awaits so that outbound calls inherit it.

A server interceptor opens the scope of a call; a worker may open one for a job.
Work that outlives its caller runs inside `detached()`.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("scristill_deadline", default=None)


def remaining() -> float | None:
    """Seconds until the deadline of the current scope, negative when it has passed; None without one."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()


@contextmanager
def within(seconds: float) -> Generator[None]:
    """Opens a scope that ends in so many seconds, or earlier if the surrounding scope does."""
    outer = _deadline.get()
    own = time.monotonic() + seconds
    token = _deadline.set(own if outer is None else min(own, outer))
    try:
        yield
    finally:
        _deadline.reset(token)


@contextmanager
def detached() -> Generator[None]:
    """Opens a scope without a deadline. Tasks started inside do not inherit the caller's."""
    token = _deadline.set(None)
    try:
        yield
    finally:
        _deadline.reset(token)
