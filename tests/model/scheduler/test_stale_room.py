"""A refused write changes nothing in the dispatcher either: the holder still holds its job."""

import pytest

from tests.integration.scheduler import builders, harness


@pytest.fixture
async def scheduler(scheduler_url):
    policies = {"extract": {"lease": 30, "max_stalls": 1000}}
    async with (
        harness.replica(scheduler_url, type_policies=policies, accept_timeout_seconds=0.3) as replica,
        harness.client(replica.address) as client,
    ):
        yield client


@pytest.mark.parametrize("write", [builders.complete, builders.fail, builders.release, builders.renew])
async def test_refused_write_makes_no_room_at_the_holder(scheduler, write) -> None:
    await builders.create(scheduler)
    async with builders.leasing(scheduler, worker_id="stale", max_in_flight=1) as stream:
        [lost] = await stream.take(1)
    async with builders.leasing(scheduler, worker_id="holder", max_in_flight=1) as stream:
        [held] = await stream.take(1)
        await builders.renew(scheduler, held, worker_id="holder")

        await write(scheduler, lost, worker_id="stale")
        await builders.create(scheduler)

        await stream.nothing()
