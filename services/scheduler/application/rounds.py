"""How a loop goes on when its work fails: it tries again, ever less often, and says what nobody has said yet."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from services.scheduler.application.ports import StoreAway
from services.shared.errors import ServiceError
from services.shared.lifecycle import wait_for_event
from services.shared.retry import Backoff

logger = structlog.stdlib.get_logger(__name__)

# Short enough that work goes on soon after an outage. Jitter is left out: a replica has a handful of loops.
_BACKOFF = Backoff(initial=timedelta(milliseconds=200), maximum=timedelta(seconds=2))


class Failures:
    """The failures of one kind of work since it last went well."""

    def __init__(self, work: str) -> None:
        self._work = work
        self._count = 0

    def add(self, error: Exception) -> float:
        """Returns the seconds to wait before the next try."""
        self._count += 1
        match error:
            case StoreAway():
                pass  # its adapter has said so, once for all
            case ServiceError():
                logger.warning("work_failed", work=self._work, failures=self._count, error=str(error))
            case _:
                logger.error("work_failed", work=self._work, failures=self._count, exc_info=error)
        return _BACKOFF.ceiling(self._count).total_seconds()

    def end(self) -> None:
        self._count = 0


async def rounds(
    work: Callable[[], Awaitable[float]], *, name: str, stop: asyncio.Event, wake: asyncio.Event | None = None
) -> None:
    """Does the work until `stop`: again after the seconds that it returns, or once `wake` is set, which this clears."""
    failures = Failures(name)
    while not stop.is_set():
        if wake is not None:
            wake.clear()
        try:
            pause = await work()
        except Exception as error:  # noqa: BLE001 - a loop outlives whatever its work raises
            await wait_for_event(stop, failures.add(error))
        else:
            failures.end()
            await _first_of(stop, wake, seconds=pause)


async def _first_of(stop: asyncio.Event, wake: asyncio.Event | None, *, seconds: float) -> None:
    """Waits until one of the events is set, at most so long."""
    if wake is None:
        await wait_for_event(stop, seconds)
        return
    waits = [asyncio.create_task(event.wait()) for event in (stop, wake)]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
