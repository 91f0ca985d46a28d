"""What a replica may believe about the epochs, and for how long."""

# ruff: noqa: ARG002 - parameters are named by the ports

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from services.indexer.application.epochs import Epochs
from services.indexer.application.ports import Embedded
from services.indexer.domain.epochs import Catalogue, Epoch, Model


@dataclass(slots=True, kw_only=True)
class ManualClock:
    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)

    def monotonic(self) -> float:
        return self.seconds


class OneModel:
    async def embed(self, texts: Sequence[str], *, project_id: str, model: str, priority: int) -> Embedded:
        return Embedded(model="m", dimension=4, vectors=[[0.0] * 4 for _ in texts])


@dataclass(slots=True)
class MemoryStore:
    catalogue: Catalogue = field(default_factory=Catalogue)
    loads: int = 0
    ensured: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def load(self) -> Catalogue:
        self.loads += 1
        found = self.catalogue
        if self.gate is not None:
            await self.gate.wait()
        return found

    async def replace(self, catalogue: Catalogue) -> bool:
        won = catalogue.revision == self.catalogue.revision + 1
        self.catalogue = catalogue if won else self.catalogue
        return won

    async def ensure_collection(self, epoch: Epoch) -> None:
        self.ensured.append(epoch.collection)

    async def serve(self, epoch: Epoch) -> None:
        return None

    async def drop_collection(self, epoch: Epoch) -> None:
        return None


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def epochs(store: MemoryStore, clock: ManualClock) -> Epochs:
    return Epochs(store=store, embedder=OneModel(), clock=clock, name="facts_e{}".format, model="", view_seconds=5.0)


def with_second_epoch(catalogue: Catalogue) -> Catalogue:
    return catalogue.create(
        model=Model(name="m", dimension=4), name="facts_e{}".format, now=datetime.now(UTC), request_id="second"
    )


async def test_view_is_kept_for_its_time_and_not_longer(epochs: Epochs, store: MemoryStore, clock: ManualClock) -> None:
    await epochs.view()
    store.catalogue = with_second_epoch(store.catalogue)

    clock.seconds = 5.0
    assert len((await epochs.view()).epochs) == 1
    clock.seconds = 5.1
    assert len((await epochs.view()).epochs) == 2


async def test_forgotten_view_is_not_brought_back_by_a_load_that_began_before(
    epochs: Epochs, store: MemoryStore
) -> None:
    await epochs.view()
    epochs.forget()
    store.gate = asyncio.Event()
    loading = asyncio.create_task(epochs.view())
    await asyncio.sleep(0)
    store.catalogue = with_second_epoch(store.catalogue)
    epochs.forget()

    store.gate.set()
    await loading

    assert len((await epochs.view()).epochs) == 2


async def test_collections_are_made_sure_of_again_after_a_doubt(epochs: Epochs, store: MemoryStore) -> None:
    await epochs.view()
    store.ensured.clear()
    epochs.forget()

    await epochs.view()

    assert store.ensured == ["facts_e1"]


async def test_callers_share_one_load(epochs: Epochs, store: MemoryStore) -> None:
    await asyncio.gather(*(epochs.view() for _ in range(20)))

    assert store.loads == 1
