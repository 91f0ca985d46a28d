"""The command against the contract in memory."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.cli.contract import Contract
from tests.support.command import ROOT, Scristill


@pytest.fixture
async def contract() -> AsyncIterator[Contract]:
    """With jobs that run at once."""
    contract = Contract()
    contract.working.set()
    await contract.start()
    yield contract
    await contract.close()


@pytest.fixture
def scristill(contract: Contract, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Scristill:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SCRISTILL_", "OTEL_"))}
    own = {
        "SCRISTILL_HOME": str(tmp_path / "home"),
        "PYTHONPATH": f"{ROOT}:{ROOT / 'protos/gen/python'}",
        # Compiled once per session instead of at each of many starts.
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(tmp_path_factory.getbasetemp() / "bytecode"),
    }
    return Scristill(environ={**kept, **own, **contract.environment()})
