"""Append-only files of bounded size: `name`, then `name.1` the newest rotated one, up to `name.KEEP`."""

from dataclasses import dataclass, field
from io import BufferedWriter
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class RotatingFile:
    """One writer per file. Each write reaches the operating system before the call returns."""

    path: Path
    max_bytes: int
    keep: int
    _file: BufferedWriter | None = field(default=None, init=False)

    def write(self, data: bytes) -> None:
        """`data` is whole lines; it is never split between two files."""
        file = self._open()
        if file.tell() and file.tell() + len(data) > self.max_bytes:
            self._rotate()
            file = self._open()
        file.write(data)
        file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BufferedWriter:
        if self._file is None:
            self._file = self.path.open("ab")
        return self._file

    def _rotate(self) -> None:
        self.close()
        for age in range(self.keep, 1, -1):
            younger = rotated(self.path, age - 1)
            if younger.exists():
                younger.replace(rotated(self.path, age))
        self.path.replace(rotated(self.path, 1))


def rotated(path: Path, age: int) -> Path:
    return path.with_name(f"{path.name}.{age}")


def newest_first(path: Path) -> list[Path]:
    """The file and its rotated predecessors, as far as they exist."""
    found = [path] if path.exists() else []
    age = 1
    while (file := rotated(path, age)).exists():
        found.append(file)
        age += 1
    return found
