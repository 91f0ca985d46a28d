"""The storage directory: its lock, its free space, and writes that survive a power cut."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from deploy.local.qdrant.errors import StandInError

# The engine writes through memory maps of sparse files: on a full disk it is killed by SIGBUS instead of seeing an
# error. Writes are refused below this margin, which is more than one request of the largest size can take.
FREE_BYTES_MARGIN = 256 * 1024 * 1024


class Storage:
    """A directory that one process owns while it holds the lock file."""

    def __init__(self, root: Path, *, free_bytes_margin: int = FREE_BYTES_MARGIN) -> None:
        self.root = root
        self._free_bytes_margin = free_bytes_margin
        self._lock: IO[str] | None = None

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.json"

    @property
    def shards(self) -> Path:
        return self.root / "collections"

    def acquire(self) -> None:
        """Creates the directory and takes its lock. Raises StandInError when it cannot be used."""
        try:
            self.shards.mkdir(parents=True, exist_ok=True)
            lock = (self.root / "lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise StandInError(f"cannot use the storage directory {self.root}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise StandInError(f"the storage directory {self.root} is in use by another process") from error
        self._lock = lock
        if not self.has_room():
            self.release()
            raise StandInError(f"no space left for {self.root}: {self._free_bytes_margin >> 20} MiB must be free")

    def release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def has_room(self) -> bool:
        return shutil.disk_usage(self.root).free >= self._free_bytes_margin


def replace_file(path: Path, content: bytes) -> None:
    """Leaves the old content or the new one behind, whatever happens in between; the new one is on disk on return."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Puts one file or directory on disk, including what was written to it through memory maps."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_through(root: Path) -> None:
    """Blocks. Reads all files once, in order, so that the system has them in memory as far as there is room."""
    chunk = bytearray(1 << 20)
    for path in _files(root):
        with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
            while file.readinto(chunk):
                pass


def sync_tree(root: Path) -> None:
    for path in _files(root):
        with suppress(FileNotFoundError):
            sync(path)
    for directory, _, _ in os.walk(root):
        sync(Path(directory))
    sync(root.parent)


def _files(root: Path) -> Iterator[Path]:
    """Each file once, directory by directory.

    A thread of the engine prepares the next file of the log under another name, which may vanish before it is opened:
    directories are listed until they hold nothing new.
    """
    for directory, _, _ in os.walk(root):
        seen = set[str]()
        while names := {entry.name for entry in os.scandir(directory) if entry.is_file()} - seen:
            yield from (Path(directory, name) for name in sorted(names))
            seen |= names
