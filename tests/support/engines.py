"""The real engines of the test session: each is started on first use, once, on a free port, in a temporary directory.

They are guarded like those of the local stack: nothing stays when pytest is killed. `TEST_POSTGRES_URL` (of a role
that may create databases), `TEST_VALKEY_URL` and `QDRANT_URL` name servers to use instead.
"""

import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from deploy.local import probes
from deploy.local.accounts import CURRENT, Account
from deploy.local.guard import Guard
from deploy.local.home import CHECKOUT
from deploy.local.ports import free_port
from deploy.local.postgres import STOP_SIGNAL, SUPERUSER, Postgres
from deploy.local.valkey import Valkey
from tests.support.databases import Databases

READY_WITHIN = 30.0
STOP_WITHIN = 20.0


@dataclass(slots=True, kw_only=True)
class Engine:
    process: subprocess.Popen[bytes]
    stop_signal: signal.Signals


@dataclass(slots=True, kw_only=True)
class Engines:
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="scristill-tests-")))
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    _guard: Guard | None = None
    _running: list[Engine] = field(default_factory=list)
    _databases: Databases | None = None
    _urls: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def databases(self) -> Databases:
        if self._databases is None:
            if outside := os.environ.get("TEST_POSTGRES_URL"):
                self._databases = Databases(admin_url=outside, owner_url=outside)
            else:
                self._databases = await self._start_postgres()
        return self._databases

    async def valkey_url(self) -> str:
        if "valkey" not in self._urls:
            self._urls["valkey"] = os.environ.get("TEST_VALKEY_URL") or await self._start_valkey()
        return self._urls["valkey"]

    async def qdrant_url(self) -> str:
        """Of the gRPC port."""
        if "qdrant" not in self._urls:
            self._urls["qdrant"] = os.environ.get("QDRANT_URL") or await self._start_qdrant()
        return self._urls["qdrant"]

    def close(self) -> None:
        for engine in reversed(self._running):
            engine.process.send_signal(engine.stop_signal)
        for engine in reversed(self._running):
            engine.process.wait(timeout=STOP_WITHIN)
            self._guarding().forget(engine.process.pid)
        if self._guard is not None:
            self._guard.close()
        # Not shutil.rmtree: as root the data belongs to nobody, and rm says what it could not remove.
        subprocess.run(["rm", "-rf", str(self.root)], check=True)

    async def _start_postgres(self) -> Databases:
        directory = self.root / "postgres"
        directory.mkdir()
        postgres = Postgres(directory=directory, port=free_port(), password=self.password)
        postgres.prepare()
        self._start("postgres", postgres.command(), stop_signal=STOP_SIGNAL, account=postgres.account)
        await self._until_ready("postgres", probes.postgres(postgres.url()))
        return Databases(admin_url=postgres.url(role=SUPERUSER, database="postgres"), owner_url=postgres.url())

    async def _start_valkey(self) -> str:
        directory = self.root / "valkey"
        directory.mkdir()
        valkey = Valkey(directory=directory, port=free_port(), password=self.password)
        valkey.prepare()
        self._start("valkey", valkey.command())
        await self._until_ready("valkey", probes.valkey(port=valkey.port, password=self.password))
        return valkey.url()

    async def _start_qdrant(self) -> str:
        directory = self.root / "qdrant"
        port = free_port()
        module = [sys.executable, "-m", "deploy.local.qdrant"]
        self._start("qdrant", [*module, "--storage", str(directory), "--port", str(port), "--host", "127.0.0.1"])
        await self._until_ready("qdrant", probes.grpc_health(f"127.0.0.1:{port}"))
        return f"http://127.0.0.1:{port}"

    def _start(
        self,
        name: str,
        command: Sequence[str],
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        account: Account = CURRENT,
    ) -> None:
        guard = self._guarding()
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                guard.wrap(command, stop_signal=stop_signal, options=account.options),
                pass_fds=(guard.fd,),
                cwd=CHECKOUT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._running.append(Engine(process=process, stop_signal=stop_signal))

    async def _until_ready(self, name: str, probe: probes.Probe) -> None:
        try:
            await probes.until_ready(probe, within=READY_WITHIN)
        except (probes.NotReady, TimeoutError) as error:
            log = self._log(name).read_text(errors="replace")
            raise RuntimeError(f"{name} did not become ready ({error}):\n{log[-4000:]}") from error

    def _guarding(self) -> Guard:
        if self._guard is None:
            self._guard = Guard()
        return self._guard

    def _log(self, name: str) -> Path:
        return self.root / f"{name}.log"
