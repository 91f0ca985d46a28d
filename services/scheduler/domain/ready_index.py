"""Which waiting job goes next: the ready jobs of a replica, in memory, ordered for fairness.

Within a project, jobs go by rank: the time they became ready plus a penalty per step of
priority, so that a waiting job ages past any later one. Between projects of one type, a
virtual clock per project advances by 1/weight with each job taken, and the project that
is furthest behind goes next. A project that was idle does not save up credit.

Only the first `buffer_size` jobs of each project and type are held; what lies behind
that in the store is fetched in pages, in the same order. A backlog of millions costs
no memory, and no query ever reads past rows that were already served. Jobs whose
`limit_key` is shut are set aside until it opens. The index only proposes: the store
decides who gets a job, so a stale entry does no harm.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

Rank = tuple[datetime, str]

_ASIDE_LIMIT = 1000
_IDLE_BACKLOGS = 1000


class Entry(NamedTuple):
    """One ready job."""

    job_id: str
    type: str
    project_id: str
    rank_time: datetime
    limit_key: str

    @property
    def rank(self) -> Rank:
        return self.rank_time, self.job_id


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Asks for the ready jobs of a project and type behind `after`, in rank order."""

    type: str
    project_id: str
    after: Rank
    limit: int


@dataclass(slots=True, kw_only=True)
class _Backlog:
    """The ready jobs of one project and type. `tail` is the end of what is held, None when all is."""

    project_id: str
    heap: list[tuple[datetime, str, Entry]] = field(default_factory=list[tuple[datetime, str, Entry]])
    served: float = 0.0
    queued: bool = False
    last: Rank | None = None
    tail: Rank | None = None
    fetching: bool = False
    missed: bool = False


@dataclass(slots=True)
class _Aside:
    """Jobs of a shut key. `dropped` says per backlog from where on there are more in the store."""

    entries: deque[Entry] = field(default_factory=deque[Entry])
    dropped: dict[int, tuple[_Backlog, Rank]] = field(default_factory=dict[int, tuple[_Backlog, Rank]])


class _TypeQueue:
    """Backlogs of one type, with those that have entries ordered by their virtual clock."""

    def __init__(self) -> None:
        self.backlogs: dict[str, _Backlog] = {}
        self.order: list[tuple[float, int, _Backlog]] = []
        self.clock = 0.0

    def backlog(self, project_id: str) -> _Backlog:
        found = self.backlogs.get(project_id)
        if found is None:
            found = self.backlogs[project_id] = _Backlog(project_id=project_id, served=self.clock)
        return found


