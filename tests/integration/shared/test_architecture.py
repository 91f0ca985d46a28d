"""The import contracts catch what they are there for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("architecture")
    shutil.copytree(ROOT / "services", target / "services", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", target)
    return target


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(
        command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("module", "code", "complaint"),
    [
        ("scheduler/domain", "import services.scheduler.adapters", "domain is not allowed to import"),
        ("scheduler/application", "import services.scheduler.entrypoints", "application is not allowed to import"),
        ("extractor/adapters", "import services.extractor.entrypoints", "adapters is not allowed to import"),
        ("extractor", "import services.indexer", "extractor is not allowed to import services.indexer"),
        ("shared", "import services.scheduler", "shared is not allowed to import services.scheduler"),
        ("cli", "import services.extractor", "cli is not allowed to import services.extractor"),
        ("indexer/domain", "import services.shared.grpc.errors", "domain is not allowed to import grpc"),
        ("indexer/domain", "import scristill.indexer.v1.fact_pb2", "domain is not allowed to import scristill"),
        ("llm_gateway/application", "import redis", "application is not allowed to import redis"),
        ("extractor/application", "import sqlalchemy", "application is not allowed to import sqlalchemy"),
    ],
)
def test_planted_import_breaks_a_contract(copy: Path, module: str, code: str, complaint: str):
    planted = copy / "services" / module / "planted.py"
    planted.write_text(f"{code}\n")
    try:
        result = lint(copy)
    finally:
        planted.unlink()

    assert result.returncode == 1
    assert complaint in result.stdout
