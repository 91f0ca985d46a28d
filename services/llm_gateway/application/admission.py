"""Who may call a model now: a bounded, fair, deadline-aware queue in front of a concurrency limit.

One `Admission` per provider, model and operation. A call that finds a free slot and an
empty queue passes at once. Otherwise it waits its turn by `FairQueue`, or is refused:
the queue is full, or the predicted wait is longer than the caller will stay. A
`Retry-After` of the provider shuts the gate for everybody until it has passed.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from services.llm_gateway.application.ports import CallObserver, ConcurrencyLimit, Sample
from services.llm_gateway.domain.fair_queue import FairQueue
from services.llm_gateway.domain.frames import Queued
from services.shared.clock import Clock
from services.shared.errors import DeadlineUnreachable, ResourceExhausted

_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """Requests that may wait for one model: in all, and of one project."""

    total: int = 1000
    per_project: int = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Who asks for a slot. `deadline` is on the monotonic clock; None waits for ever."""

    project_id: str
    priority: int
    cost: float
    deadline: float | None
    again: bool = False


class Admission:
    def __init__(
        self,
        *,
        limit: ConcurrencyLimit,
        queue_limits: QueueLimits,
        weight: Callable[[str], float],
        observer: CallObserver,
        clock: Clock,
    ) -> None:
        self._limit = limit
        self._observer = observer
        self._queue_limits = queue_limits
        self._queue: FairQueue[asyncio.Future[None]] = FairQueue(weight=weight)
        self._clock = clock
        self._in_flight = 0
        self._gate_until = 0.0
        self._reopening: asyncio.TimerHandle | None = None
        self._service_seconds: float | None = None
        self._changed = asyncio.Event()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def concurrency_limit(self) -> int:
        return self._limit.limit

    @property
    def queue_limit(self) -> int:
        return self._queue_limits.total

    @property
    def gate_opens(self) -> float:
        """When the gate opens or has opened, on the monotonic clock."""
        return self._gate_until

    @property
    def gate_seconds(self) -> float:
        """How long the gate stays shut."""
        return max(0.0, self._gate_until - self._clock.monotonic())

    def predicted_wait(self) -> timedelta | None:
        """How long a request sent now would wait; None until a call has ended."""
        if self._is_free():
            return timedelta()
        if self._service_seconds is None:
            return timedelta(seconds=self.gate_seconds) if self.gate_seconds else None
        turns = (len(self._queue) + 1) / max(1, self._limit.limit)
        return timedelta(seconds=self.gate_seconds + turns * self._service_seconds)

    async def next_change(self) -> None:
        """Returns once anything above may have changed."""
        await self._changed.wait()

    def record(self, sample: Sample) -> None:
        """How a call that held a slot went."""
        self._limit.record(sample)
        self._observer.attempt_ended(sample)

    def shut_gate(self, delay: timedelta) -> None:
        """No call starts before `delay` has passed. A gate that is shut for longer stays so."""
        self._gate_until = max(self._gate_until, self._clock.monotonic() + delay.total_seconds())
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = asyncio.get_running_loop().call_later(self.gate_seconds, self._dispatch)
        self._note_change()

    @asynccontextmanager
    async def slot(self, ticket: Ticket, *, on_queued: Callable[[Queued], None]) -> AsyncGenerator[None]:
        """Holds one slot for the block. `on_queued` is called once if the request has to wait."""
        if self._is_free() and not self._queue:
            self._in_flight += 1
            self._note_change()
        else:
            await self._wait(ticket, on_queued)
        started = self._clock.monotonic()
        try:
            yield
        finally:
            self._note(self._clock.monotonic() - started)
            self._release()

    def _is_free(self) -> bool:
        return self._in_flight < self._limit.limit and not self.gate_seconds

    async def _wait(self, ticket: Ticket, on_queued: Callable[[Queued], None]) -> None:
        predicted = self.predicted_wait()
        if not ticket.again:
            self._refuse_if_full(ticket, predicted)
        self._refuse_if_too_late(ticket, predicted)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        on_queued(Queued(position=len(self._queue), predicted_wait=predicted))
        priority = -1 if ticket.again else ticket.priority
        self._queue.push(turn, project=ticket.project_id, priority=priority, cost=ticket.cost)
        self._dispatch()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._release()
            else:
                self._queue.discard(turn)
            raise

    def _refuse_if_full(self, ticket: Ticket, predicted: timedelta | None) -> None:
        limits = self._queue_limits
        if len(self._queue) >= limits.total:
            raise ResourceExhausted.of(
                "server", limits.total, f"{limits.total} requests wait for this model already", retry_delay=predicted
            )
        if self._queue.waiting_of(ticket.project_id) >= limits.per_project:
            raise ResourceExhausted.of(
                "project",
                limits.per_project,
                f"{limits.per_project} requests of this project wait for this model already",
                retry_delay=predicted,
            )

    def _refuse_if_too_late(self, ticket: Ticket, predicted: timedelta | None) -> None:
        if ticket.deadline is None or predicted is None:
            return
        if predicted.total_seconds() > ticket.deadline - self._clock.monotonic():
            milliseconds = round(predicted.total_seconds() * 1000)
            raise DeadlineUnreachable(
                f"the predicted wait of {milliseconds} ms is longer than the deadline allows",
                metadata={"predicted_wait_ms": milliseconds},
            )

    def _release(self) -> None:
        self._in_flight -= 1
        self._dispatch()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _dispatch(self) -> None:
        self._note_change()
        while self._queue and self._is_free():
            turn = self._queue.pop()
            if not turn.done():
                self._in_flight += 1
                turn.set_result(None)

    def _note(self, seconds: float) -> None:
        before = self._service_seconds
        self._service_seconds = seconds if before is None else before + _SMOOTHING * (seconds - before)
