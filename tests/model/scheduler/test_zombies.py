"""Real processes: a worker that wakes up after its lease ran out changes nothing, and no job is lost."""

from tests.model.scheduler.zombies import play, scheduler_processes

ROUNDS = 20


async def test_worker_that_was_stopped_changes_nothing_when_it_goes_on(scheduler_url: str) -> None:
    async with scheduler_processes(scheduler_url, replicas=2) as addresses:
        report = await play(addresses, rounds=ROUNDS, lanes=2)

    print(report)
    assert report.violations == []
    assert report.stale_writes_accepted == 0
    assert report.stale_writes >= ROUNDS
