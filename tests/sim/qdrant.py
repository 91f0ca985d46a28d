"""Qdrant as measured by `tests/contract/qdrant`: collections, conditional upserts, waits that end without an answer.

A request that was sent lands at some time or never, whether or not the sender still waits: late, twice,
after a time-out, after the sender's death. Points that do not exist are inserted whatever the
`update_filter` says; the filter is evaluated with the write. `watch` sees every landing.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from services.indexer.domain.epochs import Catalogue
from services.indexer.domain.errors import CollectionMissing
from services.shared.errors import OutcomeUnknown, Unavailable
from tests.sim.host import Host
from tests.sim.world import World

TIMEOUT = 2.0
LATEST = 8.0
"""Seconds after which a request that was sent will not land any more."""

T = TypeVar("T")


class StoredPoint(NamedTuple):
    fact_id: str
    version: int
    content_hash: bytes
    epoch: int
    project_id: str
    source_id: str
    tombstone: bool
    bucket: int
    model: float
    statement: str
    deleted_at: float


Collection = dict[str, StoredPoint]


class Image(NamedTuple):
    """All of the store at one time. The catalogue of epochs is a point like any other."""

    collections: dict[str, Collection]
    catalogue: Catalogue
    writer: str
    alias: str


class Qdrant:
    def __init__(self, world: World) -> None:
        self.world = world
        self.collections: dict[str, Collection] = {}
        self.catalogue = Catalogue()
        self.writer = ""
        self.alias = ""
        self.away_until = 0.0
        self.lives = 0
        self.watch: Callable[[str, str, StoredPoint | None, StoredPoint | None], None] = lambda *_: None

    def image(self) -> Image:
        return Image(
            {name: dict(points) for name, points in self.collections.items()}, self.catalogue, self.writer, self.alias
        )

    def restore(self, image: Image) -> None:
        self.world.step("qdrant", "restore", {name: len(points) for name, points in image.collections.items()})
        self.lives += 1
        self.collections = {name: dict(points) for name, points in image.collections.items()}
        self.catalogue, self.writer, self.alias = image.catalogue, image.writer, image.alias

    def collection(self, name: str) -> Collection:
        found = self.collections.get(name)
        if found is None:
            raise CollectionMissing.of_collection(name)
        return found

    def put(self, collection: str, point_id: str, point: StoredPoint) -> None:
        points = self.collections[collection]
        before = points.get(point_id)
        points[point_id] = point
        self.watch(collection, point_id, before, point)

    def remove(self, collection: str, point_id: str) -> None:
        before = self.collections[collection].pop(point_id, None)
        self.watch(collection, point_id, before, None)

    async def read(self, host: Host, look: Callable[[], T]) -> T:
        """What `look` sees when the request arrives."""
        await host.proceed()
        await asyncio.sleep(self.world.delay(0.002))
        if self.away_until > self.world.loop.time():
            raise Unavailable.of("qdrant")
        seen = look()
        await host.wait(self.world.delay(0.001))
        return seen

    async def write(self, host: Host, change: Callable[[], T], *, what: str) -> T:
        """Applies `change` on arrival; raises `OutcomeUnknown` when no answer comes in time."""
        await host.proceed()
        world, faults = self.world, self.world.faults
        there, back = world.delay(0.004), world.delay(0.001)
        if world.happens(faults.late_write):
            there = world.rng.uniform(TIMEOUT, LATEST)
        answers: list[T | CollectionMissing] = []
        if self.away_until <= world.loop.time() or world.happens(0.2):
            world.loop.call_later(there, self._land, change, answers, what)
            if world.happens(faults.duplicate_write):
                world.loop.call_later(there + world.rng.uniform(0, LATEST - TIMEOUT), self._land, change, [], what)
        else:
            there = TIMEOUT
        if world.happens(faults.unknown_write):
            back = TIMEOUT
        await host.wait(min(there + back, TIMEOUT))
        if there + back >= TIMEOUT or not answers:
            world.step(host.name, "outcome unknown", what)
            raise OutcomeUnknown.of("qdrant")
        if isinstance(answers[0], CollectionMissing):
            raise answers[0]
        return answers[0]

    def _land(self, change: Callable[[], T], answers: list[T | CollectionMissing], what: str) -> None:
        self.world.step("qdrant", "lands", what)
        try:
            answers.append(change())
        except CollectionMissing as error:
            answers.append(error)
