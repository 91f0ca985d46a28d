"""When intents that an outage has put off may go at once."""

from uuid import UUID

from services.extractor.domain.outbox import Acknowledgement, Outcome
from services.extractor.domain.recovery import Recovery, is_away
from services.shared.errors import Code, RemoteError


def answer(outcome: Outcome, code: Code | None = None) -> Acknowledgement:
    failure = RemoteError(peer="indexer", code=code, message="so it is") if code else None
    return Acknowledgement(
        fact_id=UUID(int=1), version=1, outcome=outcome, embedding_id=None, epoch=None, failure=failure
    )


APPLIED = answer(Outcome.APPLIED)
AWAY = answer(Outcome.RETRY, Code.UNAVAILABLE)
BUSY = answer(Outcome.RETRY, Code.RESOURCE_EXHAUSTED)


def recovered(*, now: float = 0.0) -> Recovery:
    recovery = Recovery()
    recovery.ended(now=now)
    return recovery


def test_only_what_comes_back_is_away():
    assert is_away(AWAY)
    assert not any(is_away(each) for each in (APPLIED, BUSY, answer(Outcome.REJECTED, Code.UNAVAILABLE)))


def test_first_success_of_a_process_begins_a_recovery():
    assert Recovery().begins([APPLIED], now=0.0)


def test_recovery_goes_on_with_each_success_until_it_has_ended():
    recovery = Recovery()

    assert [recovery.begins([APPLIED], now=0.0) for _ in range(3)] == [True] * 3
    recovery.ended(now=0.0)

    assert not recovery.begins([APPLIED], now=100.0)


def test_first_success_after_an_outage_begins_a_recovery():
    recovery = recovered()
    assert not recovery.begins([AWAY, AWAY], now=100.0)

    assert not recovery.begins([BUSY], now=100.0)
    assert recovery.begins([APPLIED], now=100.0)


def test_first_success_after_a_broken_stream_begins_a_recovery():
    recovery = recovered()
    recovery.interrupted()

    assert recovery.begins([APPLIED], now=100.0)


def test_what_fails_among_successes_is_no_outage():
    recovery = recovered()
    assert not recovery.begins([AWAY, APPLIED], now=100.0)

    assert not recovery.begins([APPLIED], now=100.0)


def test_what_fails_alone_again_and_again_is_not_pulled_forward_with_every_success():
    recovery = recovered(now=100.0)
    begun = [
        now for now in range(100, 120) if not recovery.begins([AWAY], now=now) and recovery.begins([APPLIED], now=now)
    ]

    assert begun[0] == 105
