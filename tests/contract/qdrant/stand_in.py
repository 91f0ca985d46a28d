"""A stand-in server in a process of its own, for tests that stop, kill and restart it."""

import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[3]
_SERVING = re.compile(r" serving address=127\.0\.0\.1:(\d+) ")


def command(storage: Path, port: int = 0) -> list[str]:
    return [sys.executable, "-m", "deploy.local.qdrant", "--storage", str(storage), "--port", str(port)]


class StandIn:
    def __init__(self, storage: Path) -> None:
        self._process = subprocess.Popen(
            command(storage), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.port = self._wait_until_serving()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Asks it to stop, as a supervisor does; returns the exit code."""
        self._process.send_signal(how)
        return self._end()

    def kill(self) -> None:
        self._process.kill()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _end(self) -> int:
        assert self._process.stderr
        code = self._process.wait(timeout=30)
        if not self._process.stderr.closed:
            # Shown where a test fails.
            sys.stderr.write(self._process.stderr.read())
            self._process.stderr.close()
        return code

    def _wait_until_serving(self) -> int:
        assert self._process.stderr
        lines = []
        for line in self._process.stderr:
            if match := _SERVING.search(line):
                return int(match[1])
            lines.append(line)
        raise AssertionError(f"the stand-in did not start: {''.join(lines)}")
