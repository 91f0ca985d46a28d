"""The version guard: order and repetition of intents do not matter, and verdicts are true."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.indexer.domain import versions
from services.indexer.domain.fact import PointState
from services.indexer.domain.versions import Verdict, judge, overwrites, winners
from tests.unit.indexer.strategies import FACTS, ModelIndex, history, intent


def state(of) -> PointState:
    return PointState(version=of.version, content_hash=of.content_hash, tombstone=of.content is None)


@given(history(), st.randoms(use_true_random=False))
def test_any_order_leads_to_the_same_index(intents, random) -> None:
    one, other = ModelIndex(), ModelIndex()
    shuffled = list(intents)
    random.shuffle(shuffled)

    one.write(intents)
    other.write(shuffled)

    assert one.points == other.points


@given(history())
def test_applying_again_changes_nothing(intents) -> None:
    index = ModelIndex()
    index.write(intents)
    before = dict(index.points)

    index.write(intents)

    assert index.points == before


@given(history(), st.integers(1, 7))
def test_batches_of_any_size_lead_to_the_same_index(intents, size: int) -> None:
    at_once, in_batches = ModelIndex(), ModelIndex()
    at_once.write(intents)

    for start in range(0, len(intents), size):
        in_batches.write(winners(intents[start : start + size]))

    assert in_batches.points == at_once.points


@given(history())
def test_newest_version_of_each_fact_stays(intents) -> None:
    index = ModelIndex()
    index.write(intents)

    newest = {
        each.fact_id: max(other.version for other in intents if other.fact_id == each.fact_id) for each in intents
    }
    assert {fact: point.version for fact, point in index.points.items()} == newest


@given(history())
def test_verdict_after_the_write_is_true(intents) -> None:
    index = ModelIndex()
    index.write(winners(intents))

    for each in intents:
        stored = index.points[each.fact_id]
        expected = Verdict.APPLIED if each.version == stored.version else Verdict.SUPERSEDED
        assert judge(each, stored) is expected


@given(history())
def test_winners_hold_one_intent_per_fact(intents) -> None:
    chosen = winners(intents)

    assert len({each.fact_id for each in chosen}) == len(chosen)
    assert {each.fact_id for each in chosen} == {each.fact_id for each in intents}


def test_lost_write_is_not_called_applied() -> None:
    mine = intent(FACTS[0], 3)

    assert judge(mine, None) is Verdict.NOT_WRITTEN
    assert judge(mine, state(intent(FACTS[0], 2))) is Verdict.NOT_WRITTEN


@pytest.mark.parametrize(
    ("mine", "stored", "verdict"),
    [
        (intent(FACTS[0], 3), intent(FACTS[0], 3), Verdict.APPLIED),
        (intent(FACTS[0], 3), intent(FACTS[0], 3, text="other"), Verdict.COLLISION),
        (intent(FACTS[0], 3), intent(FACTS[0], 3, deleted=True), Verdict.COLLISION),
        (intent(FACTS[0], 3, deleted=True), intent(FACTS[0], 3), Verdict.COLLISION),
        (intent(FACTS[0], 3, deleted=True), intent(FACTS[0], 3, deleted=True), Verdict.APPLIED),
        (intent(FACTS[0], 3), intent(FACTS[0], 4, deleted=True), Verdict.SUPERSEDED),
    ],
)
def test_equal_versions_must_say_the_same(mine, stored, verdict: Verdict) -> None:
    assert judge(mine, state(stored)) is verdict


def resurrects(index: ModelIndex) -> bool:
    """Delete, then an upsert that was late."""
    index.write([intent(FACTS[0], 1)])
    index.write([intent(FACTS[0], 2, deleted=True)])
    index.write([intent(FACTS[0], 1)])
    return FACTS[0] in index.live


def test_deleted_fact_stays_deleted() -> None:
    assert not resurrects(ModelIndex())


def test_without_the_guard_a_deleted_fact_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.indexer.strategies.overwrites", lambda _version, _stored: True)

    assert resurrects(ModelIndex())


def test_without_tombstones_a_deleted_fact_comes_back() -> None:
    index = ModelIndex()
    index.write([intent(FACTS[0], 1)])
    del index.points[FACTS[0]]

    index.write([intent(FACTS[0], 1)])

    assert FACTS[0] in index.live


@given(st.integers(1, 9), st.one_of(st.none(), st.integers(1, 9)))
def test_guard_is_strict(version: int, stored: int | None) -> None:
    held = None if stored is None else PointState(version=stored, content_hash=b"", tombstone=False)

    assert overwrites(version, held) is (stored is None or stored < version)
    assert versions.overwrites is overwrites
