"""The SQL statements do to every job of a batch what the pure state machine says."""

import random

import pytest

from tests.integration.scheduler.specification import Walk, visible
from tests.integration.scheduler.stores import spec


@pytest.mark.parametrize("seed", range(6))
async def test_statements_agree_with_the_state_machine(store, seed):
    created = await store.creation.create([spec() for _ in range(6)], parent=None)
    walk = Walk(store, [await store.job(entry.job_id) for entry in created.ready], random.Random(seed))

    for _ in range(80):
        await walk.step()
        for job in await store.reading.get(list(walk.twins)):
            assert visible(job) == visible(walk.twins[job.job_id])
