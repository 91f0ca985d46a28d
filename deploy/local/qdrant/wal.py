"""Durability of a shard's write-ahead log.

`EdgeShard.update` appends to a memory-mapped log and applies the operation; that survives the death of the process,
not of the machine. `EdgeShard.flush` makes it survive both but writes every segment. Putting only the log on disk
costs a tenth of that and releases the interpreter meanwhile; `EdgeShard.load` replays it. Kernels write back pages
dirtied through a map on fsync of the file.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deploy.local.qdrant.storage import sync

_OPEN = "open-"
_SEGMENTS = (_OPEN, "closed-")


class LogFile(NamedTuple):
    name: str
    descriptor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirty:
    """What is to be put on disk, held open: a later update may give the files other names meanwhile."""

    files: Sequence[LogFile]
    directory: Path | None
    """Set when names have changed."""

    def sync(self) -> None:
        try:
            for file in self.files:
                put_on_disk(file)
            if self.directory is not None:
                sync(self.directory)
        finally:
            self.close()

    def close(self) -> None:
        for file in self.files:
            os.close(file.descriptor)


def put_on_disk(file: LogFile) -> None:
    os.fsync(file.descriptor)


class WriteAheadLog:
    """`dirty` is called by whoever updates, right after it. What it returns may be synced beside later updates, in
    order, but not beside a flush of the shard, which removes log files.
    """

    def __init__(self, shard: Path) -> None:
        self._directory = shard / "wal"
        self._known: frozenset[str] = frozenset()

    def dirty(self) -> Dirty:
        # A thread of the engine prepares the next file under another name, which may vanish at any time.
        names = frozenset(entry.name for entry in self._directory.iterdir() if entry.name.startswith(_SEGMENTS))
        touched = [name for name in names if name.startswith(_OPEN) or name not in self._known]
        files = [LogFile(name, os.open(self._directory / name, os.O_RDONLY)) for name in touched]
        renamed = names != self._known
        self._known = names
        return Dirty(files=files, directory=self._directory if renamed else None)
