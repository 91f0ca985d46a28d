"""The epoch state machine."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.indexer.domain.epochs import Catalogue, EpochState, Model
from services.indexer.domain.errors import EpochGateOpen, EpochNotWritable, NoServingEpoch
from services.shared.errors import ServiceError

NOW = datetime(2026, 11, 24, tzinfo=UTC)
MODEL = Model(name="m", dimension=8)


def create(catalogue: Catalogue, request_id: str = "r") -> Catalogue:
    return catalogue.create(model=MODEL, name="facts_e{}".format, now=NOW, request_id=request_id)


def states(catalogue: Catalogue) -> list[EpochState]:
    return [epoch.state for epoch in catalogue.epochs]


def test_first_epoch_serves_at_once() -> None:
    catalogue = create(Catalogue())

    assert states(catalogue) == [EpochState.SERVING]
    assert (catalogue.serving.number, catalogue.serving.collection, catalogue.revision) == (1, "facts_e1", 1)


def test_next_epoch_takes_writes_and_is_not_searched() -> None:
    catalogue = create(create(Catalogue()))

    assert states(catalogue) == [EpochState.SERVING, EpochState.BUILDING]
    assert len(catalogue.writable) == 2
    assert catalogue.serving.number == 1


def test_only_one_epoch_is_built_at_a_time() -> None:
    with pytest.raises(EpochGateOpen):
        create(create(create(Catalogue())))


def test_promotion_keeps_the_one_before_for_roll_back() -> None:
    promoted = create(create(Catalogue())).promote(2)

    back = promoted.promote(1)

    assert states(promoted) == [EpochState.RETIRING, EpochState.SERVING]
    assert states(back) == [EpochState.SERVING, EpochState.RETIRING]
    assert len(back.writable) == 2


def test_promoting_what_serves_changes_nothing() -> None:
    catalogue = create(Catalogue())

    assert catalogue.promote(1) is catalogue


def test_dropped_epoch_never_comes_back() -> None:
    catalogue = create(create(Catalogue())).drop(2)

    assert catalogue.drop(2) is catalogue
    with pytest.raises(EpochNotWritable):
        catalogue.promote(2)
    assert create(catalogue).epochs[-1].number == 3


def test_epoch_that_is_searched_cannot_be_dropped() -> None:
    with pytest.raises(EpochGateOpen):
        create(Catalogue()).drop(1)


def test_unknown_epoch_is_an_error() -> None:
    with pytest.raises(EpochNotWritable):
        create(Catalogue()).get(9)
    with pytest.raises(NoServingEpoch):
        _ = Catalogue().serving


steps = st.lists(
    st.one_of(
        st.just(("create", 0)),
        st.tuples(st.just("promote"), st.integers(1, 5)),
        st.tuples(st.just("drop"), st.integers(1, 5)),
    ),
    max_size=20,
)


@given(steps)
def test_invariants_hold_after_any_steps(actions) -> None:
    catalogue = create(Catalogue())

    for action, number in actions:
        before = catalogue
        try:
            catalogue = create(before) if action == "create" else getattr(before, action)(number)
        except ServiceError:
            continue
        assert catalogue.revision - before.revision == int(catalogue is not before)
        assert states(catalogue).count(EpochState.SERVING) == 1
        assert states(catalogue).count(EpochState.BUILDING) <= 1
        gone = {epoch.number for epoch in before.epochs if epoch.state is EpochState.DROPPED}
        assert gone <= {epoch.number for epoch in catalogue.epochs if epoch.state is EpochState.DROPPED}
