"""What a reader of the tree may rely on."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
GENERATED = ("protos/gen/", "protos/third_party/")


def _tracked(*patterns: str) -> list[Path]:
    """Files of the tree as git sees them, new ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in listed if not name.startswith(GENERATED) and (ROOT / name).exists()]


def _long_functions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name} {length}"


def test_no_file_is_longer_than_a_reader_bears() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _tracked("*.py", "*.sql")}

    assert {name: length for name, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    assert [found for path in _tracked("*.py") for found in _long_functions(path)] == []


def test_no_folder_of_leftovers() -> None:
    assert [path for path in _tracked("*.py") if path.stem in ("utils", "util", "helpers", "misc", "common")] == []


def test_every_rpc_that_is_not_done_yet_is_listed_in_one_place() -> None:
    refused = {
        match
        for path in _tracked("services/*.py")
        for match in re.findall(r'"(/scristill\.[a-z_.0-9]+v1\.\w+/\w+)"', path.read_text())
    }
    listed = re.findall(r"^\| `(/scristill\.[^`]+)` \|", (ROOT / "docs/ARCHITECTURE.md").read_text(), re.MULTILINE)

    assert set(listed) == refused


@pytest.mark.parametrize("word", ["TODO", "FIXME", "XXX"])
def test_nothing_is_left_for_later_in_the_code(word: str) -> None:
    marked = [path for path in _tracked("services/*.py", "deploy/*.py") if re.search(rf"\b{word}\b", path.read_text())]

    assert marked == []
