"""What is in flight on one stream, and what of it an acknowledgement can be about."""

from uuid import UUID, uuid4

from services.extractor.application.fact_relay import _Flight
from services.extractor.domain.outbox import Acknowledgement, FactIntent, Intent, Operation, Outcome, Topic

FACT = UUID(int=1)


def leased(version: int, *, content: bytes = b"a", operation: Operation = Operation.UPSERT) -> FactIntent:
    intent = Intent(
        topic=Topic.FACT,
        key=FACT,
        operation=operation,
        version=version,
        project_id=UUID(int=2),
        source_id=UUID(int=3),
        attempts=1,
        lease_token=uuid4(),
        traceparent="",
    )
    return FactIntent(intent=intent, content_hash=content * 32)


def applied(version: int) -> Acknowledgement:
    return Acknowledgement(
        fact_id=FACT, version=version, outcome=Outcome.APPLIED, embedding_id=None, epoch=None, failure=None
    )


def test_lease_taken_again_is_not_sent_again() -> None:
    flight, again = _Flight(limit=10), leased(5)
    flight.add([leased(5)])

    assert flight.add([again]) == ([], [])
    assert flight.sent[FACT] is again


def test_newer_intent_takes_the_place_of_one_in_flight() -> None:
    flight, newer = _Flight(limit=10), leased(6)
    flight.add([leased(5)])

    assert flight.add([newer]) == ([newer], [])
    assert flight.take([applied(5)]) == []


def test_other_content_of_the_version_in_flight_waits_for_its_answer() -> None:
    flight, first = _Flight(limit=10), leased(5)
    flight.add([first])

    for other in (leased(5, content=b"b"), leased(5, operation=Operation.DELETE), leased(4)):
        assert flight.add([other]) == ([], [other.intent])
    assert flight.sent[FACT] is first


def test_intent_leased_while_its_predecessor_is_settled_stays_in_flight() -> None:
    flight, newer = _Flight(limit=10), leased(6)
    flight.add([leased(5)])
    assert flight.take([applied(5)]) == [applied(5)]
    assert flight.size == 1

    assert flight.add([newer]) == ([newer], [])
    flight.settling.clear()

    assert flight.sent == {FACT: newer}
    assert flight.take([applied(6)]) == [applied(6)]
