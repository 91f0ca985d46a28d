"""A local stack in a process of its own, as a user starts it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from deploy.local import families, stack
from deploy.local.environment import PORTS
from deploy.local.home import CHECKOUT, Home
from deploy.local.ports import free_port
from deploy.local.process import ProcessStatus
from deploy.local.state import StackStatus
from tests.support.waiting import eventually

READY_WITHIN = 120.0
STOP_WITHIN = 40.0


def free_ports() -> dict[str, str]:
    """All different: the system may offer the same free port twice."""
    numbers: set[int] = set()
    while len(numbers) < len(PORTS):
        numbers.add(free_port())
    return {port.variable: str(number) for port, number in zip(PORTS.values(), numbers, strict=True)}


@dataclass(slots=True, kw_only=True)
class LocalStack:
    root: Path
    environ: dict[str, str]
    prefix: Sequence[str] = ()
    """In front of the interpreter, as to change the user."""
    interpreter: str = sys.executable
    process: subprocess.Popen[str] | None = None
    seen: list[psutil.Process] = field(default_factory=list)
    """All processes that ran at some `ready`, with their children."""

    @property
    def home(self) -> Home:
        return Home(root=self.root)

    @property
    def status(self) -> StackStatus:
        return stack.status(self.home)

    def of(self, name: str) -> ProcessStatus:
        return next(process for process in self.status.processes if process.name == name)

    def start(self, table: str | None = None) -> None:
        """`table` is a function of tests.support.toys; without one, everything starts."""
        self._reap()
        choice = ["--table", f"tests.support.toys:{table}"] if table else []
        self.process = subprocess.Popen(
            self._command("up", *choice),
            cwd=CHECKOUT,
            env=self.environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    async def start_and_wait(self, table: str | None = None) -> StackStatus:
        self.start(table)
        return await self.ready()

    async def ready(self) -> StackStatus:
        def is_ready() -> StackStatus | None:
            assert self.process is None or self.process.poll() is None, self.output()
            return self.status if self.status.ready else None

        status = await eventually(is_ready, within=READY_WITHIN)
        self.remember()
        return status

    def remember(self) -> None:
        self.seen += families.family_of(self.status.pid or 0)

    def left(self) -> list[psutil.Process]:
        return [process for process in self.seen if families.is_alive(process)]

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def output(self) -> str:
        """Waits for the end of the supervisor."""
        assert self.process is not None
        text, _ = self.process.communicate(timeout=STOP_WITHIN)
        return text

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`python -m deploy.local ARGUMENTS`, to its end."""
        return subprocess.run(
            self._command(*arguments),
            cwd=CHECKOUT,
            env=self.environ,
            check=False,
            text=True,
            capture_output=True,
            timeout=READY_WITHIN + STOP_WITHIN,
        )

    def close(self) -> None:
        self._reap()
        stack.down(self.home, within=1.0)
        families.kill(families.living_after(self.seen, seconds=10))
        subprocess.run(["rm", "-rf", str(self.root)], check=True)

    def _reap(self) -> None:
        if self.process is not None:
            with self.process:
                self.process.kill()

    def _command(self, *arguments: str) -> list[str]:
        return [*self.prefix, self.interpreter, "-m", "deploy.local", *arguments]


@contextmanager
def local_stack(root: Path, extra: Mapping[str, str] | None = None) -> Iterator[LocalStack]:
    environ = {**os.environ, **free_ports(), "SCRISTILL_HOME": str(root), **(extra or {})}
    running = LocalStack(root=root, environ=environ)
    try:
        yield running
    finally:
        running.close()
