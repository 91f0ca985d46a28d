"""One open `LeaseJobs` call, as the dispatcher sees it."""

import asyncio
import uuid
from collections.abc import Iterable, Sequence

from services.scheduler.domain.job import LeasedJob, LeaseRef
from services.shared.lifecycle import wait_for_event

_SILENCE_SECONDS = 60.0


class LeaseStream:
    """What its worker can do, holds, and is about to receive."""

    def __init__(
        self, *, worker_id: str, types: Sequence[str], max_in_flight: int, held: Iterable[LeaseRef] = ()
    ) -> None:
        self.stream_id = uuid.uuid4().hex
        self.worker_id = worker_id
        self.types = tuple(types)
        self.held = {lease.job_id: lease for lease in held}
        self.claiming = 0
        self.closed = False
        self.replaced = False
        self._max_in_flight = max_in_flight
        self._silent_until: float | None = None
        self._arrived: list[LeasedJob] = []
        self._arrival = asyncio.Event()

    def room(self, now: float) -> int:
        """How many more jobs the worker may get. One that let leases run out gets none, later one to prove itself."""
        limit = self._max_in_flight
        if self._silent_until is not None:
            limit = 1 if now >= self._silent_until else 0
        return limit - len(self.held) - self.claiming

    def doubt(self, now: float) -> None:
        self._silent_until = now + _SILENCE_SECONDS

    def trust(self) -> bool:
        """The worker was heard. Returns whether it had been in doubt."""
        doubted, self._silent_until = self._silent_until is not None, None
        return doubted

    def deliver(self, job: LeasedJob) -> None:
        self.held[job.lease.job_id] = job.lease
        self._arrived.append(job)
        self._arrival.set()

    def wake(self) -> None:
        self._arrival.set()

    async def wait(self, seconds: float) -> None:
        """Waits for jobs, or to be woken, at most so long."""
        await wait_for_event(self._arrival, seconds)

    def collect(self) -> list[LeasedJob]:
        """What has arrived since the last time. Bounded by `max_in_flight`."""
        self._arrival.clear()
        arrived, self._arrived = self._arrived, []
        return arrived
