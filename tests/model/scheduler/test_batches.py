"""A stale write and the holder's write in one statement, as group commit puts them: each is judged alone."""

import uuid
from datetime import timedelta

import pytest

from services.scheduler.domain.errors import LeaseLost
from services.scheduler.domain.job import (
    Completion,
    Directive,
    FailedAttempt,
    Failure,
    JobSpec,
    LeaseRef,
    Release,
    Renewal,
)
from tests.model.scheduler.pair import Pair
from tests.model.scheduler.store import Store

MINUTE = timedelta(minutes=1)
ORDERS = pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["stale first", "holder first"])


@pytest.fixture
async def pair(store: Store) -> Pair:
    pair = Pair(store)
    await pair.start()
    return pair


@pytest.fixture
async def leases(pair: Pair) -> tuple[LeaseRef, LeaseRef]:
    """A lease that was lost, and the one that replaced it."""
    job_id = await pair.create(key="k")
    await pair.claim(job_id, worker_id="stale")
    stale = pair.lease(job_id)
    await pair.pass_time(MINUTE)
    await pair.expire()
    await pair.claim(job_id, worker_id="holder")
    return stale, pair.lease(job_id)


def assert_only_the_holder_is_heard(outcomes, order: tuple[int, int]) -> None:
    stale, holder = outcomes[order[0]], outcomes[order[1]]
    assert holder.failure is None
    assert isinstance(stale.failure, LeaseLost), f"the stale write was answered with {stale.state!r}"


@ORDERS
async def test_stale_completion_beside_the_holders_is_refused(store: Store, leases, order) -> None:
    completions = [Completion(lease=leases[index], result="{}") for index in order]

    settlement = await store.leases.complete(completions)

    assert_only_the_holder_is_heard(settlement.outcomes, order)


@ORDERS
async def test_stale_completion_beside_the_holders_creates_no_children(store: Store, leases, order) -> None:
    children = [
        JobSpec(
            job_id=str(uuid.uuid4()),
            chosen=True,
            type="work",
            project_id="p",
            priority=5,
            payload="{}",
            schedule_time=None,
            limit_key="",
            max_attempts=0,
            traceparent="",
        )
        for _ in leases
    ]
    completions = [Completion(lease=leases[index], result="{}", children=(children[index],)) for index in order]

    await store.leases.complete(completions)

    stored = await store.jobs([child.job_id for child in children])
    assert [len(stored[child.job_id]) for child in children] == [0, 1]


@ORDERS
async def test_stale_failure_beside_the_holders_is_refused(store: Store, leases, order) -> None:
    attempts = [_attempt(leases[index]) for index in order]

    settlement = await store.leases.fail(attempts, jitters=[0.5, 0.5])

    assert_only_the_holder_is_heard(settlement.outcomes, order)


@ORDERS
async def test_stale_failure_beside_the_holders_shuts_no_gate(store: Store, pair: Pair, leases, order) -> None:
    stale = _attempt(leases[0], gate_until_time=pair.now + MINUTE)
    attempts = [(stale, _attempt(leases[1]))[index] for index in order]

    settlement = await store.leases.fail(attempts, jitters=[0.5, 0.5])

    assert settlement.gates == []


@ORDERS
async def test_stale_release_beside_the_holders_is_refused(store: Store, leases, order) -> None:
    releases = [Release(lease=leases[index], delay=timedelta(), checkpoint="") for index in order]

    settlement = await store.leases.release(releases)

    assert_only_the_holder_is_heard(settlement.outcomes, order)


@ORDERS
async def test_stale_renewal_beside_the_holders_is_lost(store: Store, leases, order) -> None:
    renewals = [Renewal(lease=leases[index], progress=None, checkpoint="") for index in order]

    renewed = await store.leases.renew(renewals)

    assert renewed[order[0]].directive is Directive.LOST
    assert renewed[order[1]].directive is Directive.CONTINUE


def _attempt(lease: LeaseRef, **fields: object) -> FailedAttempt:
    failure = Failure(reason=8, message="boom")
    defaults = {"permanent": False, "retry_delay": None, "gate_until_time": None}
    return FailedAttempt(**{"lease": lease, "failure": failure, **defaults, **fields})
