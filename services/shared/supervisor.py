"""Several worker processes on one port (`<P>_WORKERS`).

Workers are started by exec, never forked, because gRPC does not survive a fork. The
kernel spreads connections over the sockets that share the port. The supervisor serves
the summed metrics, restarts a worker that dies, and gives up when workers keep dying.
Each worker sits in a session of its own, so that a Ctrl-C reaches the supervisor alone,
and holds a pipe from it, so that none outlives it.
"""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import time
from contextlib import AsyncExitStack, closing
from pathlib import Path

import structlog
from prometheus_client import multiprocess

from services.shared.lifecycle import wait_for_event
from services.shared.process import StopSignals
from services.shared.service import WORKER_INDEX
from services.shared.settings import ServiceSettings
from services.shared.telemetry import exposition
from services.shared.telemetry.metrics import MULTIPROCESS_DIRECTORY, WorkerMetrics

logger = structlog.stdlib.get_logger(__name__)

_RESTART_SECONDS = 1.0
_CRASH_WINDOW_SECONDS = 60.0
_MAX_CRASHES = 5


async def supervise(settings: ServiceSettings, *, port_variable: str) -> int:
    """Runs the workers until told to stop. `port_variable` tells them the port when it was chosen here."""
    signals = StopSignals()
    signals.install()
    async with AsyncExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="scristill-metrics-"))
        port = stack.enter_context(closing(_reserve(settings.host, settings.port))).getsockname()[1]
        metrics_port = await stack.enter_async_context(
            exposition.serve(
                WorkerMetrics(directory),
                host=settings.host,
                port=settings.metrics_port,
                serving=lambda: not signals.stop.is_set(),
            )
        )
        environment = os.environ | {MULTIPROCESS_DIRECTORY: directory, port_variable: str(port)}
        logger.info("supervising", workers=settings.workers, host=settings.host, port=port, metrics_port=metrics_port)
        workers = _Workers(environment, signals)
        async with asyncio.TaskGroup() as tasks:
            forwarding = tasks.create_task(workers.forward_signals(), name="signals")
            async with asyncio.TaskGroup() as group:
                for index in range(settings.workers):
                    group.create_task(workers.keep(index), name=f"worker-{index}")
            forwarding.cancel()
        return int(workers.failed)


def _reserve(host: str, port: int) -> socket.socket:
    """A bound socket that never listens: keeps the port while no worker holds it, and gets no connections."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reserved = socket.socket(family, socket.SOCK_STREAM)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, port))
    return reserved


class _Workers:
    def __init__(self, environment: dict[str, str], signals: StopSignals) -> None:
        self._environment = environment
        self._signals = signals
        self._running: dict[int, asyncio.subprocess.Process] = {}
        self._crashes: list[float] = []
        self.failed = False

    async def keep(self, index: int) -> None:
        """Runs one worker and starts it again when it dies, until the stop."""
        while not self._signals.stop.is_set():
            status = await self._run_once(index)
            if self._signals.stop.is_set():
                # A worker told to stop before it could listen to signals ends by the signal.
                self.failed = self.failed or status not in (0, -signal.SIGTERM)
                return
            logger.error("worker_died", worker=index, status=status)
            self._note_crash()
            await wait_for_event(self._signals.stop, _RESTART_SECONDS)

    async def _run_once(self, index: int) -> int:
        worker = await asyncio.create_subprocess_exec(
            *_own_command(),
            env=self._environment | {WORKER_INDEX: str(index)},
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self._running[index] = worker
        if self._signals.stop.is_set():
            worker.terminate()
        status = await worker.wait()
        del self._running[index]
        multiprocess.mark_process_dead(worker.pid, self._environment[MULTIPROCESS_DIRECTORY])  # pyright: ignore[reportUnknownMemberType]
        return status

    async def forward_signals(self) -> None:
        """Passes the stop on to the workers, and the hard stop if it comes."""
        await self._signals.stop.wait()
        self._terminate()
        await self._signals.hard.wait()
        self._terminate()

    def _terminate(self) -> None:
        for worker in self._running.values():
            worker.terminate()

    def _note_crash(self) -> None:
        now = time.monotonic()
        self._crashes = [*(at for at in self._crashes if now - at < _CRASH_WINDOW_SECONDS), now]
        if len(self._crashes) >= _MAX_CRASHES:
            logger.error("workers_keep_dying", crashes=len(self._crashes), window_seconds=_CRASH_WINDOW_SECONDS)
            self.failed = True
            self._signals.stop.set()


def _own_command() -> list[str]:
    main = sys.modules["__main__"]
    if main.__spec__ is not None:
        return [sys.executable, "-m", main.__spec__.name.removesuffix(".__main__")]
    return [sys.executable, str(Path(sys.argv[0]).resolve())]
