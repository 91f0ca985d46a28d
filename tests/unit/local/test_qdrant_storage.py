"""The files of a shard, of which the engine's own thread renames one whenever it likes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.qdrant import storage


@pytest.mark.parametrize("visit", [storage.sync_tree, storage.read_through])
def test_file_that_is_renamed_meanwhile_is_found_under_its_other_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visit: Callable[[Path], None]
) -> None:
    log = tmp_path / "wal"
    log.mkdir()
    for name in ("open-1", "tmp-open-2"):
        (log / name).write_bytes(b"log")
    opened = list[str]()
    os_open, path_open = os.open, Path.open

    def opening(path: Path) -> None:
        opened.append(path.name)
        if path.name == "open-1":
            (log / "tmp-open-2").rename(log / "open-2")

    def by_descriptor(path: Path, flags: int) -> int:
        opening(path)
        return os_open(path, flags)

    def by_path(path: Path, mode: str, buffering: int) -> object:
        opening(path)
        return path_open(path, mode, buffering)

    monkeypatch.setattr(os, "open", by_descriptor)
    monkeypatch.setattr(Path, "open", by_path)
    visit(tmp_path)
    monkeypatch.undo()

    assert [name for name in opened if "open-" in name] == ["open-1", "tmp-open-2", "open-2"]
