import random
from datetime import timedelta

import pytest

from services.llm_gateway.adapters.limits import FixedLimit
from services.llm_gateway.adapters.metrics import CallMetrics
from services.llm_gateway.adapters.wordllama import MODEL
from services.llm_gateway.application.admission import Admission, QueueLimits
from services.llm_gateway.application.retrying import Retries
from services.llm_gateway.domain.errors import ProviderFailure, ProviderUnavailable
from services.shared.clock import SystemClock
from services.shared.retry import Backoff, RetryBudget
from services.shared.telemetry.metrics import Metrics

CLOCK = SystemClock()


def admission_of_one() -> Admission:
    return Admission(
        limit=FixedLimit(1),
        queue_limits=QueueLimits(),
        weight=lambda _: 1.0,
        observer=CallMetrics(Metrics()).of(MODEL),
        clock=CLOCK,
    )


def retries(*, max_attempts: int = 3, budget: RetryBudget | None = None) -> Retries:
    backoff = Backoff(initial=timedelta(milliseconds=1), maximum=timedelta(milliseconds=2))
    return Retries(
        max_attempts=max_attempts,
        backoff=backoff,
        budget=budget or RetryBudget(),
        clock=CLOCK,
        rng=random.Random(1),
    )


async def pause(
    subject: Retries, failure: ProviderFailure, *, attempt: int = 1, left: float | None = None
) -> Admission:
    admission = admission_of_one()
    deadline = None if left is None else CLOCK.monotonic() + left
    await subject.pause(failure, attempt=attempt, admission=admission, provider="openai", deadline=deadline)
    return admission


async def test_attempts_are_bounded() -> None:
    subject = retries(max_attempts=2)
    await pause(subject, ProviderFailure("no", status=500), attempt=1)

    with pytest.raises(ProviderUnavailable) as raised:
        await pause(subject, ProviderFailure("no", status=500), attempt=2)

    assert raised.value.metadata["attempts"] == "2"


async def test_no_more_than_a_tenth_of_the_calls_is_retried_when_all_fail() -> None:
    subject = retries(budget=RetryBudget(capacity=1.0))
    retried = 0
    for _ in range(100):
        subject.begin()
        try:
            await pause(subject, ProviderFailure("down"))
        except ProviderUnavailable:
            continue
        retried += 1

    assert retried <= 11


async def test_pause_that_outlasts_the_deadline_is_not_begun() -> None:
    with pytest.raises(ProviderUnavailable) as raised:
        await pause(retries(), ProviderFailure("later", retry_after=timedelta(seconds=30)), left=1.0)

    assert raised.value.retry_delay == timedelta(seconds=30)


async def test_retry_after_shuts_the_gate_even_if_this_call_gives_up() -> None:
    admission = admission_of_one()

    with pytest.raises(ProviderUnavailable):
        await retries(max_attempts=1).pause(
            ProviderFailure("later", retry_after=timedelta(seconds=5)),
            attempt=1,
            admission=admission,
            provider="openai",
            deadline=None,
        )

    assert 4 < admission.gate_seconds <= 5
