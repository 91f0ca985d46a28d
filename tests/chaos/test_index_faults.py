"""Qdrant and the indexer fail under load: nothing is lost, doubled, orphaned or brought back."""

import asyncio

import pytest

from tests.chaos.scene import LOOK_SECONDS, QDRANT_TIMEOUT_SECONDS, Scene
from tests.support.waiting import eventually

pytestmark = pytest.mark.timeout(900)


async def test_qdrant_down(scene: Scene) -> None:
    qdrant = scene.machine["qdrant"]
    async with scene.load():
        await qdrant.kill()
        await asyncio.sleep(scene.form.down_seconds)
        await scene.waits()
        await qdrant.start()
    await scene.check()


async def test_qdrant_slow(scene: Scene) -> None:
    wire = scene.machine.wires["indexer to qdrant"]
    async with scene.load():
        wire.delay(0.4)
        await asyncio.sleep(scene.form.down_seconds)
        wire.resume()
    await scene.check()


async def test_qdrant_answers_with_timeouts_whose_write_did_land(scene: Scene) -> None:
    wire = scene.machine.wires["indexer to qdrant"]
    async with scene.load():
        for _ in range(scene.form.repeats):
            wire.mute()
            await scene.library.add(6)
            await _written_without_acknowledgement(scene)
            await asyncio.sleep(QDRANT_TIMEOUT_SECONDS + 1)
            # What Qdrant had to say is lost; the next requests get through.
            wire.reset_connections()
            wire.resume()
            await scene.indexes(10)
    await scene.check()


async def test_qdrant_killed_in_mid_batch(scene: Scene) -> None:
    await _killed_under_load(scene, "qdrant")


async def test_indexer_killed_in_mid_stream(scene: Scene) -> None:
    await _killed_under_load(scene, "indexer")


async def _killed_under_load(scene: Scene, name: str) -> None:
    async with scene.load():
        for _ in range(scene.form.repeats):
            await scene.library.add(6)
            await scene.indexes(10)
            await scene.machine[name].restart()
    await scene.check()


async def test_acknowledgements_lost(scene: Scene) -> None:
    wire = scene.machine.wires["extractor to indexer"]
    async with scene.load():
        for _ in range(scene.form.repeats):
            wire.mute()
            await scene.library.add(6)
            await scene.waits()
            await _written_without_acknowledgement(scene)
            wire.reset_connections()
            wire.resume()
            await scene.indexes(10)
    await scene.check()


async def _written_without_acknowledgement(scene: Scene) -> None:
    """Points stand in Qdrant that PostgreSQL has not heard of."""

    async def ahead() -> bool:
        points = await scene.live_points()
        return len(points) > (await scene.consistency(scene.library.project_id)).indexed_count + 10

    await eventually(ahead, within=scene.form.rest_within, every=LOOK_SECONDS)
