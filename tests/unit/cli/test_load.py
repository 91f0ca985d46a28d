"""Batches of bounded size."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.cli.ingest import load as module
from services.cli.ingest.collect import File
from services.cli.ingest.load import load
from services.cli.ingest.outcome import Fate, Outcome


def found(directory: Path, sizes: list[int]) -> Iterator[File]:
    for index, size in enumerate(sizes):
        path = directory / f"{index:03}"
        path.write_bytes(b"x" * size)
        yield File(path=path, size=size)


def shape(steps: Iterator[object]) -> list[object]:
    return [[len(each.content) for each in step] if isinstance(step, list) else type(step) for step in steps]


def test_batch_holds_no_more_bytes_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)

    assert shape(load(found(tmp_path, [6, 4, 1, 9, 2]))) == [[6, 4], [1, 9], [2]]


def test_batch_holds_no_more_items_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ITEMS", 2)

    assert shape(load(found(tmp_path, [1, 1, 1, 1, 1]))) == [[1, 1], [1, 1], [1]]


def test_batches_fit_the_contract() -> None:
    assert module.MAX_ITEMS <= 500
    assert module.MAX_BYTES + module.LARGE_BYTES <= 16 * 1024 * 1024


def test_large_file_is_left_to_be_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_BYTES", 5)

    assert shape(load(found(tmp_path, [5, 6, 1]))) == [File, [5, 1]]


def test_file_that_grew_since_it_was_found_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_BYTES", 5)
    path = tmp_path / "grown"
    path.write_bytes(b"x" * 9)

    assert list(load([File(path=path, size=1)])) == [File(path=path, size=1)]


def test_empty_file_is_sent(tmp_path: Path) -> None:
    assert shape(load(found(tmp_path, [0]))) == [[0]]


def test_file_that_vanished_fails_and_the_rest_goes_on(tmp_path: Path) -> None:
    steps = list(load([File(path=tmp_path / "gone", size=1), *found(tmp_path, [3])]))

    assert steps[0] == Outcome(path=str(tmp_path / "gone"), fate=Fate.FAILED, reason="no such file or directory")
    assert shape(iter(steps[1:])) == [[3]]


def test_path_longer_than_a_uri_may_be_fails_alone(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["\N{SNOWMAN}" * 80] * 6)

    (step,) = load([File(path=deep / os.fsdecode(b"\xe9"), size=1)])

    assert isinstance(step, Outcome)
    assert step.reason == "the path is too long"
