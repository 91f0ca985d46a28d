"""The capacity of a model as its callers watch it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.llm_gateway.application.admission import Admission
from services.llm_gateway.application.catalogue import Catalogue
from services.llm_gateway.domain.calls import Operation
from services.shared.clock import Clock

# Changes that follow each other faster are told as one.
_MIN_INTERVAL_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """`gate_opens` is on the monotonic clock, 0 when the gate is open; `gate_until` is the same as time of day."""

    concurrency_limit: int
    in_flight: int
    queued: int
    queue_limit: int
    gate_opens: float
    gate_until: datetime | None = field(compare=False)
    predicted_wait: timedelta | None = field(compare=False)


class WatchCapacity:
    def __init__(self, *, catalogue: Catalogue, clock: Clock) -> None:
        self._catalogue = catalogue
        self._clock = clock

    def __call__(self, *, model: str, operation: Operation) -> AsyncGenerator[Capacity]:
        """The capacity now, and again whenever it has changed; never ends by itself. Raises `ModelNotFound` at once."""
        if operation is Operation.GENERATE:
            return self._changes(self._catalogue.generation(model).admission)
        return self._changes(self._catalogue.embedding(model).admission)

    async def _changes(self, admission: Admission) -> AsyncGenerator[Capacity]:
        told: Capacity | None = None
        while True:
            capacity = self._of(admission)
            if capacity == told:
                await admission.next_change()
                continue
            told = capacity
            yield capacity
            await asyncio.sleep(_MIN_INTERVAL_SECONDS)

    def _of(self, admission: Admission) -> Capacity:
        shut = timedelta(seconds=admission.gate_seconds)
        return Capacity(
            concurrency_limit=admission.concurrency_limit,
            in_flight=admission.in_flight,
            queued=admission.waiting,
            queue_limit=admission.queue_limit,
            gate_opens=admission.gate_opens if shut else 0.0,
            gate_until=self._clock.now() + shut if shut else None,
            predicted_wait=admission.predicted_wait(),
        )
