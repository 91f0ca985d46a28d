"""In-process wake-ups from writes to loops, and the counters that writes move."""

import asyncio
from collections.abc import Callable, Sequence

from services.scheduler.application.ports import Ended


class Signals:
    """Events that are set after a commit; each has one loop that waits for it and clears it."""

    def __init__(self, *, count_ended: Callable[[Sequence[Ended]], None]) -> None:
        self.changed = asyncio.Event()
        """The change log has new rows."""
        self.delayed = asyncio.Event()
        """A job was given a time before which it must not run."""
        self.expiring = asyncio.Event()
        """A lease may end earlier than the sweeper expects."""
        self.count_ended = count_ended
