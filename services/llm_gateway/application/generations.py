"""All generations of this process, by request id: callers attach here.

The first caller of a request id starts its generation, later ones join it. When the last
one leaves, the run is cancelled, unless one of them asked to detach or a caller on another
replica still follows. On a drain running generations may finish for a while; what is left
then is handed over, so that another replica can claim it at once.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from itertools import count

import structlog

from services.llm_gateway.application.attempts import GenerationRoute
from services.llm_gateway.application.generation import Generation
from services.llm_gateway.application.log import Reader
from services.llm_gateway.domain.calls import GenerateCall
from services.llm_gateway.domain.frames import Frame
from services.shared import deadlines
from services.shared.errors import RequestIdReused, ServerDraining
from services.shared.lifecycle import Drain

logger = structlog.stdlib.get_logger(__name__)

GenerationFactory = Callable[[GenerateCall, str, GenerationRoute], Generation]


class Generations:
    def __init__(
        self,
        *,
        instance: str,
        route: Callable[[str], GenerationRoute],
        make: GenerationFactory,
        drain: Drain,
        finish_seconds: float,
    ) -> None:
        """`route` finds a model by name; `finish_seconds` is how long runs may go on once the drain has started."""
        self._instance = instance
        self._route = route
        self._make = make
        self._drain = drain
        self._finish_seconds = finish_seconds
        self._numbers = count(1)
        self._running: dict[str, Generation] = {}
        self._tasks: dict[Generation, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    @property
    def running(self) -> int:
        return len(self._tasks)

    async def run(self, stop: asyncio.Event) -> None:
        """Owns the tasks of all generations. After the drain has started, hands over what does not finish in time."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            stopping = asyncio.create_task(stop.wait())
            draining = asyncio.create_task(self._drain.wait())
            await asyncio.wait({stopping, draining}, return_when=asyncio.FIRST_COMPLETED)
            if self._tasks and not stop.is_set():
                await asyncio.wait({*self._tasks.values(), stopping}, timeout=self._finish_seconds)
            draining.cancel()
            self._group = None
            for task in self._tasks.values():
                task.cancel()
            await stopping

    async def attach(
        self, call: GenerateCall, *, after_seq: int, detach: bool, deadline: float | None
    ) -> AsyncGenerator[Sequence[Frame]]:
        """Frames of the call for one caller, until its `Done`; raises what the call failed with.

        `deadline` is when the caller leaves, on the monotonic clock.
        """
        generation = self._running.get(call.request_id)
        if generation is None:
            generation = self._start(call)
        elif generation.call.fingerprint != call.fingerprint:
            raise RequestIdReused("the request id stands for another request", metadata={"request_id": call.request_id})
        reader = Reader(after_seq=after_seq, deadline=deadline)
        generation.readers.add(reader)
        generation.detached = generation.detached or detach
        try:
            async with aclosing(generation.log.read(reader)) as batches:
                async for frames in batches:
                    yield frames
        finally:
            generation.readers.discard(reader)
            self._left(generation)

    def start_detached(self, call: GenerateCall) -> None:
        """Begins the call without a caller; does nothing when it runs here already."""
        if call.request_id not in self._running:
            self._start(call).detached = True

    def _start(self, call: GenerateCall) -> Generation:
        route = self._route(call.model)
        if self._group is None or self._drain.started:
            raise ServerDraining
        generation = self._make(call, f"{self._instance}/{next(self._numbers)}", route)
        self._running[call.request_id] = generation
        with deadlines.detached():
            task = self._group.create_task(generation.run(), name=f"generation:{call.request_id}")
        self._tasks[generation] = task
        task.add_done_callback(lambda _: self._ended(generation))
        return generation

    def _ended(self, generation: Generation) -> None:
        del self._tasks[generation]
        self._forget(generation)

    def _forget(self, generation: Generation) -> None:
        if self._running.get(generation.call.request_id) is generation:
            del self._running[generation.call.request_id]

    def _left(self, generation: Generation) -> None:
        alone = not generation.readers and not generation.detached
        if alone and not generation.log.ended and self._group is not None and not self._drain.started:
            # A caller who comes back joins through the store, whatever becomes of this run.
            self._forget(generation)
            with deadlines.detached():
                self._group.create_task(self._stop_if_unneeded(generation), name="abandon")

    async def _stop_if_unneeded(self, generation: Generation) -> None:
        task = self._tasks.get(generation)
        if task is None:
            return
        waiting = asyncio.ensure_future(generation.may_stop())
        await asyncio.wait({waiting, task}, return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            return
        error = waiting.exception()
        if error is not None:
            # Without the store nobody else can follow; money is saved rather than spent.
            logger.warning("abandon_unconfirmed", request_id=generation.call.request_id, exc_info=error)
        if error is not None or waiting.result():
            task.cancel()
