"""The frames of one generation in memory, and its readers.

Any number of readers follow one log, each at its own pace. A `Started` frame makes all
frames before it void: they are dropped, and a reader that lags goes on at the new start.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from services.llm_gateway.domain.frames import Delta, Done, Frame, Started
from services.shared.errors import ServiceError


@dataclass(slots=True, kw_only=True, eq=False)
class Reader:
    """One caller. `deadline` is on the monotonic clock."""

    after_seq: int = 0
    deadline: float | None = None


class GenerationLog:
    def __init__(self) -> None:
        self._frames: list[Frame] = []
        self._era = 0
        self._error: ServiceError | None = None
        self._ended = False
        self._waiting: list[asyncio.Future[None]] = []
        self.restarted = False
        """Whether deltas of an earlier attempt may have been seen, so that `after_seq` says nothing."""

    @property
    def ended(self) -> bool:
        return self._ended

    def append(self, *frames: Frame) -> None:
        for frame in frames:
            if isinstance(frame, Started):
                self.restarted = self.restarted or any(isinstance(each, Delta) for each in self._frames)
                self._frames = []
                self._era += 1
            elif isinstance(frame, Done):
                self._ended = True
            self._frames.append(frame)
        self._wake()

    def fail(self, error: ServiceError) -> None:
        self._error = error
        self._ended = True
        self._wake()

    async def read(self, reader: Reader) -> AsyncGenerator[Sequence[Frame]]:
        """Frames as they come, all that is there at once; raises the error that the generation ended with."""
        era, index = self._era, 0
        while True:
            if era != self._era:
                era, index = self._era, 0
            batch = self._frames[index:]
            index = len(self._frames)
            if batch and (wanted := self._wanted(batch, reader)):
                yield wanted
                continue
            if self._ended and era == self._era and index == len(self._frames):
                if self._error is not None:
                    raise self._error
                return
            await self._next_change()

    def _wanted(self, batch: Sequence[Frame], reader: Reader) -> Sequence[Frame]:
        """Leaves out what a reader who resumes has seen. Once the log has restarted nothing counts as seen."""
        after = 0 if self.restarted else reader.after_seq
        if not after:
            return batch
        return [
            frame
            for frame in batch
            if not isinstance(frame, Started) and not (isinstance(frame, Delta) and frame.seq <= after)
        ]

    async def _next_change(self) -> None:
        change: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(change)
        try:
            await change
        finally:
            if change in self._waiting:
                self._waiting.remove(change)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)
