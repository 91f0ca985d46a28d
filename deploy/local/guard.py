"""Ends what a supervisor leaves behind, however the supervisor ends.

The guard is a tiny process that reads a pipe whose only lasting write end is the supervisor's. Each supervised process
announces itself there (`+PID SIGNAL`, written by launch.py before exec), the supervisor strikes out what it has
reaped (`-PID`). When the supervisor is gone, for whatever reason and even by kill -9, the pipe ends, and the guard
signals every announced process, waits, and kills the process groups that remain. A pipe works on every POSIX system;
nothing here polls while all is well.

`python -I -S guard.py FD` is the process, `Guard` the supervisor's side of it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

GRACE_SECONDS = 5.0
"""Between the stop signal and SIGKILL when nobody is left who knows better."""

LAUNCHER = Path(__file__).with_name("launch.py")


class Guard:
    """Starts the guard process; `wrap` turns a command into one that is guarded.

    The caller starts wrapped commands with `pass_fds=(guard.fd,)` and calls `forget` for each one it has reaped.
    """

    def __init__(self) -> None:
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def renew(self, processes: Mapping[int, signal.Signals]) -> None:
        """Starts a guard in place of one that has ended; `processes` are those that live, by pid."""
        os.close(self.fd)
        self._start()
        for pid, stop_signal in processes.items():
            os.write(self.fd, f"+{pid} {stop_signal.name}\n".encode())

    def wrap(self, command: Sequence[str], *, stop_signal: signal.Signals, options: Sequence[str] = ()) -> list[str]:
        """`options` are further ones of launch.py."""
        return [
            *(sys.executable, "-I", "-S", str(LAUNCHER)),
            *("--guard-fd", str(self.fd), "--stop-signal", stop_signal.name),
            *options,
            "--",
            *command,
        ]

    def forget(self, pid: int) -> None:
        # A guard that has ended knows nothing, and its successor will be told of the living only.
        with suppress(BrokenPipeError):
            os.write(self.fd, f"-{pid}\n".encode())

    def close(self) -> None:
        """Lets the guard end; whatever is still announced ends with it."""
        os.close(self.fd)
        self._process.wait(timeout=3 * GRACE_SECONDS)

    def _start(self) -> None:
        read_end, self.fd = os.pipe()
        command = [sys.executable, "-I", "-S", __file__, str(read_end)]
        self._process = subprocess.Popen(command, pass_fds=(read_end,), start_new_session=True)
        os.close(read_end)


def watch(fd: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    announced: dict[int, int] = {}
    with os.fdopen(fd) as pipe:
        for line in pipe:
            pid, _, name = line[1:].strip().partition(" ")
            if line.startswith("+"):
                announced[int(pid)] = signal.Signals[name]
            else:
                announced.pop(int(pid), None)
    end(announced)


def end(processes: dict[int, int]) -> None:
    for pid, number in reversed(processes.items()):
        send(pid, number)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and any(send(pid, 0) for pid in processes):
        time.sleep(0.05)
    for pid in processes:
        send(-pid, signal.SIGKILL)


def send(target: int, number: int) -> bool:
    """To a process, or to a group when negative; False when there is no such target."""
    try:
        os.kill(target, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        # macOS answers so for a group that consists of zombies.
        return False
    return True


if __name__ == "__main__":
    watch(int(sys.argv[1]))
