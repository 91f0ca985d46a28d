"""The arithmetic of the comparison."""

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor.domain.reconciliation import (
    BUCKET_COUNT,
    EMPTY,
    DriftKind,
    FactState,
    PointState,
    bucket_of,
    compare,
    id_range,
    judge,
    moving,
    settled,
    share,
    slice_width,
)
from services.indexer.domain import digest, identity
from services.indexer.domain.fact import FactId

PROJECT, SOURCE = UUID(int=1), UUID(int=2)
FACT = FactState(fact_id=UUID(int=7), project_id=PROJECT, source_id=SOURCE, version=5, content_hash=b"h" * 32)
POINT = PointState(
    fact_id=FACT.fact_id,
    project_id=PROJECT,
    source_id=SOURCE,
    version=5,
    content_hash=b"h" * 32,
    epoch=1,
    tombstone=False,
)


@pytest.mark.parametrize(
    ("fact", "point", "kind"),
    [
        (FACT, POINT, None),
        (None, None, None),
        (FACT, None, DriftKind.MISSING),
        (FACT, replace(POINT, tombstone=True), DriftKind.MISSING),
        (None, POINT, DriftKind.GHOST),
        (None, replace(POINT, tombstone=True), None),
        (FACT, replace(POINT, version=4), DriftKind.STALE),
        (FACT, replace(POINT, version=6), DriftKind.WRONG_PAYLOAD),
        (FACT, replace(POINT, content_hash=bytes(32)), DriftKind.WRONG_PAYLOAD),
        (FACT, replace(POINT, epoch=2), DriftKind.WRONG_EPOCH),
        (FACT, replace(POINT, project_id=UUID(int=9)), DriftKind.WRONG_PROJECT),
    ],
)
def test_each_disagreement_has_its_name(
    fact: FactState | None, point: PointState | None, kind: DriftKind | None
) -> None:
    assert judge(fact, point, epoch=1) is kind


def test_what_is_under_way_is_not_judged() -> None:
    assert list(compare({FACT.fact_id: FACT}, {}, pending=frozenset({FACT.fact_id}), epoch=1)) == []
    assert len(list(compare({FACT.fact_id: FACT}, {}, pending=frozenset(), epoch=1))) == 1


def test_a_fact_that_was_written_deleted_or_made_between_two_looks_is_moving() -> None:
    kept, changed, gone, made = (replace(FACT, fact_id=UUID(int=n)) for n in range(4))
    before = {each.fact_id: each for each in (kept, changed, gone)}
    after = {each.fact_id: each for each in (kept, replace(changed, version=6), made)}

    assert moving(before, after) == {changed.fact_id, gone.fact_id, made.fact_id}


def test_settled_digests_are_equal_exactly_when_nothing_drifts() -> None:
    left, right = settled({FACT.fact_id: FACT}, {FACT.fact_id: POINT}, pending=frozenset(), epoch=1)
    assert left == right != EMPTY

    left, right = settled({FACT.fact_id: FACT}, {}, pending=frozenset(), epoch=1)
    assert left != right

    left, right = settled({FACT.fact_id: FACT}, {}, pending=frozenset({FACT.fact_id}), epoch=1)
    assert left == right == EMPTY


@given(st.integers(1, BUCKET_COUNT), st.integers(1, 5000))
def test_slices_come_to_hold_what_the_index_reads_at_once(width: int, per_bucket: int) -> None:
    for _ in range(8):
        width = slice_width(width, width * per_bucket)

    assert width == max(1, 3500 // per_bucket)


def test_a_slice_is_never_empty_and_grows_by_degrees() -> None:
    assert slice_width(1, 1_000_000) == 1
    assert slice_width(16, 0) == 64


FACTS = st.builds(
    FactState,
    fact_id=st.uuids(),
    project_id=st.uuids(),
    source_id=st.uuids(),
    version=st.integers(1, 2**63 - 1),
    content_hash=st.binary(min_size=32, max_size=32),
)


@given(FACTS, st.integers(1, 2**31))
def test_shares_and_buckets_are_those_of_the_indexer(fact: FactState, epoch: int) -> None:
    fact_id = FactId(str(fact.fact_id))
    theirs = digest.point_digest(
        fact_id=fact_id,
        version=fact.version,
        content_hash=fact.content_hash,
        epoch=epoch,
        project_id=str(fact.project_id),
    )

    assert share(fact, epoch=epoch).digest == theirs
    assert bucket_of(fact.fact_id) == identity.bucket_of(fact_id)


@given(st.uuids())
def test_a_bucket_is_a_range_of_ids(fact_id: UUID) -> None:
    low, high = id_range(bucket_of(fact_id), bucket_of(fact_id))

    assert low <= fact_id <= high
    assert id_range(0, BUCKET_COUNT - 1) == (UUID(int=0), UUID(int=2**128 - 1))
