"""PostgreSQL and the index are compared, and made to agree."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from scristill.extractor.v1 import consistency_service_pb2 as pb

from services.extractor.application.reconcile import OwnerChanged, Reconciler
from services.extractor.domain.project import Project
from services.extractor.domain.reconciliation import BUCKET_COUNT, Drift, DriftKind, Run, RunRequest, RunState, id_range
from services.extractor.entrypoints.reconciliation_loop import ReconciliationLoop
from tests.integration.extractor.conftest import Desk, StartRelay, running
from tests.integration.extractor.peers import Point, ScriptedIndexer
from tests.integration.extractor.service import serving_extractor
from tests.support.waiting import eventually

PEOPLE = [f"Person{n} visited town{n}." for n in range(40)]


@pytest.fixture
async def project(desk: Desk, indexer: ScriptedIndexer, start_relay: StartRelay) -> Project:
    """Forty facts that are indexed."""
    project = await desk.project()
    await desk.distilled(project, " ".join(PEOPLE))
    async with start_relay():
        await eventually(lambda: len(indexer.live) == len(PEOPLE))
        await eventually(desk.nothing_waits)
    return project


async def _run(reconciler: Reconciler, **request: object) -> Run:
    run, opened = await reconciler.begin(RunRequest(**request))
    assert opened
    return await reconciler.go_on(run)


async def _drifts(desk: Desk) -> dict[UUID, DriftKind]:
    rows = await desk.execute("SELECT fact_id, kind FROM extractor.drifts")
    return {row.fact_id: DriftKind(row.kind) for row in rows}


async def test_two_sides_that_agree_have_equal_digests(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer
) -> None:
    run = await _run(reconciler)

    assert run.state is RunState.DONE
    assert run.facts == run.points
    assert (run.facts.count, run.differing, run.repaired, run.epoch) == (40, 0, 0, 1)
    assert indexer.listed == 0


def _damage(indexer: ScriptedIndexer, fact_id: str, kind: DriftKind) -> str:
    """Makes the index disagree about a fact; returns the fact that is affected."""
    point = indexer.points[fact_id]
    match kind:
        case DriftKind.MISSING:
            del indexer.points[fact_id]
        case DriftKind.STALE:
            point.version -= 1
        case DriftKind.GHOST:
            fact_id = str(uuid4())
            indexer.points[fact_id] = Point(
                version=5,
                content_hash=bytes(32),
                tombstone=False,
                project_id=point.project_id,
                source_id=point.source_id,
            )
        case DriftKind.WRONG_EPOCH:
            point.epoch = 7
        case DriftKind.WRONG_PAYLOAD:
            point.content_hash = bytes(32)
        case DriftKind.WRONG_PROJECT:
            point.project_id = str(uuid4())
    return fact_id


@pytest.mark.parametrize("kind", list(DriftKind))
async def test_each_kind_of_drift_is_named_and_repaired(  # noqa: PLR0917 - fixtures
    desk: Desk,
    reconciler: Reconciler,
    project: Project,
    indexer: ScriptedIndexer,
    start_relay: StartRelay,
    kind: DriftKind,
) -> None:
    damaged = _damage(indexer, next(iter(indexer.points)), kind)

    run = await _run(reconciler)

    assert await _drifts(desk) == {UUID(damaged): kind}
    assert dict(run.drift_counts) == {kind.name: 1}
    assert run.repaired == 1
    async with start_relay():
        await eventually(desk.nothing_waits)
    again = await _run(reconciler)
    assert again.facts == again.points
    assert dict(again.drift_counts) == {}


async def test_all_kinds_at_once_are_found_and_nothing_else(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer
) -> None:
    victims = list(indexer.points)
    expected = {UUID(_damage(indexer, victims[position * 3], kind)): kind for position, kind in enumerate(DriftKind)}

    await _run(reconciler)

    assert await _drifts(desk) == expected


async def test_a_dry_run_only_reports(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer
) -> None:
    _damage(indexer, next(iter(indexer.points)), DriftKind.MISSING)

    run = await _run(reconciler, dry_run=True)

    assert run.drift_counts == {"MISSING": 1}
    assert run.repaired == 0
    assert await desk.outbox() == {}


async def test_what_is_under_way_is_no_drift(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer
) -> None:
    """New, changed and deleted facts whose intents wait: the digests differ, and nothing is repaired."""
    await desk.distilled(project, " ".join(PEOPLE[5:]) + " Linus made git.")

    run = await _run(reconciler)

    assert run.differing > 0
    assert (await _drifts(desk), run.repaired) == ({}, 0)
    assert run.facts == run.points


async def test_a_write_that_lands_between_the_reads_is_no_drift(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    """Points are read, then facts change and are acknowledged before facts are looked at again."""
    damaged = _damage(indexer, next(iter(indexer.points)), DriftKind.STALE)
    indexer.list_gate.clear()
    run = asyncio.create_task(_run(reconciler))
    await eventually(lambda: indexer.listed)

    await desk.distilled(project, " ".join(f"Well {sentence}" for sentence in PEOPLE))
    async with start_relay():
        await eventually(desk.nothing_waits)
    indexer.list_gate.set()
    await run

    assert damaged in indexer.points
    assert await _drifts(desk) == {}


async def test_an_index_that_was_wiped_is_filled_again(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    indexer.points.clear()

    run = await _run(reconciler)

    assert run.drift_counts == {"MISSING": 40}
    async with start_relay():
        await eventually(lambda: len(indexer.live) == 40)
        await eventually(desk.nothing_waits)
    assert all(fact.embedding_id for fact in await desk.facts(project))


async def test_f5_a_database_that_was_restored_wins_over_an_index_that_is_ahead(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer, start_relay: StartRelay
) -> None:
    """The database forgot a change and a deletion, and its sequence went back with it."""
    first, second, *_ = indexer.points
    indexer.points[first].version += 10_000
    indexer.points[first].content_hash = bytes(32)
    indexer.points[second].version += 20_000
    indexer.points[second].tombstone = True

    run = await _run(reconciler)

    assert run.repaired == 2
    intents = await desk.outbox()
    assert all(intents[UUID(fact_id)].version > indexer.points[fact_id].version for fact_id in (first, second))
    async with start_relay():
        await eventually(desk.nothing_waits)
    again = await _run(reconciler)
    assert again.facts == again.points
    assert again.facts.count == 40


async def test_one_run_at_a_time(reconciler: Reconciler, project: Project) -> None:
    first, opened = await reconciler.begin(RunRequest())

    second, opened_again = await reconciler.begin(RunRequest(dry_run=True))

    assert (opened, opened_again) == (True, False)
    assert second.run_id == first.run_id


async def test_another_replica_goes_on_with_a_run_whose_owner_vanished(
    desk: Desk, reconciler: Reconciler, project: Project
) -> None:
    abandoned, _ = await reconciler.begin(RunRequest())
    await desk.execute(
        "UPDATE extractor.reconciliations SET owner = 'dead', next_bucket = 1024, lease_time = now() - interval '1 s'"
    )

    with pytest.raises(OwnerChanged):
        await reconciler.go_on(abandoned)
    run = await reconciler.take_over()

    assert run is not None
    assert (run.run_id, run.next_bucket) == (abandoned.run_id, 1024)
    assert (await reconciler.go_on(run)).state is RunState.DONE


async def test_slices_cover_every_bucket_once_and_are_of_one_epoch(
    reconciler: Reconciler, project: Project, indexer: ScriptedIndexer
) -> None:
    """The epoch that is searched may change meanwhile; the first slice tells which one it was."""
    await _run(reconciler)

    slices = sorted((scan.first_bucket, scan.last_bucket) for scan in indexer.scans)
    assert [bucket for first, last in slices for bucket in range(first, last + 1)] == list(range(BUCKET_COUNT))
    assert [scan.epoch for scan in indexer.scans] == [0] + [1] * (len(slices) - 1)
    assert len(slices) > 2


async def test_slices_share_the_pace(reconciler: Reconciler, project: Project, indexer: ScriptedIndexer) -> None:
    indexer.scan_gate.clear()
    run = asyncio.create_task(_run(reconciler, pace=300, epoch=1))

    await eventually(lambda: len(indexer.scans) > 1)
    await asyncio.sleep(0.1)
    together = sum(scan.max_points_per_second for scan in indexer.scans)
    indexer.scan_gate.set()
    await run

    assert 0 < together <= 300


async def test_a_replica_that_was_overtaken_repairs_nothing(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer
) -> None:
    _damage(indexer, next(iter(indexer.points)), DriftKind.STALE)
    indexer.list_gate.clear()
    run = asyncio.create_task(_run(reconciler))
    await eventually(lambda: indexer.listed)

    await desk.execute("UPDATE extractor.reconciliations SET owner = 'another'")
    indexer.list_gate.set()
    with pytest.raises(OwnerChanged):
        await run

    assert await _drifts(desk) == {}
    assert await desk.outbox() == {}


async def test_an_orphaned_fact_is_sent_again(desk: Desk, project: Project) -> None:
    await desk.execute("UPDATE extractor.extractions SET embedding_id = NULL")

    async with desk.unit_of_work() as repositories:
        assert await repositories.extractions.unindexed(older_than=timedelta()) == 40
        sent = await repositories.outbox.requeue_orphans(older_than=timedelta(), limit=30, traceparent="")

    assert sent == 30
    assert len(await desk.outbox()) == 30


async def test_callers_follow_a_run_to_its_certificate(
    desk: Desk, project: Project, indexer: ScriptedIndexer, extractor_url: str, peers: str
) -> None:
    _damage(indexer, next(iter(indexer.points)), DriftKind.MISSING)
    async with serving_extractor(
        extractor_url, scheduler_address=peers, llm_gateway_address=peers, indexer_address=peers
    ) as extractor:
        calls = [extractor.consistency.Reconcile(pb.ReconcileRequest()) for _ in range(2)]
        streams = await asyncio.gather(*(_collected(call) for call in calls))

        counts = await extractor.consistency.GetConsistency(pb.GetConsistencyRequest())

    for frames in streams:
        assert frames[0].WhichOneof("frame") == "opened"
        assert frames[-1].certificate.drift_counts == {"MISSING": 1}
        assert [d.repaired for frame in frames for d in frame.drift.drifts] == [True]
        assert frames[-1].certificate.fact_digest != frames[-1].certificate.point_digest
    assert counts.certificate.fact_count == 40
    assert counts.certificate.HasField("end_time")


async def _collected(call: AsyncIterator[pb.ReconcileResponse]) -> list[pb.ReconcileResponse]:
    return [frame async for frame in call]


async def test_f5_a_restored_database_is_noticed_by_its_timeline(desk: Desk, reconciler: Reconciler) -> None:
    async with desk.unit_of_work() as repositories:
        assert not await repositories.reconciliations.notice_timeline()
    async with desk.unit_of_work() as repositories:
        assert not await repositories.reconciliations.notice_timeline()
    (before,) = await desk.execute("SELECT last_value FROM extractor.fact_versions")
    await desk.execute("UPDATE extractor.timeline SET timeline_id = timeline_id + 1")

    async with desk.unit_of_work() as repositories:
        assert await repositories.reconciliations.notice_timeline()

    (after,) = await desk.execute("SELECT last_value FROM extractor.fact_versions")
    assert after.last_value > max(before.last_value, 1_700_000_000_000_000)


async def _nothing_lost() -> bool:
    return True


def _loop(desk: Desk, reconciler: Reconciler, *, settle: timedelta = timedelta()) -> ReconciliationLoop:
    return ReconciliationLoop(
        reconciler=reconciler,
        unit_of_work=desk.unit_of_work,
        watch=_nothing_lost,
        wake=desk.woken.append,
        period=timedelta(hours=1),
        settle=settle,
        orphan_after=timedelta(hours=1),
        pace=0,
        look=timedelta(milliseconds=20),
    )


async def test_a_restored_database_is_reconciled_without_an_operator(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer
) -> None:
    async with running(_loop(desk, reconciler).run):
        await eventually(lambda: _runs(desk, at_least=1))
        _damage(indexer, next(iter(indexer.points)), DriftKind.GHOST)
        await asyncio.sleep(0.2)
        assert await _drifts(desk) == {}

        await desk.execute("UPDATE extractor.timeline SET timeline_id = timeline_id + 1")

        await eventually(lambda: _runs(desk, at_least=2))
        assert set((await _drifts(desk)).values()) == {DriftKind.GHOST}


async def test_f5_a_comparison_after_a_restore_that_fails_is_tried_again(
    desk: Desk, reconciler: Reconciler, project: Project, indexer: ScriptedIndexer
) -> None:
    await _run(reconciler)
    async with desk.unit_of_work() as repositories:
        await repositories.reconciliations.notice_timeline()
    await desk.execute("UPDATE extractor.timeline SET timeline_id = timeline_id + 1")
    indexer.scans_fail = True

    async with running(_loop(desk, reconciler).run):
        await eventually(lambda: _runs(desk, at_least=1, state=RunState.FAILED))
        indexer.scans_fail = False
        await eventually(lambda: _runs(desk, at_least=2))


async def test_f5_a_restore_that_was_noticed_right_before_a_crash_is_not_forgotten(
    desk: Desk, reconciler: Reconciler, project: Project
) -> None:
    async with desk.unit_of_work() as repositories:
        await repositories.reconciliations.notice_timeline()
    await _run(reconciler)
    await desk.execute("UPDATE extractor.timeline SET timeline_id = timeline_id + 1")
    async with desk.unit_of_work() as repositories:
        assert await repositories.reconciliations.notice_timeline()

    async with running(_loop(desk, reconciler).run):
        await eventually(lambda: _runs(desk, at_least=2))


async def test_f5_an_index_that_was_ahead_is_a_reason_to_compare(
    desk: Desk, reconciler: Reconciler, project: Project
) -> None:
    async with desk.unit_of_work() as repositories:
        await repositories.reconciliations.notice_timeline()
    await _run(reconciler)
    assert not await _due(desk)
    await desk.distilled(project, "Linus made git.", uri="file:///b.txt")

    async with desk.unit_of_work() as repositories:
        ((leased,), _) = await repositories.outbox.lease_facts(owner="relay", limit=1, lease=timedelta(minutes=1))
        assert await repositories.outbox.reissue([leased.intent]) == [leased.intent.key]

    assert await _due(desk)
    await _run(reconciler)
    assert not await _due(desk)


async def test_a_dry_run_is_no_comparison_that_was_due(desk: Desk, reconciler: Reconciler, project: Project) -> None:
    await _run(reconciler, dry_run=True)

    assert await _due(desk)


async def test_the_certificate_outlives_any_number_of_failed_runs(
    desk: Desk, reconciler: Reconciler, project: Project
) -> None:
    certified = await _run(reconciler)
    for _ in range(30):
        await reconciler.begin(RunRequest())
        await desk.execute("UPDATE extractor.reconciliations SET state = 3 WHERE state = 1")

    async with desk.unit_of_work() as repositories:
        last = await repositories.reconciliations.last()

    assert last is not None
    assert last.run_id == certified.run_id
    assert len(await desk.execute("SELECT 1 FROM extractor.reconciliations")) < 30


async def test_a_repair_that_meets_an_intent_leaves_one_that_states_the_fact(desk: Desk, project: Project) -> None:
    """The intent came without a new version: an orphan that was sent again, or a dead letter that was replayed."""
    await desk.execute("UPDATE extractor.extractions SET embedding_id = NULL")
    async with desk.unit_of_work() as repositories:
        facts = await repositories.reconciliations.facts_in([id_range(0, 4095)])
        await repositories.outbox.requeue_orphans(older_than=timedelta(), limit=10, traceparent="")
    drifts = [Drift(fact_id=key, kind=DriftKind.MISSING, fact=fact, point=None) for key, fact in facts.items()]

    async with desk.unit_of_work() as repositories:
        assert await repositories.reconciliations.repair(drifts, traceparent="") == facts.keys()

    intents = await desk.outbox()
    assert {key: row.version for key, row in intents.items()} == {
        fact.extraction_id: fact.version for fact in await desk.facts(project)
    }
    assert all(intents[key].version > fact.version for key, fact in facts.items())


async def _due(desk: Desk, *, settle: timedelta = timedelta()) -> bool:
    async with desk.unit_of_work() as repositories:
        return await repositories.reconciliations.due(period=timedelta(hours=1), settle=settle)


async def _runs(desk: Desk, *, at_least: int, state: RunState = RunState.DONE) -> bool:
    rows = await desk.execute("SELECT 1 FROM extractor.reconciliations WHERE state = :state", state=int(state))
    return len(rows) >= at_least
