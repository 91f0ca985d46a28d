"""An index that was wiped, or is an older copy of itself, is noticed; and nobody is told meanwhile that it has all."""

import asyncio
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pytest

from services.extractor.application.index_watch import IndexWatch
from services.extractor.application.reconcile import Reconciler
from services.extractor.domain import identity
from services.extractor.domain.outbox import Witness
from services.extractor.domain.project import Project
from services.extractor.domain.reconciliation import Run, RunRequest
from services.extractor.entrypoints.reconciliation_loop import ReconciliationLoop
from services.shared.errors import RemoteError
from tests.integration.extractor.conftest import Desk, StartRelay, running
from tests.integration.extractor.peers import ScriptedIndexer
from tests.support.waiting import eventually

TEXT = "Ada wrote programs. Grace found bugs. Alan broke codes."
MORE = "Linus made git. Guido made snakes."


@dataclass(frozen=True, slots=True, kw_only=True)
class Auditor:
    """Looks at the index, and compares it with the database."""

    desk: Desk
    watch: IndexWatch
    reconciler: Reconciler

    async def compare(self) -> Run:
        run, _ = await self.reconciler.begin(RunRequest())
        return await self.reconciler.go_on(run)

    def loop(self, *, look: timedelta) -> ReconciliationLoop:
        return ReconciliationLoop(
            reconciler=self.reconciler,
            unit_of_work=self.desk.unit_of_work,
            watch=self.watch,
            wake=self.desk.woken.append,
            period=timedelta(hours=1),
            settle=timedelta(),
            orphan_after=timedelta(hours=1),
            pace=0,
            look=look,
        )


@pytest.fixture
def auditor(desk: Desk, index_watch: IndexWatch, reconciler: Reconciler) -> Auditor:
    return Auditor(desk=desk, watch=index_watch, reconciler=reconciler)


@pytest.fixture
async def project(desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay) -> Project:
    """Three facts that are indexed, in a database whose stores were compared."""
    project = await desk.project()
    async with desk.unit_of_work() as repositories:
        await repositories.reconciliations.notice_timeline()
    await _index(desk, indexer, start_relay, project, TEXT)
    return project


async def _index(
    desk: Desk,
    indexer: ScriptedIndexer,
    start_relay: StartRelay,
    project: Project,
    text: str,
    *,
    uri: str = "file:///a",
) -> None:
    await desk.distilled(project, text, uri=uri)
    async with start_relay():
        await eventually(desk.nothing_waits)
    assert indexer.live


async def _witnesses(desk: Desk) -> list[Witness]:
    async with desk.unit_of_work() as repositories:
        return await repositories.witnesses.all()


async def _in_doubt(desk: Desk) -> bool:
    (row,) = await desk.execute("SELECT suspect_time FROM extractor.timeline")
    return row.suspect_time is not None


async def _token(desk: Desk, project: Project) -> int:
    async with desk.unit_of_work() as repositories:
        issued = await repositories.markers.issue(project.project_id, marker=identity.marker_id(project.project_id))
    assert issued is not None
    return issued


def _marker(indexer: ScriptedIndexer, project: Project) -> int:
    """The version of the marker that the index holds; 0 for none."""
    point = indexer.points.get(str(identity.marker_id(project.project_id)))
    return point.version if point else 0


async def test_index_that_holds_what_it_acknowledged_is_trusted(
    desk: Desk, project: Project, index_watch: IndexWatch
) -> None:
    assert len(await _witnesses(desk)) == 1

    assert await index_watch()

    assert not await _in_doubt(desk)


async def test_wiped_index_is_noticed_once(
    desk: Desk, project: Project, indexer: ScriptedIndexer, index_watch: IndexWatch
) -> None:
    indexer.points.clear()

    assert not await index_watch()
    assert await index_watch()

    assert await _in_doubt(desk)
    assert desk.losses == [None]
    async with desk.unit_of_work() as repositories:
        assert await repositories.reconciliations.due(period=timedelta(hours=1), settle=timedelta())


async def test_index_that_holds_an_older_version_is_noticed(
    desk: Desk, project: Project, indexer: ScriptedIndexer, index_watch: IndexWatch
) -> None:
    (witness,) = await _witnesses(desk)
    indexer.points[str(witness.fact_id)].version -= 1

    assert not await index_watch()


async def test_fact_that_moved_on_is_still_a_witness(
    desk: Desk, project: Project, indexer: ScriptedIndexer, index_watch: IndexWatch
) -> None:
    (witness,) = await _witnesses(desk)
    indexer.points[str(witness.fact_id)].version += 1

    assert await index_watch()


async def test_older_copy_is_noticed_although_it_has_acknowledged_again(
    desk: Desk, project: Project, indexer: ScriptedIndexer, start_relay: StartRelay, index_watch: IndexWatch
) -> None:
    """It came and went between two looks, and what it acknowledged since is in it."""
    copy = deepcopy(indexer.points)
    await asyncio.sleep(1.1)
    await _index(desk, indexer, start_relay, project, MORE, uri="file:///b")
    indexer.points = copy
    await asyncio.sleep(1.1)
    await _index(desk, indexer, start_relay, project, "Tim made webs.", uri="file:///c")

    assert not await index_watch()


