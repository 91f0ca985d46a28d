"""Running processes as the system knows them: which live, with which children, how much memory they take.

A process is named by its pid and its start time, so that a pid that was given away again is never touched. A zombie
counts as gone: all that is left of it is its parent's business.
"""

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

INTERVAL_SECONDS = 0.05


def find(pid: int | None, created: float | None) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid) if pid is not None else None
        if process is not None and process.create_time() == created and is_alive(process):
            return process
    return None


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def family_of(pid: int) -> list[psutil.Process]:
    """The process with all its descendants."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def living_after(processes: Iterable[psutil.Process], *, seconds: float) -> list[psutil.Process]:
    """Waits until all are gone, at most so long, and returns those that are not."""
    deadline = time.monotonic() + seconds
    while (living := [process for process in processes if is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(INTERVAL_SECONDS)
    return living


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def memory(process: psutil.Process) -> int:
    """Resident bytes of the family, shared pages counted once where the system can tell."""
    return sum(_resident(member) for member in family_of(process.pid))


def _resident(process: psutil.Process) -> int:
    try:
        # PSS divides a shared page among its users; without it PostgreSQL's buffers would count once per connection.
        return getattr(process.memory_full_info(), "pss", 0) or process.memory_info().rss
    except psutil.AccessDenied:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
