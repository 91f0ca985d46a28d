"""One machine for all faults; each fault has a project of its own, and compares the whole of both stores."""

from collections.abc import AsyncIterator

import pytest

from tests.chaos.scene import Scene, World, form, running_world


@pytest.fixture(scope="package")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running_world(tmp_path_factory.mktemp("chaos") / "home", form()) as world:
        yield world


@pytest.fixture
async def scene(world: World, request: pytest.FixtureRequest) -> Scene:
    return await world.scene(request.node.name)
