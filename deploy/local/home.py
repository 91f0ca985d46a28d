"""Where the stack keeps its data: one directory, `.scristill/` by default, that can be deleted as a whole."""

import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.errors import StackError

CHECKOUT = Path(__file__).parents[2]
"""What the services are started in, so that `python -m services.NAME` finds them."""

DEFAULT_FREE_MEGABYTES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """
    stack.json   what runs: written by the supervisor, read by `status` and `down`
    stack.lock   held by the supervisor as long as it lives
    password     of PostgreSQL and Valkey, readable by its owner only
    logs/        one file per process, rotated
    postgres/ valkey/ qdrant/ traces/
    """

    root: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Home":
        if configured := environ.get("SCRISTILL_HOME"):
            return cls(root=Path(configured).expanduser().absolute())
        base = CHECKOUT if (CHECKOUT / "pyproject.toml").exists() else Path.cwd()
        return cls(root=base / ".scristill")

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def valkey(self) -> Path:
        return self.root / "valkey"

    @property
    def qdrant(self) -> Path:
        return self.root / "qdrant"

    @property
    def traces(self) -> Path:
        return self.root / "traces"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def state(self) -> Path:
        return self.root / "stack.json"

    @property
    def lock(self) -> Path:
        return self.root / "stack.lock"

    def create(self, *, free_megabytes: int = DEFAULT_FREE_MEGABYTES) -> None:
        """Makes the directories and refuses in one line what would fail later in many."""
        try:
            for directory in (self.root, self.postgres, self.valkey, self.qdrant, self.traces, self.logs):
                directory.mkdir(mode=self._mode(directory), parents=True, exist_ok=True)
                if not os.access(directory, os.W_OK | os.X_OK):
                    raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise StackError(f"cannot write to {self.root} ({error.strerror}): set SCRISTILL_HOME") from error
        free = shutil.disk_usage(self.root).free // 1_000_000
        if free < free_megabytes:
            raise StackError(
                f"the disk of {self.root} has {free} MB free, {free_megabytes} MB are needed: "
                "make room, or set SCRISTILL_HOME or SCRISTILL_MIN_FREE_MB"
            )

    def _mode(self, directory: Path) -> int:
        """Closed to other users; as root, the way to PostgreSQL's data is open to the account that it runs under."""
        return 0o711 if os.geteuid() == 0 and directory in (self.root, self.postgres) else 0o700

    def password(self) -> str:
        """Made on first use. URL-safe, so that it stands in a connection URL as it is."""
        path = self.root / "password"
        if not path.exists():
            draft = path.with_suffix(".new")
            draft.unlink(missing_ok=True)
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(24))
            draft.rename(path)
        return path.read_text()
