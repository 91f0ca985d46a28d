"""Consistency tokens: what their marker waits for, and what a search with one sees."""

from datetime import timedelta
from uuid import UUID, uuid4

from services.extractor.domain import identity
from services.extractor.domain.outbox import IndexedFact, Intent
from tests.integration.extractor.conftest import Desk

TEXT = "Ada wrote programs. Grace found bugs. Alan broke codes."


async def _issue(desk: Desk, project_id: UUID) -> int:
    async with desk.unit_of_work() as repositories:
        issued = await repositories.markers.issue(project_id, marker=identity.marker_id(project_id))
    assert issued is not None
    return issued


async def _release(desk: Desk) -> bool:
    async with desk.unit_of_work() as repositories:
        return await repositories.markers.release(settle=timedelta())


async def _lease(desk: Desk) -> list[Intent]:
    async with desk.unit_of_work() as repositories:
        leased, _ = await repositories.outbox.lease_facts(owner="relay", limit=100, lease=timedelta(minutes=5))
    return [each.intent for each in leased]


async def _acknowledge(desk: Desk, intents: list[Intent]) -> None:
    async with desk.unit_of_work() as repositories:
        await repositories.facts.update_embedding_ids_batch(
            [
                IndexedFact(
                    fact_id=intent.key,
                    version=intent.version,
                    embedding_id=uuid4(),
                    epoch=1,
                    lease_token=intent.lease_token,
                )
                for intent in intents
            ]
        )


async def _watermark(desk: Desk, project_id: UUID) -> int:
    """At which the marker waits to be sent; 0 when it does not."""
    row = (await desk.outbox()).get(identity.marker_id(project_id))
    return row.version if row else 0


async def test_marker_is_sent_when_everything_committed_before_its_token_is_acknowledged(desk: Desk) -> None:
    project = await desk.project()
    await desk.distilled(project, TEXT)
    issued = await _issue(desk, project.project_id)
    leased = await _lease(desk)
    assert await _release(desk)
    assert await _watermark(desk, project.project_id) < issued

    await _acknowledge(desk, leased[:2])
    assert await _release(desk)
    assert await _watermark(desk, project.project_id) < issued
    await _acknowledge(desk, leased[2:])

    assert not await _release(desk)
    assert await _watermark(desk, project.project_id) == issued


async def test_fact_that_changes_again_before_it_was_indexed_is_still_waited_for(desk: Desk) -> None:
    """Its newer version lies above the token, and the index has neither."""
    project = await desk.project()
    await desk.distilled(project, TEXT)
    issued = await _issue(desk, project.project_id)
    await desk.distilled(project, f"Well then now. {TEXT}", fence=2)
    assert all(row.version > issued for row in (await desk.outbox()).values() if row.since is not None)

    assert await _release(desk)

    assert await _watermark(desk, project.project_id) < issued


async def test_facts_of_other_projects_are_not_waited_for(desk: Desk) -> None:
    await desk.distilled(await desk.project(), TEXT)
    quiet = await desk.project()

    issued = await _issue(desk, quiet.project_id)

    assert not await _release(desk)
    assert await _watermark(desk, quiet.project_id) == issued


async def test_tokens_given_out_all_the_time_do_not_hold_the_marker_up(desk: Desk) -> None:
    """The watermark follows what is acknowledged, though newer facts and newer tokens keep coming."""
    project = await desk.project()
    await desk.distilled(project, TEXT)
    issued = await _issue(desk, project.project_id)
    leased = await _lease(desk)
    await desk.distilled(project, "Linus made git.", uri="file:///b.txt")
    await _issue(desk, project.project_id)

    await _acknowledge(desk, leased)
    assert await _release(desk)

    assert await _watermark(desk, project.project_id) >= issued


async def test_marker_is_sent_once_per_token(desk: Desk) -> None:
    project = await desk.project()
    await _issue(desk, project.project_id)
    await _release(desk)
    await _acknowledge(desk, await _lease(desk))

    assert not await _release(desk)
    assert await desk.outbox() == {}


async def test_marker_is_no_fact_that_waits(desk: Desk) -> None:
    project = await desk.project()
    await _issue(desk, project.project_id)
    await _release(desk)

    async with desk.unit_of_work() as repositories:
        counts = await repositories.extractions.consistency(project.project_id)
        backlog = await repositories.outbox.backlog()

    assert (counts.pending_intent_count, counts.oldest_intent_time, backlog) == (0, None, [])


async def test_project_that_is_gone_gets_no_token(desk: Desk) -> None:
    project = await desk.project()
    await _issue(desk, project.project_id)
    await desk.projects.delete(project.project_id)

    async with desk.unit_of_work() as repositories:
        assert await repositories.markers.issue(project.project_id, marker=uuid4()) is None
    assert await desk.execute("SELECT 1 FROM extractor.markers") == []
