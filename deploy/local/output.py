"""What the processes say: each line goes to the process's own file and, with its name in colour, to the terminal.

Files are complete and rotate by size. The terminal is written by a thread behind a bounded queue: one that stands
still, as after Ctrl-S or in a pager, costs lines on the screen, never the processes their pipes.
"""

import os
import queue
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self, TextIO

from deploy.local.rotation import RotatingFile

MAX_BYTES = 10 * 1024 * 1024
KEEP = 3
TAIL_LINES = 20
QUEUED_LINES = 10_000
FINISH_SECONDS = 2.0
"""For the terminal to take what is queued at the end."""
COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)

STACK = "stack"
"""The name under which the supervisor itself speaks."""


class Output:
    """One per stack, used as a context. `terminal` is a file descriptor."""

    def __init__(self, directory: Path, *, names: Sequence[str], terminal: int | None, colour: bool = False) -> None:
        self._directory = directory
        self._terminal = terminal
        self._width = max(len(name) for name in [STACK, *names])
        self._colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)} if colour else {}
        self._files: dict[str, RotatingFile] = {}
        self._tails: dict[str, deque[str]] = {}
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUED_LINES)
        # A daemon, since a terminal that stands still must not keep the stack from ending.
        self._display = threading.Thread(target=self._run, name="display", daemon=True)
        self._skipped = 0
        self._disk_complaint = ""

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(queue.Full):
            self._queue.put(None, timeout=FINISH_SECONDS)
        self._display.join(FINISH_SECONDS)
        for file in self._files.values():
            file.close()

    def path(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def tail(self, name: str) -> list[str]:
        """The last lines of this run."""
        return list(self._tails.get(name, ()))

    def say(self, text: str) -> None:
        self.write(STACK, text)

    def write(self, name: str, line: str) -> None:
        self._tails.setdefault(name, deque(maxlen=TAIL_LINES)).append(line)
        self._store(name, line)
        self._show(name, line)

    def _store(self, name: str, line: str) -> None:
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = RotatingFile(path=self.path(name), max_bytes=MAX_BYTES, keep=KEEP)
        try:
            file.write(f"{line}\n".encode())
        except OSError as error:
            complaint = f"cannot write logs to {self._directory}: {error.strerror}"
            if complaint != self._disk_complaint:
                self._disk_complaint = complaint
                self._show(STACK, complaint)

    def _show(self, name: str, line: str) -> None:
        if self._terminal is None:
            return
        label = name.ljust(self._width)
        if colour := self._colours.get(name):
            label = f"\033[{colour}m{label}\033[0m"
        try:
            if self._skipped:
                self._queue.put_nowait(f"... {self._skipped} lines are in the files only\n")
                self._skipped = 0
            self._queue.put_nowait(f"{label} | {line}\n")
        except queue.Full:
            self._skipped += 1

    def _run(self) -> None:
        # A reader that goes away, as `| head` or a closed terminal, ends the display and nothing else.
        with suppress(OSError):
            while (line := self._queue.get()) is not None:
                rest = line.encode(errors="replace")
                while rest and self._terminal is not None:
                    rest = rest[os.write(self._terminal, rest) :]


def wants_colour(terminal: TextIO, environ: Mapping[str, str]) -> bool:
    return "NO_COLOR" not in environ and (terminal.isatty() or "FORCE_COLOR" in environ)
