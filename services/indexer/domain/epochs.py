"""Epochs: generations of the index, one embedding model and one collection each.

    create ──▶ BUILDING ──promote──▶ SERVING ◀──promote──┐
                  │                     │ another one is promoted
                  │                     ▼                │
                  └──drop──▶ DROPPED ◀──drop── RETIRING ─┘

All epochs but dropped ones take every write, exactly one is searched, and at most one
is being built. The catalogue is one value that is replaced as a whole, under a
revision that grows by one: two replicas cannot both carry out a transition.

A number is unique in its catalogue, a collection in all of them: where Qdrant was
restored or wiped, numbers come again, and requests on their way to the collection of an
epoch that is forgotten must not find that of another model.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Self

from services.indexer.domain.errors import EpochGateOpen, EpochNotWritable, NoServingEpoch

Naming = Callable[[int], str]
"""Gives a new name for the collection of an epoch of that number, another one each time."""


class EpochState(StrEnum):
    BUILDING = "building"
    SERVING = "serving"
    RETIRING = "retiring"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    number: int
    state: EpochState
    model: str
    dimension: int
    collection: str
    created: datetime
    request_id: str

    @property
    def writable(self) -> bool:
        return self.state is not EpochState.DROPPED


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """An embedding model and the length of its vectors."""

    name: str
    dimension: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    revision: int = 0
    epochs: tuple[Epoch, ...] = ()

    @property
    def serving(self) -> Epoch:
        found = next((epoch for epoch in self.epochs if epoch.state is EpochState.SERVING), None)
        if found is None:
            raise NoServingEpoch
        return found

    @property
    def writable(self) -> tuple[Epoch, ...]:
        return tuple(epoch for epoch in self.epochs if epoch.writable)

    @property
    def empty(self) -> bool:
        return not self.epochs

    def get(self, number: int) -> Epoch:
        """An epoch that is not dropped; 0 names the one that is searched."""
        if number == 0:
            return self.serving
        found = next((epoch for epoch in self.epochs if epoch.number == number), None)
        if found is None or not found.writable:
            raise EpochNotWritable.of(number, (found.state if found else EpochState.DROPPED).name)
        return found

    def created_by(self, request_id: str) -> Epoch | None:
        return next((epoch for epoch in self.epochs if epoch.request_id == request_id), None)

    def create(self, *, model: Model, name: Naming, now: datetime, request_id: str) -> Self:
        """Adds an epoch; the first one of all serves at once, as there is nothing to fill it from."""
        building = next((epoch for epoch in self.epochs if epoch.state is EpochState.BUILDING), None)
        if building is not None:
            raise EpochGateOpen.of(building.number, "building", "is being built; promote or drop it first")
        number = max((epoch.number for epoch in self.epochs), default=0) + 1
        epoch = Epoch(
            number=number,
            state=EpochState.SERVING if self.empty else EpochState.BUILDING,
            model=model.name,
            dimension=model.dimension,
            collection=name(number),
            created=now,
            request_id=request_id,
        )
        return replace(self, revision=self.revision + 1, epochs=(*self.epochs, epoch))

    def promote(self, number: int) -> Self:
        """Searches this epoch from now on. The gates of content are the caller's to check before."""
        promoted = self.get(number)
        if promoted.state is EpochState.SERVING:
            return self
        return self._with({self.serving.number: EpochState.RETIRING, number: EpochState.SERVING})

    def drop(self, number: int) -> Self:
        target = next((epoch for epoch in self.epochs if epoch.number == number), None)
        if target is None:
            raise EpochNotWritable.of(number, EpochState.DROPPED.name)
        if target.state is EpochState.SERVING:
            raise EpochGateOpen.of(number, "serving", "is the one that is searched")
        return self if target.state is EpochState.DROPPED else self._with({number: EpochState.DROPPED})

    def _with(self, states: dict[int, EpochState]) -> Self:
        epochs = tuple(replace(epoch, state=states.get(epoch.number, epoch.state)) for epoch in self.epochs)
        return replace(self, revision=self.revision + 1, epochs=epochs)
