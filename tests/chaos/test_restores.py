"""An engine is restarted, comes back from an older copy, or with nothing: the stores find together again."""

import asyncio
import shutil
from itertools import cycle
from pathlib import Path
from uuid import uuid4

import pytest

from tests.chaos import copies
from tests.chaos.scene import Scene
from tests.chaos.verdict import ALIAS

pytestmark = pytest.mark.timeout(900)


async def test_qdrant_restarted_from_an_older_copy(scene: Scene, tmp_path: Path) -> None:
    qdrant, data = scene.machine["qdrant"], scene.machine.layout.home.qdrant
    async with scene.load():
        await qdrant.stop()
        copies.cold_copy(data, tmp_path / "copy")
        await qdrant.start()
        await scene.library.delete(min(scene.library.shelf.texts))
        await scene.indexes(20)
        await qdrant.kill()
        copies.replace_by(data, tmp_path / "copy")
        await qdrant.start()
    await scene.check(repairs=True)


async def test_qdrant_wiped(scene: Scene) -> None:
    qdrant, data = scene.machine["qdrant"], scene.machine.layout.home.qdrant
    async with scene.load():
        await qdrant.kill()
        shutil.rmtree(data)
        data.mkdir()
        await qdrant.start()
    await scene.check(repairs=True)


@pytest.mark.parametrize("way", ["older", "wiped"])
async def test_index_that_has_lost_something_is_noticed_before_anybody_is_told_that_it_is_there(
    scene: Scene, tmp_path: Path, way: str
) -> None:
    """Nothing is written that could fail, nothing is restarted but Qdrant, and nobody asks for a comparison."""
    qdrant, data, library = scene.machine["qdrant"], scene.machine.layout.home.qdrant, scene.library
    await library.add(3)
    await scene.rest()
    deleted = min(library.shelf.texts)
    await qdrant.stop()
    copies.cold_copy(data, tmp_path / "copy")
    await qdrant.start()
    await library.delete(deleted)
    await library.add(2)
    await scene.rest()
    lost = max(library.shelf.texts)
    before, sources = await scene.token(), library.shelf.source_ids
    assert len(await scene.search([sources[lost]], token=before)) == library.sentences_each
    run = await scene.last_run()

    await qdrant.kill()
    if way == "older":
        copies.replace_by(data, tmp_path / "copy")
    else:
        shutil.rmtree(data)
        data.mkdir()
    await qdrant.start()

    for token in (await scene.token(), before):
        assert len(await scene.search([sources[lost]], token=token)) == library.sentences_each
        assert await scene.search([sources[deleted]], token=token) == set()
    assert await scene.last_run() != run
    await scene.check()


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_postgres_restarted(scene: Scene, end: str) -> None:
    postgres = scene.machine["postgres"]
    async with scene.load():
        for _ in range(scene.form.repeats):
            await getattr(postgres, end)()
            await asyncio.sleep(scene.form.down_seconds / scene.form.repeats)
            await postgres.start()
            await scene.indexes(10)
    await scene.check()


@pytest.mark.parametrize("way", ["recovered", "failed over"])
async def test_postgres_at_an_earlier_time_is_noticed_and_reconciled_by_itself(
    scene: Scene, tmp_path: Path, way: str
) -> None:
    """What was written after that time is gone from the index; what was deleted after it is back.

    It is recovered from a base backup, or a standby is promoted that had fallen behind.
    """
    postgres, cluster = scene.machine["postgres"], scene.machine.postgres
    await scene.library.add(8)
    await scene.rest()
    earlier, run = scene.library.copy(), await scene.last_run()
    await copies.base_copy(cluster, tmp_path / "copy")
    await scene.library.delete(min(earlier.texts))
    await scene.library.edit(max(earlier.texts))
    async with scene.load():
        pass
    await scene.rest()

    await postgres.kill()
    scene.library.go_back_to(earlier)
    if way == "recovered":
        copies.recover(cluster, tmp_path / "copy")
        await postgres.start()
    else:
        copies.become_standby(cluster, tmp_path / "copy")
        await postgres.start()
        await copies.promote(cluster)
    async with scene.load():
        await scene.library.edit(max(earlier.texts))

    await scene.reconciled_since(run)
    await scene.check()


async def test_postgres_started_from_an_older_copy_of_its_files(scene: Scene, tmp_path: Path) -> None:
    """No other timeline tells of it; versions that were issued twice do, and that is enough: nobody asks to compare."""
    postgres, cluster = scene.machine["postgres"], scene.machine.postgres
    await scene.library.add(8)
    await scene.rest()
    earlier = scene.library.copy()
    await postgres.stop()
    copies.cold_copy(cluster.data, tmp_path / "copy")
    await postgres.start()
    # So many versions go by that those of the edit lie above all that is issued again for it below.
    await scene.library.add(4)
    await scene.rest()
    await scene.library.edit(max(earlier.texts))
    await scene.library.delete(min(earlier.texts))
    async with scene.load():
        pass
    await scene.rest()

    await postgres.kill()
    copies.replace_by(cluster.data, tmp_path / "copy")
    scene.library.go_back_to(earlier)
    await postgres.start()
    run = await scene.last_run()
    # What this edit retires, the lost one has retired under higher versions.
    await scene.library.edit(max(earlier.texts))
    async with scene.load():
        await scene.reconciled_since(run)
    await scene.check()


async def test_points_damaged_behind_everybodys_back(scene: Scene) -> None:
    """Some at the very version that they should have: nothing but a new version replaces those."""
    await scene.library.add(3)
    await scene.rest()
    victims = (await scene.live_points())[:12]
    damages = [
        {"project_id": str(uuid4())},
        {"content_hash": "00" * 32},
        {"version": 1},
        {"version": max(point.version for point in victims) + 1000},
    ]
    for point, damage in zip(victims, cycle(damages), strict=False):
        await scene.world.qdrant.set_payload(ALIAS, damage, points=[point.point_id], wait=True)

    await scene.check(repairs=True)
