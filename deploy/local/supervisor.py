"""Starts the processes in the order of their needs, keeps them running, stops them in reverse.

Nothing outlives it: what it does not stop itself, the guard ends. The first start of a process must succeed, else the
stack stops with one line; later deaths are followed by a new start, with a growing delay.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import psutil

from deploy.local import ports, state
from deploy.local.environment import Layout
from deploy.local.errors import StackError
from deploy.local.guard import Guard
from deploy.local.output import Output
from deploy.local.process import Process
from deploy.local.state import StackStatus
from deploy.local.supervised import Supervised

GUARD_INTERVAL_SECONDS = 1.0

Observer = Callable[[StackStatus], None]


class Supervisor:
    """Runs one stack once. The caller holds the stack's lock and has ended what an earlier run left.

    `observe` is called with each change of any process.
    """

    def __init__(
        self, *, layout: Layout, processes: Sequence[Process], guard: Guard, output: Output, observe: Observer
    ) -> None:
        self._layout = layout
        self._output = output
        self._observe = observe
        self._guard = guard
        self._started = time.time()
        self._ready = False
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failure: StackError | None = None
        self._supervised = {
            process.name: Supervised(
                process, guard=guard, output=output, on_change=self._publish, on_failure=self._stop_because
            )
            for process in processes
        }

    async def run(self) -> None:
        """Until stopped. Raises StackError when a process did not start."""
        _check_ports([supervised.process for supervised in self._supervised.values()])
        self._publish()
        async with asyncio.TaskGroup() as group:
            for name, supervised in self._supervised.items():
                needs = [self._supervised[needed] for needed in supervised.process.needs]
                group.create_task(supervised.run(needs), name=name)
            helpers = [group.create_task(self._announce_readiness()), group.create_task(self._keep_guard())]
            await self._stopping.wait()
            for supervised in reversed(self._supervised.values()):
                await supervised.stop(self._hurry)
            for helper in helpers:
                helper.cancel()
        self._output.say("stopped, nothing is left running")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Lets services drain; a second call does not wait for them."""
        if self._stopping.is_set():
            self._output.say("stopping at once")
            self._hurry.set()
        else:
            self._output.say("stopping; once more to stop at once")
            self._stopping.set()

    @property
    def status(self) -> StackStatus:
        return StackStatus(
            running=True,
            ready=self._ready,
            pid=psutil.Process().pid,
            started=self._started,
            home=str(self._layout.home.root),
            ports=self._layout.ports,
            processes=tuple(supervised.status for supervised in self._supervised.values()),
        )

    async def _announce_readiness(self) -> None:
        for supervised in self._supervised.values():
            await supervised.ready.wait()
        self._ready = True
        self._output.say(f"everything is ready after {time.time() - self._started:.1f} s")
        self._publish()

    async def _keep_guard(self) -> None:
        """The guard is restarted like everything else: without it a kill of this process would leave the others."""
        while True:
            await asyncio.sleep(GUARD_INTERVAL_SECONDS)
            if self._guard.is_running:
                continue
            self._output.say("the guard ended and is started again")
            running = [supervised for supervised in self._supervised.values() if supervised.status.pid is not None]
            self._guard.renew({entry.status.pid or 0: entry.process.stop_signal for entry in running})

    def _stop_because(self, failure: StackError) -> None:
        if self._failure is None:
            self._failure = failure
        self._stopping.set()

    def _publish(self) -> None:
        status = self.status
        with suppress(OSError):
            # A full disk; the log's complaint says so.
            state.write(self._layout.home, status)
        self._observe(status)


def _check_ports(processes: Sequence[Process]) -> None:
    for process in processes:
        for variable, port in process.ports.items():
            if ports.is_taken(port):
                holder = ports.holder(port)
                by = f" by {holder}" if holder else ""
                raise StackError(
                    f"port {port} for {process.name} is taken{by}: set {variable}, or SCRISTILL_PORT_BASE for all ports"
                )
