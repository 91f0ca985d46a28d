"""Processes that a test may kill: a Qdrant engine on a directory of its own, and an indexer."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local import probes
from deploy.local.home import CHECKOUT
from deploy.local.ports import free_port

READY_WITHIN = 30.0


@dataclass(slots=True, kw_only=True)
class Process:
    """Started again, it listens on the same port."""

    command: list[str]
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._spawn()
        await probes.until_ready(probes.grpc_health(self.address), within=READY_WITHIN)

    def _spawn(self) -> None:
        environment = {**os.environ, **self.environment}
        self._process = subprocess.Popen(self.command, cwd=CHECKOUT, env=environment, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """SIGKILL: no chance to flush or to say good-bye."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, signum: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(signum)
            self._process.wait(timeout=30)
            self._process = None


@asynccontextmanager
async def running(process: Process) -> AsyncIterator[Process]:
    await process.start()
    try:
        yield process
    finally:
        process.kill()


def qdrant_engine(storage: Path) -> Process:
    port = free_port()
    command = [sys.executable, "-m", "deploy.local.qdrant", "--storage", str(storage), "--port", str(port)]
    return Process(command=command, port=port)


def indexer(*, qdrant: Process, gateway_port: int) -> Process:
    port = free_port()
    environment = {
        "INDEXER_PORT": str(port),
        "INDEXER_METRICS_PORT": "-1",
        "INDEXER_LOG_LEVEL": "error",
        "INDEXER_QDRANT_URL": f"http://{qdrant.address}",
        "INDEXER_QDRANT_TIMEOUT_SECONDS": "3",
        "INDEXER_LLM_GATEWAY_ADDRESS": f"127.0.0.1:{gateway_port}",
    }
    return Process(command=[sys.executable, "-m", "services.indexer"], port=port, environment=environment)
