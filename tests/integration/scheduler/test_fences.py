"""Each condition in the fences of the SQL statements is needed: without it a lost lease has an effect."""

from datetime import UTC, datetime, timedelta

import pytest

from services.scheduler.adapters.postgres import claiming, creation, leasing, settling
from services.scheduler.domain.errors import LeaseLost
from services.scheduler.domain.job import Completion, Directive, LeaseRef, Release, Renewal
from services.scheduler.domain.ready_index import Entry
from tests.integration.scheduler.specification import NO_DELAY, attempt, visible
from tests.integration.scheduler.stores import StoresAndJobs, spec


async def stale_and_late(store: StoresAndJobs) -> tuple[LeaseRef, LeaseRef]:
    """A lease whose job another worker holds, and one whose job went back to the queue."""
    stale = await store.leased()
    late = await store.leased()
    await store.leases.release(
        [
            Release(lease=stale.lease, delay=NO_DELAY, checkpoint=""),
            Release(lease=late.lease, delay=timedelta(hours=1), checkpoint=""),
        ]
    )
    await store.lease(*await store.ready.still_ready([stale.lease.job_id]), worker_id="holder")
    return stale.lease, late.lease


async def write_with_lost_leases(store: StoresAndJobs, how: str) -> None:
    """Every write, with a lease that is lost in either way. Raises AssertionError when one has an effect."""
    refs = await stale_and_late(store)
    before = [visible(await store.job(ref.job_id)) for ref in refs]
    match how:
        case "complete":
            outcomes = (await store.leases.complete([Completion(lease=ref, result="{}") for ref in refs])).outcomes
            assert all(outcome.failure for outcome in outcomes)
        case "fail":
            attempts = [attempt(ref, permanent=True) for ref in refs]
            outcomes = (await store.leases.fail(attempts, jitters=[0.0, 0.0])).outcomes
            assert all(outcome.failure for outcome in outcomes)
        case "release":
            await store.leases.release([Release(lease=ref, delay=NO_DELAY, checkpoint='"x"') for ref in refs])
        case "renew":
            renewed = await store.leases.renew([Renewal(lease=ref, progress=None, checkpoint='"x"') for ref in refs])
            assert {each.directive for each in renewed} == {Directive.LOST}
        case "expect back":
            await store.leases.expect_back(list(refs), grace=-timedelta(hours=1))
            assert not (await store.leases.expire(limit=10)).stalled
        case _:
            for ref in refs:
                with pytest.raises(LeaseLost):
                    await store.creation.create([spec()], parent=ref)
    after = [visible(await store.job(ref.job_id)) for ref in refs]
    assert after == before
    assert {(await store.job(ref.job_id)).checkpoint for ref in refs} == {""}


WRITES = ("complete", "fail", "release", "renew", "expect back", "create children")


@pytest.mark.parametrize("how", WRITES)
async def test_writes_with_lost_leases_have_no_effect(store, how):
    await write_with_lost_leases(store, how)


TOKEN = " AND j.fencing_token = i.fencing_token"
STATE = "j.state = 2 AND "
MUTANTS = [
    ("complete", leasing, "COMPLETE", TOKEN),
    ("complete", leasing, "COMPLETE", STATE),
    ("fail", leasing, "FAIL", TOKEN),
    ("fail", leasing, "FAIL", STATE),
    ("release", leasing, "RELEASE", TOKEN),
    ("release", leasing, "RELEASE", STATE),
    ("renew", leasing, "RENEW", TOKEN),
    ("renew", leasing, "RENEW", STATE),
    ("expect back", leasing, "EXPECT_BACK", TOKEN),
    ("create children", creation, "LOCK_PARENT", " AND fencing_token = $2"),
    ("create children", creation, "LOCK_PARENT", " AND state = 2"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant[2]}:{mutant[3].strip()}")
async def test_each_fence_in_the_statements_is_needed(store, monkeypatch, mutant):
    how, module, name, guard = mutant
    statement = getattr(module, name)
    assert guard in statement
    monkeypatch.setattr(module, name, _typed(statement.replace(guard, ""), guard))

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await write_with_lost_leases(store, how)


def _typed(statement: str, guard: str) -> str:
    """A parameter that is no longer used still needs a type."""
    return (
        statement.replace("WHERE job_id = $1", "WHERE job_id = $1 AND $2::bigint > 0") if "$2" in guard else statement
    )


async def test_claim_takes_waiting_jobs_alone(store, monkeypatch):
    held = await store.leased()
    entry = claiming_entry(held)
    assert await store.lease(entry, worker_id="thief") == []

    guard = "j.state = 1 AND "
    assert guard in claiming.CLAIM
    monkeypatch.setattr(claiming, "CLAIM", claiming.CLAIM.replace(guard, ""))
    assert len(await store.lease(entry, worker_id="thief")) == 1


def claiming_entry(job):
    return Entry(job.lease.job_id, job.type, job.project_id, datetime.now(UTC), job.limit_key)


async def test_sweeper_takes_expired_leases_alone(store, monkeypatch):
    await store.leased()
    assert not (await store.leases.expire(limit=10)).stalled

    guard = "j.lease_expire_time < now()"
    assert guard in settling.EXPIRE
    monkeypatch.setattr(leasing, "EXPIRE", settling.EXPIRE.replace(guard, "j.lease_expire_time IS NOT NULL"))
    assert (await store.leases.expire(limit=10)).stalled
