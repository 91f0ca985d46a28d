"""Digests: free of order, sensitive to every part, exactly as the contract says."""

import hashlib
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.indexer.domain.digest import DigestTable, Share, point_digest
from services.indexer.domain.fact import FactId
from services.indexer.domain.identity import BUCKET_COUNT, bucket_of, embedding_id

points = st.tuples(
    st.uuids(), st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32), st.integers(1, 2**31), st.uuids()
)


def digest_of(point) -> int:
    fact, version, content_hash, epoch, project = point
    return point_digest(
        fact_id=FactId(str(fact)),
        version=version,
        content_hash=content_hash,
        epoch=epoch,
        project_id=str(project),
    )


def add(table: DigestTable, point) -> None:
    table.add([Share(bucket_of(FactId(str(point[0]))), digest_of(point))])


def rows(table: DigestTable) -> dict[int, tuple[bytes, int]]:
    return {row.bucket: (row.digest, row.point_count) for row in table.rows(0, BUCKET_COUNT - 1) if row.point_count}


@given(points)
def test_digest_of_a_point_is_that_of_the_contract(point) -> None:
    fact, version, content_hash, epoch, project = point
    content = fact.bytes + version.to_bytes(8, "big") + content_hash + epoch.to_bytes(8, "big") + project.bytes

    assert digest_of(point).to_bytes(16, "big") == hashlib.sha256(content).digest()[:16]


@given(st.lists(points, max_size=20), st.randoms(use_true_random=False))
def test_order_does_not_matter(found, random) -> None:
    one, other = DigestTable(), DigestTable()
    for point in found:
        add(one, point)
    random.shuffle(found)
    for point in found:
        add(other, point)

    assert rows(one) == rows(other)
    assert not one.differing(other)
    assert one.point_count == len(found)


@given(points, st.sampled_from(["version", "content_hash", "epoch", "project"]))
def test_every_part_counts(point, part: str) -> None:
    fact, version, content_hash, epoch, project = point
    changed = {
        "version": (fact, version - 1, content_hash, epoch, project),
        "content_hash": (fact, version, hashlib.sha256(content_hash).digest(), epoch, project),
        "epoch": (fact, version, content_hash, epoch + 1, project),
        "project": (fact, version, content_hash, epoch, UUID(int=project.int ^ 1)),
    }[part]
    one, other = DigestTable(), DigestTable()
    add(one, point)
    add(other, changed)

    assert one.differing(other) == [bucket_of(FactId(str(fact)))]


def test_project_that_was_damaged_is_no_project() -> None:
    point = {"fact_id": FactId(str(UUID(int=1))), "version": 1, "content_hash": bytes(32), "epoch": 1}

    assert point_digest(**point, project_id="lost") != point_digest(**point, project_id=str(UUID(int=0)))


@given(st.uuids())
def test_bucket_is_the_first_twelve_bits(fact: UUID) -> None:
    assert bucket_of(FactId(str(fact))) == fact.int >> 116


def test_empty_bucket_is_zeros() -> None:
    (row,) = DigestTable().rows(17, 17)

    assert (row.bucket, row.digest, row.point_count) == (17, bytes(16), 0)


def test_point_id_depends_on_epoch_and_fact_and_nothing_else() -> None:
    fact = FactId("0190aaaa-0000-7000-8000-000000000001")

    assert embedding_id(1, fact) == embedding_id(1, fact)
    assert UUID(embedding_id(1, fact)).version == 5
    assert len({embedding_id(epoch, fact) for epoch in range(1, 50)}) == 49