class ReadyIndex:
    def __init__(self, *, buffer_size: int = 5000) -> None:
        self._buffer_size = buffer_size
        self._types: dict[str, _TypeQueue] = {}
        self._weights: dict[str, float] = {}
        self._known: set[str] = set()
        self._aside: dict[str, _Aside] = {}
        self._ticket = itertools.count()
        self._rotation = 0

    def __len__(self) -> int:
        return len(self._known)

    def set_weights(self, weights: dict[str, float]) -> None:
        self._weights = weights

    def push(self, entries: Iterable[Entry]) -> None:
        """Adds jobs that became ready. Those that belong behind the held part are left to a later page."""
        for entry in entries:
            if entry.job_id not in self._known:
                queue = self._types.get(entry.type)
                if queue is None:
                    queue = self._types[entry.type] = _TypeQueue()
                backlog = queue.backlog(entry.project_id)
                if self._belongs(backlog, entry):
                    self._insert(queue, backlog, entry)

    def take(self, types: Sequence[str], limit: int) -> list[Entry]:
        """The next jobs of these types, at most `limit`; types take turns."""
        taken: list[Entry] = []
        queues = [queue for name in types if (queue := self._types.get(name)) and queue.order]
        while queues and len(taken) < limit:
            self._rotation += 1
            queue = queues[self._rotation % len(queues)]
            entry = self._next(queue)
            if entry is None:
                queues.remove(queue)
            else:
                taken.append(entry)
        for queue in self._types.values():
            if len(queue.backlogs) > 2 * len(queue.order) + _IDLE_BACKLOGS:
                self._forget_idle(queue)
        return taken

    def has_ready(self, types: Iterable[str]) -> bool:
        return any((queue := self._types.get(name)) and queue.order for name in types)

    def has_waiting(self, job_type: str) -> bool:
        """Whether any job of the type waits, here or in a page that is yet to come."""
        queue = self._types.get(job_type)
        return queue is not None and any(
            backlog.heap or backlog.tail or backlog.fetching for backlog in queue.backlogs.values()
        )

    def shut(self, limit_key: str) -> None:
        """Sets jobs of this key aside as they come up, until `open`."""
        self._aside.setdefault(limit_key, _Aside())

    def open(self, limit_key: str) -> bool:
        """Offers the jobs of this key again. Returns whether there are any."""
        aside = self._aside.pop(limit_key, None)
        if aside is None:
            return False
        for entry in aside.entries:
            self._known.discard(entry.job_id)
        self.push(aside.entries)
        for backlog, rank in aside.dropped.values():
            backlog.tail = min(rank, backlog.tail or rank)
        return bool(aside.entries)

    def page_requests(self, types: Iterable[str]) -> Iterator[PageRequest]:
        """Pages to fetch now. Each must be answered by `add_page` or `page_failed`."""
        for name in types:
            for backlog in self._types[name].backlogs.values() if name in self._types else ():
                if backlog.tail and not backlog.fetching and len(backlog.heap) < self._buffer_size // 4:
                    backlog.fetching = True
                    backlog.missed = False
                    yield PageRequest(
                        type=name, project_id=backlog.project_id, after=backlog.tail, limit=self._buffer_size
                    )

    def add_page(self, request: PageRequest, entries: Sequence[Entry]) -> None:
        """Takes a requested page in. A full page means that there may be more behind it."""
        self._types[request.type].backlogs[request.project_id].fetching = False
        self._extend(request.type, request.project_id, entries, whole=len(entries) < request.limit)

    def add_heads(self, job_type: str, project_id: str, entries: Sequence[Entry], *, whole: bool) -> None:
        """Takes in the first ready jobs of the store, in rank order; `whole` tells that nothing lies behind them."""
        queue = self._types.get(job_type)
        backlog = queue.backlogs.get(project_id) if queue else None
        if backlog is not None and backlog.heap:
            self.push(entries)
        else:
            self._extend(job_type, project_id, entries, whole=whole)

    def _extend(self, job_type: str, project_id: str, entries: Sequence[Entry], *, whole: bool) -> None:
        queue = self._types.setdefault(job_type, _TypeQueue())
        backlog = queue.backlog(project_id)
        if entries:
            backlog.tail = entries[-1].rank
        if whole and not backlog.missed:
            backlog.tail = None
        for entry in entries:
            if entry.job_id not in self._known:
                self._insert(queue, backlog, entry)

    def page_failed(self, request: PageRequest) -> None:
        self._types[request.type].backlogs[request.project_id].fetching = False

    def _forget_idle(self, queue: _TypeQueue) -> None:
        """Drops backlogs that are empty and have caught up, so that projects may come and go for ever."""
        queue.backlogs = {
            project_id: backlog
            for project_id, backlog in queue.backlogs.items()
            if backlog.heap or backlog.tail or backlog.fetching or backlog.queued or backlog.served > queue.clock
        }

    def _belongs(self, backlog: _Backlog, entry: Entry) -> bool:
        if backlog.tail is None and len(backlog.heap) >= self._buffer_size:
            backlog.tail = backlog.last
        if backlog.tail is None or entry.rank <= backlog.tail:
            return True
        # A page that is being fetched may have been read before this job was there.
        backlog.missed = True
        return False

    def _insert(self, queue: _TypeQueue, backlog: _Backlog, entry: Entry) -> None:
        self._known.add(entry.job_id)
        heapq.heappush(backlog.heap, (entry.rank_time, entry.job_id, entry))
        if backlog.last is None or entry.rank > backlog.last:
            backlog.last = entry.rank
        self._enqueue(queue, backlog)

    def _enqueue(self, queue: _TypeQueue, backlog: _Backlog) -> None:
        if not backlog.queued:
            backlog.queued = True
            backlog.served = max(backlog.served, queue.clock)
            heapq.heappush(queue.order, (backlog.served, next(self._ticket), backlog))

    def _next(self, queue: _TypeQueue) -> Entry | None:
        while queue.order:
            queue.clock, _, backlog = heapq.heappop(queue.order)
            backlog.queued = False
            entry = self._first_open(backlog)
            if entry is not None:
                backlog.served = queue.clock + 1.0 / self._weights.get(backlog.project_id, 1.0)
                self._known.discard(entry.job_id)
            if backlog.heap:
                self._requeue(queue, backlog)
            if not queue.order:
                # Nobody waits, so nobody is owed anything.
                queue.clock = max(queue.clock, backlog.served)
            if entry is not None:
                return entry
        return None

    def _requeue(self, queue: _TypeQueue, backlog: _Backlog) -> None:
        backlog.queued = True
        heapq.heappush(queue.order, (backlog.served, next(self._ticket), backlog))

    def _first_open(self, backlog: _Backlog) -> Entry | None:
        while backlog.heap:
            entry = heapq.heappop(backlog.heap)[2]
            aside = self._aside.get(entry.limit_key) if entry.limit_key else None
            if aside is None:
                return entry
            self._set_aside(aside, backlog, entry)
        return None

    def _set_aside(self, aside: _Aside, backlog: _Backlog, entry: Entry) -> None:
        """Keeps some jobs of a shut key; of the others only where a page must begin to find them again."""
        if len(aside.entries) < _ASIDE_LIMIT:
            aside.entries.append(entry)
        else:
            self._known.discard(entry.job_id)
            before = entry.rank_time - timedelta(microseconds=1), entry.job_id
            _, lowest = aside.dropped.get(id(backlog), (backlog, before))
            aside.dropped[id(backlog)] = backlog, min(lowest, before)
