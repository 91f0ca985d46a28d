"""What is known about a stack from outside: the lock that its supervisor holds and the file it keeps.

`stack.lock` says whether a supervisor lives, and the kernel lets go of it however the supervisor ends. `stack.json`
says what runs, and is right as long as the lock is held.
"""

import fcntl
import os
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import orjson

from deploy.local import families
from deploy.local.errors import StackError
from deploy.local.home import Home
from deploy.local.process import Kind, ProcessStatus, State

LOCK_ATTEMPTS = 10
"""A look at the lock holds it for an instant; a start must not fail on that."""

SURVIVOR_SECONDS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StackStatus:
    running: bool
    ready: bool = False
    """Everything has been ready once; `processes` tells what is so now."""
    pid: int | None = None
    """Of the supervisor."""
    started: float = 0.0
    """Seconds since the epoch."""
    home: str = ""
    ports: Mapping[str, int]
    processes: tuple[ProcessStatus, ...] = ()

    @property
    def rss_bytes(self) -> int:
        return sum(process.rss_bytes for process in self.processes)


@contextmanager
def held_lock(home: Home) -> Generator[None]:
    """Raises StackError when another supervisor holds it."""
    descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for _ in range(LOCK_ATTEMPTS):
            if _try_lock(descriptor, fcntl.LOCK_EX):
                break
            time.sleep(0.05)
        else:
            pid = lock_holder(home)
            raise StackError(f"the stack in {home.root} is already running (supervisor pid {pid}): stop it first")
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def lock_holder(home: Home) -> int | None:
    """The pid of the living supervisor. Raises PermissionError when the stack is another user's."""
    try:
        descriptor = os.open(home.lock, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if _try_lock(descriptor, fcntl.LOCK_SH):
            return None
        return int(os.read(descriptor, 32) or 0)
    finally:
        os.close(descriptor)


def write(home: Home, status: StackStatus) -> None:
    """Readers see the old file or the new one, never a part."""
    draft = home.state.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(orjson.dumps(asdict(status), option=orjson.OPT_INDENT_2))
    draft.rename(home.state)


def read(home: Home) -> StackStatus:
    """What the living supervisor wrote last; one that has written nothing yet is running, and no more."""
    pid = lock_holder(home)
    written = _written(home)
    if pid is not None and written is not None and written.pid == pid:
        return written
    return StackStatus(running=pid is not None, pid=pid, home=str(home.root), ports={})


def _written(home: Home) -> StackStatus | None:
    try:
        return from_fields(orjson.loads(home.state.read_bytes()))
    except FileNotFoundError:
        return None


def from_fields(fields: dict[str, Any]) -> StackStatus:
    """The inverse of `asdict`."""
    processes: list[dict[str, Any]] = fields.pop("processes")
    return StackStatus(**fields, processes=tuple(map(_process_from_fields, processes)))


def _process_from_fields(fields: dict[str, Any]) -> ProcessStatus:
    kind, current = Kind(fields.pop("kind")), State(fields.pop("state"))
    return ProcessStatus(**fields, kind=kind, state=current)


def measured(status: StackStatus) -> StackStatus:
    """With the memory that each process takes now."""
    return replace(status, processes=tuple(replace(entry, rss_bytes=_memory(entry)) for entry in status.processes))


def forget_last_run(home: Home) -> None:
    """Kills what still runs after an end that neither supervisor nor guard saw. The caller holds the lock."""
    last = _written(home)
    found = (families.find(entry.pid, entry.created) for entry in (last.processes if last else ()))
    survivors = [member for process in found if process is not None for member in families.family_of(process.pid)]
    families.kill(survivors)
    families.living_after(survivors, seconds=SURVIVOR_SECONDS)
    home.state.unlink(missing_ok=True)


def _memory(entry: ProcessStatus) -> int:
    process = families.find(entry.pid, entry.created)
    return families.memory(process) if process is not None else 0


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
