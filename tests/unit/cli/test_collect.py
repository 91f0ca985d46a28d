"""Which paths an ingest sends, and what it says of the others."""

import os
from pathlib import Path

import pytest

from services.cli.ingest.collect import File, collect
from services.cli.ingest.outcome import Fate, Outcome


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.md", "a.md", "sub/c.txt", "sub/.hidden.txt", ".git/config", ".env"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    return tmp_path


def files(*paths: Path) -> list[Path]:
    return [item.path for item in collect(paths) if isinstance(item, File)]


def outcomes(*paths: Path) -> list[Outcome]:
    """Without those of hidden entries."""
    return [item for item in collect(paths) if isinstance(item, Outcome) and item.fate is not Fate.HIDDEN]


def test_directories_are_walked_in_order_without_hidden_entries(tree: Path) -> None:
    assert files(tree) == [tree / "a.md", tree / "b.md", tree / "sub/c.txt"]


def test_hidden_entries_are_counted_and_not_entered(tree: Path) -> None:
    hidden = [item.path for item in collect([tree]) if isinstance(item, Outcome) and item.fate is Fate.HIDDEN]

    assert sorted(hidden) == [f"{tree}/.env", f"{tree}/.git", f"{tree}/sub/.hidden.txt"]


def test_hidden_entries_that_are_named_are_taken(tree: Path) -> None:
    assert files(tree / ".env", tree / ".git") == [tree / ".env", tree / ".git/config"]


def test_hidden_directory_named_beside_its_parent_is_taken_once(tree: Path) -> None:
    assert files(tree, tree / ".git") == [tree / "a.md", tree / "b.md", tree / "sub/c.txt", tree / ".git/config"]


def test_path_named_twice_or_inside_another_comes_once(tree: Path) -> None:
    assert sorted(files(tree, tree / "sub", tree / "a.md", tree)) == [tree / "a.md", tree / "b.md", tree / "sub/c.txt"]


def test_relative_paths_become_absolute(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree / "sub")

    assert files(Path("../a.md")) == [tree / "a.md"]


def test_missing_path_fails_with_its_reason(tree: Path) -> None:
    assert outcomes(tree / "nothing.md") == [
        Outcome(path=str(tree / "nothing.md"), fate=Fate.FAILED, reason="no such file or directory")
    ]


def test_what_is_no_file_is_skipped_with_its_reason(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    (tree / "broken").symlink_to(tree / "nowhere")
    (tree / "loop").symlink_to(tree)

    assert {(Path(each.path).name, each.fate, each.reason) for each in outcomes(tree)} == {
        ("pipe", Fate.SKIPPED, "not a regular file"),
        ("broken", Fate.SKIPPED, "a broken symbolic link"),
        ("loop", Fate.SKIPPED, "a symbolic link to a directory"),
    }


def test_link_to_a_file_is_followed_under_its_own_name(tree: Path) -> None:
    (tree / "link.md").symlink_to(tree / "a.md")

    assert tree / "link.md" in files(tree)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_directory_that_cannot_be_read_fails(tree: Path) -> None:
    (tree / "sub").chmod(0)
    try:
        assert [(each.path, each.fate) for each in outcomes(tree)] == [(str(tree / "sub"), Fate.FAILED)]
    finally:
        (tree / "sub").chmod(0o700)


def test_name_that_is_not_utf8_is_reported_readably(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).symlink_to("nowhere")

    assert [each.path for each in outcomes(tmp_path)] == [f"{tmp_path}/caf\N{REPLACEMENT CHARACTER}"]
