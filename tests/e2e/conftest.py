"""The suite as its users run it: one local stack of real engines and services for the session."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.invariants import Peers
from tests.support.local_stack import LocalStack, local_stack

ROOT = Path(__file__).parents[2]
COMMAND_WITHIN = 300.0


@dataclass(frozen=True, slots=True)
class Scristill:
    """Runs `scristill` against the stack."""

    stack: LocalStack

    async def __call__(self, *arguments: object) -> list[dict[str, Any]]:
        """The JSON documents that the command prints; fails unless it succeeds."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*arguments),
            cwd=ROOT,
            env=self.stack.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(COMMAND_WITHIN):
            stdout, stderr = await process.communicate()
        assert process.returncode == 0, f"{arguments}: {process.returncode}\n{stderr.decode()}"
        return [json.loads(line) for line in stdout.splitlines()]

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "services.cli", *map(str, arguments), "--json"]


@pytest.fixture(scope="package")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("a stack") / "home") as running:
        await running.start_and_wait()
        yield running


@pytest.fixture(scope="package")
def scristill(stack: LocalStack) -> Scristill:
    return Scristill(stack)


@pytest.fixture(scope="package")
async def peers(stack: LocalStack) -> AsyncIterator[Peers]:
    async with Peers.of(stack.environ) as peers:
        yield peers
