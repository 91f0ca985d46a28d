"""The suite as its users run it: one local stack of real engines and services for the session."""

from collections.abc import AsyncIterator

import pytest

from tests.support.command import Scristill
from tests.support.invariants import Peers
from tests.support.local_stack import LocalStack, local_stack

COMMAND_WITHIN = 300.0


@pytest.fixture(scope="package")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalStack]:
    with local_stack(tmp_path_factory.mktemp("a stack") / "home") as running:
        await running.start_and_wait()
        yield running


@pytest.fixture(scope="package")
def scristill(stack: LocalStack) -> Scristill:
    return Scristill(environ=stack.environ, within=COMMAND_WITHIN)


@pytest.fixture(scope="package")
async def peers(stack: LocalStack) -> AsyncIterator[Peers]:
    async with Peers.of(stack.environ) as peers:
        yield peers
