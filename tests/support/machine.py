"""The local stack without its supervisor: the caller decides which of its processes runs, and when.

Processes are those that `deploy.local.table` declares. Services reach their peers through wires of the caller's, so
that connections can be slow, cut or mute while both ends live. Everything is guarded: nothing stays when the caller
is killed.
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from deploy.local import environment, probes, table
from deploy.local.environment import Layout
from deploy.local.guard import Guard
from deploy.local.home import CHECKOUT, Home
from deploy.local.postgres import SETTINGS, Postgres
from deploy.local.process import Kind, Launch, Process
from tests.support.local_stack import free_ports
from tests.support.tcp_proxy import TcpProxy

LOG_TAIL = 4000

WIRES = {
    "indexer to qdrant": ("qdrant", "INDEXER_QDRANT_URL", "http://{}"),
    "extractor to indexer": ("indexer", "EXTRACTOR_INDEXER_ADDRESS", "{}"),
    "extractor to scheduler": ("scheduler", "EXTRACTOR_SCHEDULER_ADDRESS", "{}"),
}
"""What each leads to, and the variable that names it to the service at the other end."""


@dataclass(slots=True, kw_only=True)
class Unit:
    """One process, which may die and live again on the same port and with the same data."""

    declared: Process
    guard: Guard
    log: Path
    _running: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.declared.name

    @property
    def runs(self) -> bool:
        return self._running is not None

    async def start(self) -> None:
        """Returns when it serves; a step, when it is done."""
        launch = await asyncio.to_thread(self.declared.launch)
        self._spawn(launch)
        if self.declared.kind is Kind.STEP:
            assert await self._end(None) == 0, self.tail()
        elif self.declared.probe is not None:
            await self._until_ready(self.declared.probe)

    async def stop(self) -> None:
        """As an operator does."""
        if self._running is not None:
            await self._end(self.declared.stop_signal)

    async def kill(self) -> None:
        """No chance to flush or to say good-bye."""
        if self._running is not None:
            await self._end(signal.SIGKILL)

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def tail(self) -> str:
        return f"{self.name}:\n{self.log.read_text(errors='replace')[-LOG_TAIL:]}"

    def _spawn(self, launch: Launch) -> None:
        """Not in a thread: a guarded process dies with the thread that started it."""
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.guard.wrap(launch.command, stop_signal=self.declared.stop_signal, options=launch.options),
                pass_fds=(self.guard.fd,),
                cwd=CHECKOUT,
                env=dict(self.declared.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _signal(self, number: signal.Signals) -> None:
        if self._running is not None:
            # To its children too: a service with work in another process is stopped as a whole.
            with suppress(ProcessLookupError):
                os.killpg(self._running.pid, number)

    async def _end(self, number: signal.Signals | None) -> int:
        running, self._running = self._running, None
        assert running is not None
        if number is not None:
            running.send_signal(number)
        code = await asyncio.to_thread(running.wait, self.declared.stop_within)
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        self.guard.forget(running.pid)
        return code

    async def _until_ready(self, probe: probes.Probe) -> None:
        try:
            await probes.until_ready(probe, within=self.declared.ready_within)
        except (probes.NotReady, TimeoutError) as error:
            raise AssertionError(f"not ready ({error}) {self.tail()}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    layout: Layout
    units: Mapping[str, Unit]
    wires: Mapping[str, TcpProxy]

    def __getitem__(self, name: str) -> Unit:
        return self.units[name]

    @property
    def postgres(self) -> Postgres:
        return archived(self.layout.postgres)

    async def start(self) -> None:
        for group in (Kind.ENGINE, Kind.STEP, Kind.SERVICE):
            async with asyncio.TaskGroup() as starts:
                for unit in self.units.values():
                    if unit.declared.kind is group:
                        starts.create_task(unit.start())

    async def close(self) -> None:
        for unit in reversed(self.units.values()):
            unit.thaw()
            await unit.kill()


def archived(cluster: Postgres) -> Postgres:
    """The cluster, as it must run for a copy of it to be recovered to a point in time."""
    return replace(cluster, settings={**SETTINGS, "wal_level": "replica"})


@asynccontextmanager
async def running_machine(root: Path, settings: Mapping[str, str]) -> AsyncIterator[Machine]:
    """Everything is up; `settings` are added to the environment of every service."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SCRISTILL_", "OTEL_"))}
    home = Home(root=root)
    home.create()
    layout = environment.layout(home, {**kept, **free_ports(), **settings})
    async with AsyncExitStack() as stack:
        wires = {
            name: await stack.enter_async_context(TcpProxy("127.0.0.1", layout.ports[target]))
            for name, (target, _, _) in WIRES.items()
        }
        guard = stack.enter_context(Guard())
        machine = Machine(layout=layout, units=_units(layout, wires, guard), wires=wires)
        stack.push_async_callback(machine.close)
        await machine.start()
        yield machine


def _archived_launch(layout: Layout) -> Callable[[], Launch]:
    def launch() -> Launch:
        cluster = archived(layout.postgres)
        cluster.prepare()
        return Launch(command=cluster.command(), options=cluster.account.options)

    return launch


def _units(layout: Layout, wires: Mapping[str, TcpProxy], guard: Guard) -> dict[str, Unit]:
    declared = {process.name: process for process in table.process_table(layout)}
    del declared["traces"]
    declared["postgres"] = replace(declared["postgres"], launch=_archived_launch(layout))
    rewired = {variable: shape.format(wires[name].address) for name, (_, variable, shape) in WIRES.items()}
    for name, process in declared.items():
        known = {key: value for key, value in process.environment.items() if key != "OTEL_EXPORTER_OTLP_ENDPOINT"}
        declared[name] = replace(process, environment={**known, **{k: v for k, v in rewired.items() if k in known}})
    return {
        name: Unit(declared=process, guard=guard, log=layout.home.logs / f"{name}.log")
        for name, process in declared.items()
    }
