"""Each filter selects what qdrant-client's own local mode, an independent implementation, selects."""

import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, models

from tests.contract.qdrant.conftest import create_fact_collection
from tests.contract.qdrant.points import equals, field, point

REF = "1f0e3dad-9990-4a1a-8e3c-0c7e0a9b1f11"
NOON = dt.datetime(2026, 5, 17, 12, tzinfo=dt.UTC)


def points() -> list[models.PointStruct]:
    filled = [
        point(
            i,
            project=f"p{i % 3}",
            version=i,
            score=i / 4,
            deleted=i % 5 == 0,
            at=(NOON + dt.timedelta(hours=i)).isoformat(),
            tags=["x", "y", "z"][: i % 4],
            text=["The quick brown fox", "a lazy dog", "quick dog"][i % 3],
            parts=[{"kind": "a", "n": i}, {"kind": "b", "n": i + 1}],
            **({"ref": REF} if i == 4 else {}),
        )
        for i in range(20)
    ]
    odd = [
        point(100),
        point(101, project=None, version=None),
        point(102, project=[], tags=[None]),
        point(103, project=["p0", "p9"], version=[1, 50]),
        point(104, project="p0 ", deleted="false"),
        models.PointStruct(id=105, vector={"dense": [0.0, 1.0, 0.0, 0.0]}, payload={"project": "p1"}),
    ]
    return filled + odd


def must(*conditions: Any) -> models.Filter:
    return models.Filter(must=list(conditions))


def between(key: str, **bounds: Any) -> models.FieldCondition:
    return models.FieldCondition(key=key, range=models.Range(**bounds))


FILTERS = {
    "keyword": must(equals("project", "p1")),
    "integer": must(equals("version", 7)),
    "true": must(equals("deleted", value=True)),
    "false": must(equals("deleted", value=False)),
    "uuid": must(equals("ref", REF)),
    "keyword-in-array": must(equals("tags", "y")),
    "any-keyword": must(field("project", models.MatchAny(any=["p0", "p9"]))),
    "any-integer": must(field("version", models.MatchAny(any=[1, 2, 50]))),
    "any-of-none": must(field("project", models.MatchAny(any=[]))),
    "except-keyword": must(field("project", models.MatchExcept(**{"except": ["p0", "p1"]}))),
    "except-integer": must(field("version", models.MatchExcept(**{"except": [1, 2, 3]}))),
    "text": must(field("text", models.MatchText(text="quick"))),
    "range": must(between("version", gte=3, lt=8)),
    "range-float": must(between("score", gt=0.5, lte=2.25)),
    "range-of-nothing": must(between("version", gt=1000)),
    "datetime-range": must(
        models.FieldCondition(
            key="at", range=models.DatetimeRange(gte=NOON + dt.timedelta(hours=2), lt=NOON + dt.timedelta(hours=6))
        )
    ),
    "values-count": must(models.FieldCondition(key="tags", values_count=models.ValuesCount(gte=2))),
    "is-empty": must(models.IsEmptyCondition(is_empty=models.PayloadField(key="project"))),
    "is-null": must(models.IsNullCondition(is_null=models.PayloadField(key="project"))),
    "field-is-empty": must(models.FieldCondition(key="tags", is_empty=True)),
    "has-id": must(models.HasIdCondition(has_id=[3, 100, 999])),
    "has-vector": must(models.HasVectorCondition(has_vector="bm25")),
    "nested-path": must(equals("parts[].kind", "b")),
    "nested": must(
        models.NestedCondition(nested=models.Nested(key="parts", filter=must(equals("kind", "b"), between("n", lte=4))))
    ),
    "nested-across-elements": must(
        models.NestedCondition(nested=models.Nested(key="parts", filter=must(equals("kind", "a"), equals("n", 4))))
    ),
    "should": models.Filter(should=[equals("project", "p1"), equals("version", 3)]),
    "must-not": models.Filter(must_not=[equals("project", "p1"), equals("deleted", value=True)]),
    "min-should": models.Filter(
        min_should=models.MinShould(
            conditions=[equals("project", "p1"), equals("deleted", value=True), between("version", lt=10)],
            min_count=2,
        )
    ),
    "all-together": models.Filter(
        must=[between("version", lt=15)],
        should=[equals("project", "p0"), equals("project", "p2")],
        must_not=[equals("deleted", value=True)],
    ),
    "filter-in-filter": must(
        models.Filter(should=[equals("version", 1), must(equals("version", 2), equals("project", "p2"))])
    ),
    "empty": models.Filter(),
}


@pytest.fixture(scope="module")
async def oracle() -> AsyncIterator[AsyncQdrantClient]:
    local = AsyncQdrantClient(":memory:")
    await local.create_collection(
        "oracle",
        vectors_config={"dense": models.VectorParams(size=4, distance=models.Distance.COSINE)},
        sparse_vectors_config={"bm25": models.SparseVectorParams()},
    )
    await local.upsert("oracle", points())
    yield local
    await local.close()


@pytest.fixture(scope="module")
async def filled(client: AsyncQdrantClient) -> AsyncIterator[str]:
    name = "contract-filters"
    await client.delete_collection(name)
    await create_fact_collection(client, name)
    await client.upsert(name, points(), wait=True)
    yield name
    await client.delete_collection(name)


async def selected(client: AsyncQdrantClient, collection: str, query_filter: models.Filter) -> list[int]:
    records, _ = await client.scroll(collection, scroll_filter=query_filter, limit=1000, with_payload=False)
    return sorted(record.id for record in records)


@pytest.mark.parametrize("name", FILTERS)
async def test_filter_selects_what_the_oracle_selects(
    client: AsyncQdrantClient, oracle: AsyncQdrantClient, filled: str, name: str
) -> None:
    expected = await selected(oracle, "oracle", FILTERS[name])

    assert await selected(client, filled, FILTERS[name]) == expected
    assert (await client.count(filled, FILTERS[name], exact=True)).count == len(expected)


async def test_slices_are_disjoint_and_cover_everything(client: AsyncQdrantClient, filled: str) -> None:
    slices = [
        await selected(client, filled, must(models.SliceCondition(slice=models.Slice(total=4, index=index))))
        for index in range(4)
    ]

    assert sorted(point_id for each in slices for point_id in each) == sorted(each.id for each in points())
