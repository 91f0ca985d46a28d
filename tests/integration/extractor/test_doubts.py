"""What ends a doubt about the index: a comparison that began when nothing from before it could arrive any more."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from services.extractor.application.reconcile import OwnerChanged, Reconciler
from services.extractor.domain import identity
from services.extractor.domain.project import Project
from services.extractor.domain.reconciliation import RunRequest
from services.extractor.entrypoints.reconciliation_loop import ReconciliationLoop
from tests.integration.extractor.conftest import Desk, StartRelay, running
from tests.integration.extractor.peers import ScriptedIndexer
from tests.support.waiting import eventually

PERIOD = timedelta(hours=1)
SETTLE = timedelta(minutes=5)


async def _restored(desk: Desk) -> None:
    await desk.execute("UPDATE extractor.timeline SET timeline_id = timeline_id + 1")
    async with desk.unit_of_work() as repositories:
        assert await repositories.reconciliations.notice_timeline()


async def _ahead(desk: Desk) -> None:
    async with desk.unit_of_work() as repositories:
        (leased, *_), _ = await repositories.outbox.lease_facts(owner="relay", limit=1, lease=timedelta(minutes=1))
        assert await repositories.outbox.reissue([leased.intent])
    await desk.execute("DELETE FROM extractor.outbox WHERE topic = 'fact'")


async def _lost(desk: Desk) -> None:
    async with desk.unit_of_work() as repositories:
        await repositories.witnesses.disprove()


doubted = pytest.mark.parametrize("doubt", [_restored, _ahead, _lost])
Doubt = Callable[[Desk], Awaitable[None]]


@pytest.fixture
async def project(desk: Desk, reconciler: Reconciler, indexer: ScriptedIndexer, start_relay: StartRelay) -> Project:
    """Facts that are indexed and compared; one of another source waits."""
    project = await desk.project()
    async with desk.unit_of_work() as repositories:
        await repositories.reconciliations.notice_timeline()
    await desk.distilled(project, "Ada wrote programs. Grace found bugs.")
    async with start_relay():
        await eventually(desk.nothing_waits)
    await _compare(reconciler)
    assert indexer.live
    await desk.distilled(project, "Linus made git.", uri="file:///b")
    return project


async def _compare(reconciler: Reconciler) -> None:
    run, opened = await reconciler.begin(RunRequest())
    assert opened
    await reconciler.go_on(run)


async def _due(desk: Desk) -> bool:
    async with desk.unit_of_work() as repositories:
        return await repositories.reconciliations.due(period=PERIOD, settle=SETTLE)


async def _pass(desk: Desk, time: timedelta) -> None:
    """All that has happened was so much longer ago."""
    await desk.execute(
        "UPDATE extractor.timeline SET notice_time = notice_time - CAST(:time AS interval),"
        " suspect_time = suspect_time - CAST(:time AS interval)",
        time=time,
    )
    await desk.execute(
        "UPDATE extractor.reconciliations SET start_time = start_time - CAST(:time AS interval)", time=time
    )


async def _marker_goes(desk: Desk, project: Project) -> bool:
    async with desk.unit_of_work() as repositories:
        await repositories.markers.release(settle=SETTLE)
    return identity.marker_id(project.project_id) in await desk.outbox()


async def _issue(desk: Desk, project: Project) -> None:
    async with desk.unit_of_work() as repositories:
        assert await repositories.markers.issue(project.project_id, marker=identity.marker_id(project.project_id))


async def test_first_look_at_a_database_is_no_doubt(desk: Desk, project: Project) -> None:
    await _issue(desk, project)

    assert not await _due(desk)
    assert await _marker_goes(desk, project)


@doubted
async def test_doubt_is_looked_into_at_once_and_again_when_nothing_can_arrive_any_more(
    desk: Desk, reconciler: Reconciler, project: Project, doubt: Doubt
) -> None:
    assert not await _due(desk)
    await doubt(desk)
    assert await _due(desk)
    await _compare(reconciler)
    assert not await _due(desk)

    await _pass(desk, SETTLE)

    assert await _due(desk)
    await _compare(reconciler)
    assert not await _due(desk)


@doubted
async def test_no_marker_goes_out_before_the_comparison_that_counts(
    desk: Desk, reconciler: Reconciler, project: Project, doubt: Doubt
) -> None:
    await doubt(desk)
    await _issue(desk, project)
    await _compare(reconciler)
    assert not await _marker_goes(desk, project)

    await _pass(desk, SETTLE)

    assert not await _marker_goes(desk, project)
    await _compare(reconciler)
    assert await _marker_goes(desk, project)


async def test_relay_holds_markers_until_the_comparison_that_counts(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    marker = str(identity.marker_id(project.project_id))
    await _restored(desk)
    await _issue(desk, project)
    await _compare(reconciler)
    async with start_relay(settle=SETTLE) as relay:
        await eventually(lambda: len(indexer.live) == 3)
        await eventually(desk.nothing_waits)
        assert marker not in indexer.points

        await _pass(desk, SETTLE)
        await _compare(reconciler)
        relay.wake()

        await eventually(lambda: marker in indexer.points)


@doubted
async def test_comparison_that_was_under_way_when_everything_had_arrived_does_not_count(
    desk: Desk, reconciler: Reconciler, project: Project, doubt: Doubt
) -> None:
    await doubt(desk)
    run, _ = await reconciler.begin(RunRequest())
    await _pass(desk, SETTLE)
    await reconciler.go_on(run)

    assert await _due(desk)


async def test_run_of_the_lost_history_does_not_keep_the_place_of_the_comparison_that_is_due(
    desk: Desk, reconciler: Reconciler, project: Project
) -> None:
    run, _ = await reconciler.begin(RunRequest())

    await _restored(desk)

    assert await _due(desk)
    await _compare(reconciler)
    with pytest.raises(OwnerChanged):
        await reconciler.go_on(run)


async def test_write_that_lands_after_the_first_comparison_is_found_without_an_operator(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer
) -> None:
    """It was sent before the database went back to a time at which its intent was not written yet."""
    loop = ReconciliationLoop(
        reconciler=reconciler,
        unit_of_work=desk.unit_of_work,
        watch=_trusted,
        wake=desk.woken.append,
        period=PERIOD,
        settle=SETTLE,
        orphan_after=timedelta(hours=1),
        pace=0,
        look=timedelta(milliseconds=20),
    )
    async with running(loop.run):
        await desk.execute("UPDATE extractor.timeline SET timeline_id = timeline_id + 1")
        await eventually(lambda: _runs(desk, 2))
        fact_id, held = next(iter(indexer.points.items()))
        held.version += 1

        await _pass(desk, SETTLE)

        await eventually(lambda: _runs(desk, 3))
    rows = await desk.execute("SELECT fact_id, repaired FROM extractor.drifts")
    assert [(str(row.fact_id), row.repaired) for row in rows] == [(fact_id, True)]


async def _trusted() -> bool:
    return True


async def _runs(desk: Desk, at_least: int) -> bool:
    (row,) = await desk.execute("SELECT count(*) AS done FROM extractor.reconciliations WHERE state = 2")
    return row.done >= at_least
