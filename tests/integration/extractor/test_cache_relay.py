"""Results of the model that the gateway keeps go with their source: durably, and of this source alone."""

from services.extractor.application.intent_relay import IntentRelay
from services.extractor.domain.source import Source, SourceState
from tests.integration.extractor.conftest import Desk
from tests.integration.extractor.peers import ScriptedGateway, paragraphs
from tests.support.waiting import eventually

TEXT = "Ada wrote programs. Grace found bugs."


async def waiting(desk: Desk) -> int:
    (row,) = await desk.execute("SELECT count(*) AS count FROM extractor.outbox WHERE topic = 'cache'")
    return row.count


def scopes(gateway: ScriptedGateway, source: Source) -> set[str]:
    return {each.scope for each in gateway.requests if f"source/{source.source_id}/" in each.scope}


async def test_deleted_source_has_its_results_deleted_and_no_other(
    desk: Desk, gateway: ScriptedGateway, cache_relay: IntentRelay
) -> None:
    project = await desk.project()
    source = await desk.distilled(project, paragraphs(3))
    other = await desk.distilled(project, TEXT, uri="file:///b.txt")
    (scope,) = scopes(gateway, source)

    await desk.commands.delete(source.source_id)
    cache_relay.wake()

    await eventually(lambda: gateway.deleted == {scope: 2})
    assert {each.request_id for each in gateway.requests if each.scope in scopes(gateway, other)} == set(gateway.stored)
    await eventually(lambda: _none_waits(desk))


async def _none_waits(desk: Desk) -> bool:
    return await waiting(desk) == 0


async def test_deletion_is_committed_with_the_wish_to_forget(desk: Desk, gateway: ScriptedGateway) -> None:
    source = await desk.distilled(await desk.project(), TEXT)

    await desk.commands.delete(source.source_id)
    await desk.commands.delete(source.source_id)

    (scope,) = scopes(gateway, source)
    (row,) = await desk.execute("SELECT * FROM extractor.outbox WHERE topic = 'cache'")
    assert scope == f"source/{source.source_id}/{row.key}"


async def test_deleted_project_has_the_results_of_all_its_sources_deleted(
    desk: Desk, gateway: ScriptedGateway, cache_relay: IntentRelay
) -> None:
    project = await desk.project()
    for number in range(120):
        await desk.ingest(project, f"{number} is a number.", uri=f"file:///{number}.txt")
    await desk.distilled(project, TEXT)

    await desk.projects.delete(project.project_id)
    cache_relay.wake()

    await eventually(lambda: len(gateway.deleted) == 121)
    assert gateway.stored == {}


async def test_deletion_is_repeated_until_the_gateway_has_done_it(
    desk: Desk, gateway: ScriptedGateway, cache_relay: IntentRelay
) -> None:
    gateway.cache_down = 3
    source = await desk.distilled(await desk.project(), TEXT)

    await desk.commands.delete(source.source_id)
    cache_relay.wake()

    await eventually(lambda: list(gateway.deleted.values()) == [1], within=20)
    await eventually(lambda: _none_waits(desk))


async def test_source_that_comes_again_shares_nothing_with_the_one_that_was_deleted(
    desk: Desk, gateway: ScriptedGateway, cache_relay: IntentRelay
) -> None:
    """Also when the old one's results are deleted only after the new one has begun."""
    project = await desk.project()
    source = await desk.distilled(project, TEXT)
    await desk.commands.delete(source.source_id)
    again = await desk.distilled(project, TEXT)
    assert again.source_id == source.source_id
    cache_relay.wake()

    await eventually(lambda: len(gateway.deleted) == 1)
    assert len(scopes(gateway, source)) == len(gateway.paid) == 2
    assert len(gateway.stored) == 1
    assert again.state is SourceState.EXTRACTED


async def test_restored_source_whose_results_were_deleted_goes_on_under_another_scope(
    desk: Desk, gateway: ScriptedGateway
) -> None:
    """The database is as it was before the deletion, the gateway as it was after."""
    source = await desk.ingest(await desk.project(), paragraphs(3))
    (row,) = await desk.execute("SELECT incarnation FROM extractor.sources")
    gateway.deleted[f"source/{source.source_id}/{row.incarnation}"] = 0

    refused = await desk.run_job(source, fence=1)
    done = await desk.run_job(source, fence=2)

    assert refused.unfinished_count == 2
    assert done.ending is not None
    assert done.ending.state is SourceState.EXTRACTED
