import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared import deadlines
from services.shared.errors import Code, NotFound, RemoteError, ResourceExhausted, Unavailable
from services.shared.retry import Backoff, RetryBudget, RetryPolicy, is_transient

AT_ONCE = Backoff(initial=timedelta(0))


class Failing:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def away() -> Exception:
    return ConnectionError("away")


async def test_transient_failures_are_repeated():
    work = Failing(away(), away())

    assert await RetryPolicy(backoff=AT_ONCE).run(work) == "done"
    assert work.calls == 3


async def test_last_error_is_raised_when_attempts_are_spent():
    work = Failing(*(away() for _ in range(9)))
    with pytest.raises(ConnectionError):
        await RetryPolicy(attempts=3, backoff=AT_ONCE).run(work)

    assert work.calls == 3


async def test_other_failures_are_not_repeated():
    work = Failing(NotFound.of("job", 1))
    with pytest.raises(NotFound):
        await RetryPolicy(backoff=AT_ONCE).run(work)

    assert work.calls == 1


async def test_delay_that_outlasts_the_deadline_is_not_waited_for():
    work = Failing(Unavailable.of("qdrant", retry_delay=timedelta(seconds=60)))
    with deadlines.within(5), pytest.raises(Unavailable):
        await RetryPolicy(backoff=AT_ONCE).run(work)

    assert work.calls == 1


async def test_spent_budget_ends_the_retries_of_all():
    budget = RetryBudget(ratio=0.1, capacity=2)
    policy = RetryPolicy(attempts=10, backoff=AT_ONCE, budget=budget)
    work = Failing(*(away() for _ in range(99)))
    for _ in range(5):
        with pytest.raises(ConnectionError):
            await policy.run(work)

    assert work.calls == 5 + 2


def test_budget_refills_with_traffic():
    budget = RetryBudget(ratio=0.1, capacity=1)
    assert budget.spend()
    assert not budget.spend()
    for _ in range(11):
        budget.note_attempt()

    assert budget.spend()


@given(failures=st.integers(1, 10_000), seed=st.integers())
def test_delay_stays_below_the_ceiling_and_the_maximum(failures: int, seed: int):
    backoff = Backoff(initial=timedelta(milliseconds=100), maximum=timedelta(seconds=10))
    delay = backoff.delay(failures, rng=random.Random(seed))

    assert timedelta(0) <= delay <= backoff.ceiling(failures) <= timedelta(seconds=10)


def test_ceiling_doubles():
    backoff = Backoff(initial=timedelta(milliseconds=100), maximum=timedelta(seconds=1))

    assert [backoff.ceiling(n).total_seconds() for n in (1, 2, 3, 4, 5, 500)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (Unavailable.of("qdrant"), True),
        (TimeoutError(), True),
        (RemoteError(peer="x", code=Code.UNAVAILABLE, message=""), True),
        (RemoteError(peer="x", code=Code.RESOURCE_EXHAUSTED, message="", retry_delay=timedelta(1)), True),
        (RemoteError(peer="x", code=Code.INTERNAL, message=""), False),
        (ResourceExhausted.of("server", 1, "full"), False),
        (ValueError(), False),
    ],
)
def test_what_counts_as_transient(error: Exception, transient: bool):  # noqa: FBT001
    assert is_transient(error) is transient