async def test_witnesses_go_when_they_were_seen_and_the_newest_stays(
    desk: Desk, project: Project, indexer: ScriptedIndexer, start_relay: StartRelay, index_watch: IndexWatch
) -> None:
    await asyncio.sleep(1.1)
    await _index(desk, indexer, start_relay, project, MORE, uri="file:///b")
    newest = (await _witnesses(desk))[-1]
    assert len(await _witnesses(desk)) == 2

    assert await index_watch()

    assert await _witnesses(desk) == [newest]


async def test_index_that_does_not_answer_is_neither_trusted_nor_doubted(
    desk: Desk, project: Project, indexer: ScriptedIndexer, index_watch: IndexWatch
) -> None:
    indexer.list_fails = True

    with pytest.raises(RemoteError):
        await index_watch()

    assert not await _in_doubt(desk)


async def test_loss_is_repaired_without_an_operator(
    desk: Desk,
    project: Project,
    indexer: ScriptedIndexer,
    auditor: Auditor,
    start_relay: StartRelay,
) -> None:
    await auditor.compare()
    loop = auditor.loop(look=timedelta(milliseconds=50))
    async with start_relay(), running(loop.run):
        indexer.points.clear()

        await eventually(lambda: len(indexer.live) == 3)


async def test_loss_that_somebody_else_sees_is_looked_into_at_once(
    desk: Desk, project: Project, indexer: ScriptedIndexer, auditor: Auditor
) -> None:
    loop = auditor.loop(look=timedelta(hours=1))
    async with running(loop.run):
        indexer.points.clear()
        await auditor.watch()
        assert not indexer.scans

        loop.look_now()

        await eventually(lambda: indexer.scans)


async def test_marker_is_not_sent_to_an_index_that_has_lost_something(
    desk: Desk, project: Project, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    indexer.points.clear()
    async with start_relay() as relay:
        await _token(desk, project)
        relay.wake()
        await eventually(lambda: desk.losses == [None])
        await desk.distilled(project, MORE, uri="file:///b")
        relay.wake()
        await eventually(lambda: len(indexer.live) == 2)

    assert _marker(indexer, project) == 0


async def test_marker_waits_for_an_index_that_cannot_be_looked_at(
    desk: Desk, project: Project, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    indexer.list_fails = True
    async with start_relay() as relay:
        issued = await _token(desk, project)
        relay.wake()
        await desk.distilled(project, MORE, uri="file:///b")
        relay.wake()
        await eventually(lambda: len(indexer.live) == 5)
        assert _marker(indexer, project) == 0

        indexer.list_fails = False

        await eventually(lambda: _marker(indexer, project) == issued)


async def test_marker_that_was_on_its_way_is_taken_back(
    desk: Desk, project: Project, indexer: ScriptedIndexer, start_relay: StartRelay, index_watch: IndexWatch
) -> None:
    await _token(desk, project)
    async with desk.unit_of_work() as repositories:
        await repositories.markers.release(settle=timedelta())
    assert identity.marker_id(project.project_id) in await desk.outbox()
    indexer.points.clear()

    await index_watch()

    assert await desk.outbox() == {}


async def test_markers_come_again_only_when_everything_that_was_lost_is_back(
    desk: Desk,
    project: Project,
    indexer: ScriptedIndexer,
    auditor: Auditor,
    start_relay: StartRelay,
) -> None:
    """Those of tokens that were fulfilled before too: their holders may search again."""
    async with start_relay() as relay:
        issued = await _token(desk, project)
        relay.wake()
        await eventually(lambda: _marker(indexer, project) == issued)
    indexer.points.clear()
    await auditor.watch()
    await auditor.compare()
    facts = set(await desk.outbox())
    assert len(facts) == 3
    indexer.live_limit = 2

    async with start_relay() as relay:
        await eventually(lambda: len(indexer.live) == 2)
        await asyncio.sleep(0.3)
        assert _marker(indexer, project) == 0

        indexer.live_limit = None
        relay.wake()
        await eventually(lambda: len(indexer.live) == 3)
        await eventually(lambda: _marker(indexer, project) == issued)


async def test_token_of_a_deletion_waits_for_what_the_older_copy_brought_back(
    desk: Desk,
    project: Project,
    indexer: ScriptedIndexer,
    auditor: Auditor,
    start_relay: StartRelay,
) -> None:
    copy = deepcopy(indexer.points)
    (source,) = {UUID(point.source_id) for point in indexer.live.values()}
    async with start_relay() as relay:
        await desk.commands.delete(source)
        relay.wake()
        await eventually(lambda: not indexer.live)
    indexer.points = copy
    assert not await auditor.watch()
    assert (await auditor.compare()).repaired == 3

    async with desk.unit_of_work() as repositories:
        assert await repositories.markers.release(settle=timedelta())

    assert identity.marker_id(project.project_id) not in await desk.outbox()
