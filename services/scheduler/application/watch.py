"""Follows the change log: for watchers, and for jobs that other replicas made ready or took back.

Watchers at the same position share one read. A job that changes several times quickly
shows its latest state at the last of these changes: an earlier one whose state is over
is left out, because the later one is sure to come.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from services.scheduler.application.ports import Change, ChangeLog, Changes, JobReading
from services.scheduler.application.telemetry import SchedulerMetrics
from services.scheduler.domain.errors import ResumeTokenExpired
from services.scheduler.domain.job import Job, JobFilter
from services.shared import paging
from services.shared.lifecycle import wait_for_event

PAGE_ROWS = 200

_TOKEN_OF = {"stream": "jobs"}
_CACHED_PAGES = 64
_POLL_SECONDS = 0.25
# After a commit the log may hide its row for as long as an older transaction runs.
_EAGER_SECONDS = (0.002, 0.005, 0.02, 0.05)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """All changes of transactions before `transaction` were delivered, and `skip` of that one."""

    transaction: int
    skip: int = 0

    @property
    def token(self) -> str:
        return paging.encode_token({"transaction": self.transaction, "skip": self.skip}, arguments=_TOKEN_OF)

    @classmethod
    def of(cls, token: str) -> "Position | None":
        """None for the empty token. Raises `PageTokenInvalid` for one that was not made here."""
        decoded = paging.decode_token(token, arguments=_TOKEN_OF)
        return cls(decoded["transaction"], decoded["skip"]) if decoded else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A job after a change, and the position behind that."""

    position: Position
    job: Job
    deleted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Some events, maybe none, and the position behind them all."""

    events: list[Event]
    position: Position


@dataclass(frozen=True, slots=True)
class _Page:
    events: list[Event]
    next_position: int
    oldest_position: int
    full: bool


class WatchJobs:
    def __init__(
        self, *, log: ChangeLog, reading: JobReading, changed: asyncio.Event, metrics: SchedulerMetrics
    ) -> None:
        self._log = log
        self._reading = reading
        self._changed = changed
        self._metrics = metrics
        self._pages: OrderedDict[int, asyncio.Task[_Page]] = OrderedDict()
        self._pulse = asyncio.Event()
        self.watchers = 0

    async def position(self) -> Position:
        return Position(await self._log.position())

    async def require_kept(self, position: Position) -> None:
        """Raises `ResumeTokenExpired` when changes behind the position are no longer kept."""
        oldest = await self._log.oldest_position()
        if position.transaction < oldest:
            raise ResumeTokenExpired.of(oldest_token=Position(oldest).token)

    async def current(self, job_filter: JobFilter) -> AsyncIterator[Job]:
        """The matching jobs that are not terminal, a page at a time."""
        after = None
        while True:
            page = await self._reading.list_current(job_filter, after=after, limit=PAGE_ROWS)
            for job in page.jobs:
                yield job
            if not page.more:
                return
            after = page.jobs[-1].create_time, page.jobs[-1].job_id

    async def events(self, job_filter: JobFilter, *, start: Position) -> AsyncIterator[Batch]:
        """Changes from `start` on, without end; an empty batch whenever time passes without any."""
        self.watchers += 1
        self._metrics.watchers.inc()
        try:
            position = start
            while True:
                page = await self._page(position.transaction)
                if position.transaction < page.oldest_position:
                    raise ResumeTokenExpired.of(oldest_token=Position(page.oldest_position).token)
                events = [event for event in page.events if event.position > position and job_filter.matches(event.job)]
                position = max(position, Position(page.next_position))
                yield Batch(events=events, position=position)
                if not page.full:
                    await self._pulse.wait()
        finally:
            self.watchers -= 1
            self._metrics.watchers.dec()

    async def run(self, stop: asyncio.Event) -> None:
        """Turns commits of this replica and the passing of time into pulses that watchers wait for."""
        while not stop.is_set():
            woken = await wait_for_event(self._changed, _POLL_SECONDS)
            self._changed.clear()
            self._beat()
            for delay in _EAGER_SECONDS if woken and self.watchers else ():
                if await wait_for_event(self._changed, delay):
                    break
                self._beat()

    def _beat(self) -> None:
        pulse, self._pulse = self._pulse, asyncio.Event()
        pulse.set()

    async def _page(self, transaction: int) -> _Page:
        """Reads from a position once for all watchers that stand there."""
        task = self._pages.get(transaction)
        if task is None or (task.done() and not _reusable(task)):
            task = asyncio.create_task(self._read(transaction), name="watch-page")
            self._pages[transaction] = task
            while len(self._pages) > _CACHED_PAGES:
                self._pages.popitem(last=False)
        return await asyncio.shield(task)

    async def _read(self, transaction: int) -> _Page:
        changes = await self._log.read(transaction, limit=PAGE_ROWS)
        if changes.changes and not changes.full:
            self._metrics.watch_lag.set(changes.changes[-1].age_seconds)
        return _Page(await self._events(changes), changes.next_position, changes.oldest_position, changes.full)

    async def _events(self, changes: Changes) -> list[Event]:
        last = {job_id: index for index, (job_id, _, _) in enumerate(_flatten(changes.changes))}
        deleted = {job.job_id: job for change in changes.changes for job in change.deleted}
        wanted = [job_id for job_id in last if job_id not in deleted]
        jobs = {job.job_id: job for job in await self._reading.get(wanted)} if wanted else {}
        events: list[Event] = []
        for index, (job_id, state, position) in enumerate(_flatten(changes.changes)):
            if last[job_id] != index:
                continue
            if job_id in deleted:
                events.append(Event(position=position, job=deleted[job_id], deleted=True))
            elif job_id in jobs and jobs[job_id].state == state:
                events.append(Event(position=position, job=jobs[job_id]))
        return events


def _flatten(changes: Sequence[Change]) -> list[tuple[str, int, Position]]:
    """Each job of each change with the position behind it; several rows of a transaction count on."""
    flat: list[tuple[str, int, Position]] = []
    transaction, count = 0, 0
    for change in changes:
        if change.position != transaction:
            transaction, count = change.position, 0
        for job_id, state in zip(change.job_ids, change.states, strict=True):
            count += 1
            if state > 0:
                flat.append((job_id, state, Position(transaction, count)))
    return flat


def _reusable(task: "asyncio.Task[_Page]") -> bool:
    """A page that reached the end of the log may by now have a successor."""
    return not task.cancelled() and task.exception() is None and task.result().full
