"""Start-time fair queueing: who is next when several projects wait for one model.

Each project has a lane ordered by priority, then arrival. Virtual time advances with the
start tag of what is served; a lane's next start tag is the later of virtual time and its
last finish tag, which is `cost / weight` after the start. A project that sends a thousand
requests therefore waits for itself, not the others for it. Costs are in any one unit.
"""

import heapq
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

ItemT = TypeVar("ItemT", bound=Hashable)


@dataclass(slots=True)
class _Lane(Generic[ItemT]):
    finish: float
    waiting: list[tuple[int, int, float, ItemT]] = field(default_factory=list[tuple[int, int, float, ItemT]])
    live: int = 0


class FairQueue(Generic[ItemT]):
    """Items are unique. All steps are O(log n) in the items of a lane and O(lanes) in the projects that wait."""

    def __init__(self, *, weight: Callable[[str], float]) -> None:
        self._weight = weight
        self._lanes: dict[str, _Lane[ItemT]] = {}
        self._items: dict[ItemT, str] = {}
        self._virtual = 0.0
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._items)

    def waiting_of(self, project: str) -> int:
        lane = self._lanes.get(project)
        return lane.live if lane else 0

    def push(self, item: ItemT, *, project: str, priority: int, cost: float) -> None:
        lane = self._lanes.setdefault(project, _Lane(finish=self._virtual))
        heapq.heappush(lane.waiting, (priority, next(self._arrivals), cost, item))
        lane.live += 1
        self._items[item] = project

    def discard(self, item: ItemT) -> None:
        """Takes the item out, wherever it stands. Its place in the heap is cleared when it comes up."""
        project = self._items.pop(item, None)
        if project is not None:
            self._lanes[project].live -= 1
            self._drop_if_idle(project)

    def pop(self) -> ItemT:
        """The next item. Raises `IndexError` when nothing waits."""
        if not self._items:
            raise IndexError("pop from an empty queue")
        project = min((name for name, lane in self._lanes.items() if lane.live), key=self._start_tag)
        lane = self._lanes[project]
        start = self._start_tag(project)
        while True:
            _, _, cost, item = heapq.heappop(lane.waiting)
            if item in self._items:
                break
        del self._items[item]
        lane.live -= 1
        self._virtual = start
        lane.finish = start + cost / self._weight(project)
        self._drop_if_idle(project)
        return item

    def _start_tag(self, project: str) -> float:
        return max(self._virtual, self._lanes[project].finish)

    def _drop_if_idle(self, project: str) -> None:
        lane = self._lanes[project]
        if lane.live:
            return
        lane.waiting.clear()
        if not self._items:
            self._lanes.clear()
            return
        # What an idle lane has had too early stays owed until virtual time has passed it.
        for name in [name for name, each in self._lanes.items() if not each.live and each.finish <= self._virtual]:
            del self._lanes[name]
