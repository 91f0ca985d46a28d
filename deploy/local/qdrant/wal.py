"""Durability of a shard's write-ahead log.

`EdgeShard.update` appends to a memory-mapped log and applies the operation; that survives the death of the process,
not of the machine. `EdgeShard.flush` makes it survive both but writes every segment. Putting only the log on disk
costs a tenth of that and releases the interpreter meanwhile; `EdgeShard.load` replays it. Kernels write back pages
dirtied through a map on fsync of the file.
"""

from pathlib import Path

from deploy.local.qdrant.storage import sync

_OPEN = "open-"
_SEGMENTS = (_OPEN, "closed-")


class WriteAheadLog:
    """Not thread-safe, and not to run beside a flush of its shard, which removes log files."""

    def __init__(self, shard: Path) -> None:
        self._directory = shard / "wal"
        self._synced: frozenset[str] = frozenset()

    def sync(self) -> None:
        # A thread of the engine prepares the next file under another name, which may vanish at any time.
        names = frozenset(entry.name for entry in self._directory.iterdir() if entry.name.startswith(_SEGMENTS))
        for name in names:
            if name.startswith(_OPEN) or name not in self._synced:
                sync(self._directory / name)
        if names != self._synced:
            sync(self._directory)
            self._synced = names
