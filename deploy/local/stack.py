"""What the command line and the demo call: the whole stack as one thing."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import orjson

from deploy.local import environment as environments
from deploy.local import families, state
from deploy.local.environment import Layout
from deploy.local.errors import StackError
from deploy.local.guard import GRACE_SECONDS, LAUNCHER, Guard
from deploy.local.home import CHECKOUT, DEFAULT_FREE_MEGABYTES, Home
from deploy.local.output import STACK, Output, wants_colour
from deploy.local.process import Process
from deploy.local.state import StackStatus
from deploy.local.supervisor import Observer, Supervisor
from deploy.local.table import process_table

Table = Callable[[Layout], Sequence[Process]]

DOWN_SECONDS = 300.0
"""Longer than all services may take to drain one after the other."""


def unobserved(_: StackStatus) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    home: Home
    environ: Mapping[str, str] = field(repr=False)
    processes: Table = process_table
    """A function of a module, so that `detach` can name it to another interpreter."""
    terminal: TextIO | None = None
    """Where the lines of all processes go, besides the files."""
    observe: Observer = unobserved

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ, **choices: Any) -> "Options":
        return cls(home=Home.from_environment(environ), environ=dict(environ), **choices)


async def run(options: Options) -> None:
    """Runs the stack until SIGINT, SIGTERM or SIGHUP; raises StackError when it cannot start."""
    layout = _prepare(options)
    with state.held_lock(options.home):
        state.forget_last_run(options.home)
        processes = options.processes(layout)
        with _output(options, processes) as output, Guard() as guard:
            supervisor = Supervisor(
                layout=layout, processes=processes, guard=guard, output=output, observe=options.observe
            )
            await _supervise(supervisor)


def detach(options: Options) -> StackStatus:
    """Starts the stack in the background and returns when all of it is ready; raises StackError when it is not.

    `observe` is called with each change until then. An interrupted wait stops the stack again.
    """
    _prepare(options)
    if (pid := state.lock_holder(options.home)) is not None:
        raise StackError(f"the stack in {options.home.root} is already running (supervisor pid {pid}): stop it first")
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as reports:
        try:
            _spawn_supervisor(options, report_fd=write_end)
        finally:
            os.close(write_end)
        try:
            return _await_readiness(options, reports)
        except KeyboardInterrupt:
            down(options.home)
            raise


def down(home: Home, *, within: float = DOWN_SECONDS) -> bool:
    """Stops the stack and returns when nothing of it is left; False when none was running."""
    pid = _supervisor(home)
    if pid is None:
        return False
    family = families.family_of(pid)
    _signal(pid, signal.SIGTERM)
    if not _lock_freed(home, within=within):
        _signal(pid, signal.SIGKILL)
    # The guard is of the family: once it is gone, so is all that it guards.
    families.kill(families.living_after(family, seconds=2 * GRACE_SECONDS))
    return True


def status(home: Home) -> StackStatus:
    """What runs now and how much memory it takes."""
    _supervisor(home)
    return state.measured(state.read(home))


def environment(home: Home, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables by which services and clients find the stack: that which runs, or else would run."""
    _supervisor(home)
    if not home.root.exists():
        raise StackError(f"there is no stack in {home.root} yet: start it first")
    current = state.read(home)
    ports = current.ports or environments.ports(environ)
    return Layout(home=home, ports=ports, password=home.password(), environ=environ).variables()


def _prepare(options: Options) -> Layout:
    if sys.platform not in ("linux", "darwin"):
        raise StackError(f"the local stack runs on Linux and macOS, not on {sys.platform}: use deploy/compose")
    free = options.environ.get("SCRISTILL_MIN_FREE_MB") or str(DEFAULT_FREE_MEGABYTES)
    if not free.isdecimal():
        raise StackError(f"SCRISTILL_MIN_FREE_MB is {free!r}, which is not a number")
    options.home.create(free_megabytes=int(free))
    return environments.layout(options.home, options.environ)


def _output(options: Options, processes: Sequence[Process]) -> Output:
    names = [process.name for process in processes]
    if options.terminal is None:
        return Output(options.home.logs, names=names, terminal=None)
    colour = wants_colour(options.terminal, options.environ)
    return Output(options.home.logs, names=names, terminal=options.terminal.fileno(), colour=colour)


async def _supervise(supervisor: Supervisor) -> None:
    loop = asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        loop.add_signal_handler(number, supervisor.stop)
    try:
        await supervisor.run()
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _spawn_supervisor(options: Options, *, report_fd: int) -> None:
    table = f"{options.processes.__module__}:{options.processes.__qualname__}"
    supervisor = [sys.executable, "-m", "deploy.local", "up", "--table", table, "--report-fd", str(report_fd)]
    log = options.home.logs / f"{STACK}.log"
    with log.open("ab") as file:
        subprocess.run(
            [sys.executable, "-I", "-S", str(LAUNCHER), "--detach", "--", *supervisor],
            check=True,
            env={**options.environ, "SCRISTILL_HOME": str(options.home.root)},
            cwd=CHECKOUT,
            pass_fds=(report_fd,),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )


def _await_readiness(options: Options, reports: Any) -> StackStatus:
    for line in reports:
        report: dict[str, Any] = orjson.loads(line)
        if error := report.get("error"):
            raise StackError(error)
        current = state.from_fields(report)
        options.observe(current)
        if current.ready:
            return current
    raise StackError(f"the supervisor ended unexpectedly (log: {options.home.logs / STACK}.log)")


def report_to(fd: int) -> tuple[Observer, Callable[[str], None]]:
    """For the other end of `detach`: what observes the stack until it is ready, and what tells an error before that."""
    pipe = os.fdopen(fd, "wb", buffering=0)

    def report(fields: dict[str, Any], *, last: bool) -> None:
        if pipe.closed:
            return
        try:
            pipe.write(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))
        except BrokenPipeError:
            # Who started the stack did not wait for it; the stack goes on.
            last = True
        if last:
            pipe.close()

    def observe(current: StackStatus) -> None:
        report(asdict(current), last=current.ready)

    def fail(error: str) -> None:
        report({"error": error}, last=True)

    return observe, fail


def _supervisor(home: Home) -> int | None:
    try:
        return state.lock_holder(home)
    except PermissionError as error:
        raise StackError(f"the stack in {home.root} belongs to another user") from error


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise StackError(f"the stack's supervisor (pid {pid}) belongs to another user") from error


def _lock_freed(home: Home, *, within: float) -> bool:
    deadline = time.monotonic() + within
    while state.lock_holder(home) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
