"""Walks the paths that the user names, and accounts for each file.

Order: arguments as given, and within a directory its files before its subdirectories, each by name. Hidden entries are
left out unless they are named. Symbolic links to files are followed, to directories not: they may lead in circles.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from services.cli.ingest.outcome import Fate, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    path: Path
    """Absolute, links unresolved."""
    size: int


def collect(paths: Iterable[Path]) -> Iterator[File | Outcome]:
    """An `Outcome` for what cannot be sent. A path that is named twice, or lies below another one, comes once."""
    named = list(dict.fromkeys(Path(os.path.abspath(path)) for path in paths))  # noqa: PTH100, resolve() follows links
    roots = frozenset(map(str, named))
    for path in named:
        if path.is_dir():
            yield from _walk(path, roots)
        else:
            yield _judge(path)


def _walk(root: Path, roots: frozenset[str]) -> Iterator[File | Outcome]:
    problems: list[Outcome] = []

    def note(error: OSError) -> None:
        problems.append(failed(Path(error.filename), error))

    for folder, subfolders, names in os.walk(root, onerror=note):
        directory = Path(folder)
        entries = [directory / name for name in (*sorted(names), *sorted(subfolders))]
        entries = [path for path in entries if str(path) not in roots]
        entered = {path.name for path in entries if not _is_hidden(path)}.intersection(subfolders)
        # Descends into what is left of the list, in its order.
        subfolders[:] = sorted(entered)
        for path in entries:
            if _is_hidden(path):
                yield Outcome(path=readable(path), fate=Fate.HIDDEN)
            elif path.name not in entered:
                yield _judge(path)
            elif path.is_symlink():
                yield skipped(path, "a symbolic link to a directory")
        yield from problems
        problems.clear()
    yield from problems


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".")


def _judge(path: Path) -> File | Outcome:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        return skipped(path, "a broken symbolic link") if path.is_symlink() else failed(path, error)
    except OSError as error:
        return failed(path, error)
    if not stat.S_ISREG(status.st_mode):
        return skipped(path, "not a regular file")
    return File(path=path, size=status.st_size)


def skipped(path: Path, reason: str) -> Outcome:
    return Outcome(path=readable(path), fate=Fate.SKIPPED, reason=reason)


def failed(path: Path, error: OSError) -> Outcome:
    reason = (error.strerror or type(error).__name__).lower()
    return Outcome(path=readable(path), fate=Fate.FAILED, reason=reason)


def readable(path: Path) -> str:
    """Names that are not UTF-8 can neither be printed nor stand in JSON as they are."""
    return os.fsencode(path).decode(errors="replace")
