"""The life of one supervised process: start, readiness, restart, stop."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

import psutil

from deploy.local.errors import StackError
from deploy.local.guard import Guard
from deploy.local.home import CHECKOUT
from deploy.local.output import Output
from deploy.local.probes import NotReady, until_ready
from deploy.local.process import Kind, Launch, Process, ProcessStatus, State

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
SETTLED_SECONDS = 60.0
"""Who has run so long starts again with the first delay."""
LAST_WORDS_SECONDS = 1.0
"""For output that is still in the pipe when its writer is gone."""
CHUNK_BYTES = 65_536


class Words:
    """What a process writes, through a pipe of our own.

    With a pipe of asyncio's, `wait` would go on until the last heir of the pipe is gone, and a process that died
    would pass for alive as long as a child of it lives.
    """

    def __init__(self) -> None:
        self._source, self.end = os.pipe()
        self.stream = asyncio.StreamReader()
        self._transport: asyncio.ReadTransport | None = None

    async def listen(self) -> None:
        """Call when the process has its end."""
        os.close(self.end)
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self.stream), os.fdopen(self._source, "rb")
        )

    def abandon(self) -> None:
        os.close(self.end)
        os.close(self._source)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._transport is not None:
            self._transport.close()


class Supervised:
    """Owned by the supervisor, which awaits `run` as a task and calls `stop` once.

    `on_change` is called after each change of state, `on_failure` when the first start fails.
    """

    def __init__(
        self,
        process: Process,
        *,
        guard: Guard,
        output: Output,
        on_change: Callable[[], None],
        on_failure: Callable[[StackError], None],
    ) -> None:
        self.process = process
        self.ready = asyncio.Event()
        """Set at the first readiness, for good."""
        self._guard = guard
        self._output = output
        self._on_change = on_change
        self._on_failure = on_failure
        self._state = State.WAITING
        self._child: asyncio.subprocess.Process | None = None
        self._created: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._restarts = 0
        self._complaint = ""

    @property
    def status(self) -> ProcessStatus:
        return ProcessStatus(
            name=self.process.name,
            kind=self.process.kind,
            state=self._state,
            pid=self._child.pid if self._child else None,
            address=self.process.address,
            restarts=self._restarts,
            created=self._created,
        )

    async def run(self, needs: Sequence["Supervised"]) -> None:
        """Until the process is stopped, a step is done, or the first start has failed."""
        self._task = asyncio.current_task()
        for needed in needs:
            await needed.ready.wait()
        delay = FIRST_DELAY_SECONDS
        while True:
            began = time.monotonic()
            code = await self._live()
            if self._stopping:
                return
            if code == 0 and self.process.kind is Kind.STEP:
                self._enter(State.DONE)
                self.ready.set()
                return
            if not self.ready.is_set():
                self._fail(code)
                return
            delay = FIRST_DELAY_SECONDS if time.monotonic() - began > SETTLED_SECONDS else delay
            self._enter(State.BACKOFF)
            self._output.say(f"{self.process.name} ended ({self._reason(code)}); next start in {delay:g} s")
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY_SECONDS)
            self._restarts += 1

    async def stop(self, hurry: asyncio.Event) -> None:
        """Returns when the process and all of its group are gone; `hurry` cuts the patience short."""
        self._stopping = True
        if self._task is None or self._task.done():
            return
        child = self._child
        if child is None:
            self._task.cancel()
        else:
            self._signal(child, self.process.stop_signal)
            if not await self._ended(child, hurry):
                self._output.say(f"{self.process.name} did not stop in time and is killed")
                self._signal(child, signal.SIGKILL)
        await asyncio.wait({self._task})
        self._enter(State.STOPPED)

    async def _live(self) -> int | str:
        """One life, from start to end; the exit status, or why there was no start."""
        self._complaint = ""
        self._enter(State.STARTING)
        began = time.monotonic()
        try:
            launch = await asyncio.to_thread(self.process.launch)
            child, words = await self._spawn(launch)
        except (OSError, StackError) as error:
            return str(error)
        async with words, asyncio.TaskGroup() as group:
            reading = group.create_task(self._read(words.stream), name=f"{self.process.name}: output")
            probing = group.create_task(self._probe(child, began), name=f"{self.process.name}: readiness")
            code = await child.wait()
            probing.cancel()
            self._bury(child)
            await asyncio.wait({reading}, timeout=LAST_WORDS_SECONDS)
            reading.cancel()
        return code

    async def _spawn(self, launch: Launch) -> tuple[asyncio.subprocess.Process, "Words"]:
        words = Words()
        try:
            self._child = await asyncio.create_subprocess_exec(
                *self._guard.wrap(launch.command, stop_signal=self.process.stop_signal, options=launch.options),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=words.end,
                stderr=asyncio.subprocess.STDOUT,
                env=self.process.environment,
                cwd=CHECKOUT,
                pass_fds=(self._guard.fd,),
            )
        except OSError:
            words.abandon()
            raise
        await words.listen()
        with suppress(psutil.NoSuchProcess):
            self._created = psutil.Process(self._child.pid).create_time()
        self._on_change()
        return self._child, words

    async def _probe(self, child: asyncio.subprocess.Process, began: float) -> None:
        if self.process.probe is None:
            return
        try:
            await until_ready(self.process.probe, within=self.process.ready_within)
        except (NotReady, TimeoutError) as error:
            self._complaint = f"not ready within {self.process.ready_within:g} s: {error or 'no answer'}"
            self._signal(child, signal.SIGKILL)
            return
        self._enter(State.READY)
        self.ready.set()
        where = f" at {self.process.address}" if self.process.address else ""
        self._output.say(f"{self.process.name} is ready{where} after {time.monotonic() - began:.1f} s")

    async def _read(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while chunk := await stream.read(CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > CHUNK_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._output.write(self.process.name, line.decode(errors="replace").rstrip("\r"))
        if rest:
            self._output.write(self.process.name, rest.decode(errors="replace"))

    async def _ended(self, child: asyncio.subprocess.Process, hurry: asyncio.Event) -> bool:
        ending = {asyncio.ensure_future(child.wait()), asyncio.ensure_future(hurry.wait())}
        await asyncio.wait(ending, timeout=self.process.stop_within, return_when=asyncio.FIRST_COMPLETED)
        for waiter in ending:
            waiter.cancel()
        return child.returncode is not None

    def _bury(self, child: asyncio.subprocess.Process) -> None:
        """A leader that died may have left members of its group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        self._guard.forget(child.pid)
        self._child = self._created = None

    def _signal(self, child: asyncio.subprocess.Process, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            child.send_signal(number)

    def _enter(self, state: State) -> None:
        self._state = state
        self._on_change()

    def _fail(self, code: int | str) -> None:
        self._enter(State.FAILED)
        name = self.process.name
        last = next((line for line in reversed(self._output.tail(name)) if line.strip()), "")
        said = f": {last.strip()}" if last and isinstance(code, int) and not self._complaint else ""
        log = f" (log: {self._output.path(name)})" if isinstance(code, int) else ""
        self._on_failure(StackError(f"{name} did not start, {self._reason(code)}{said}{log}"))

    def _reason(self, code: int | str) -> str:
        if self._complaint:
            return self._complaint
        if isinstance(code, str):
            return code
        return f"status {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
