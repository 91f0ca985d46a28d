import math

import grpc
import pytest
from qdrant_client import AsyncQdrantClient, models

from tests.contract.qdrant.points import equals, point

NORTH = [1.0, 0.0, 0.0, 0.0]


@pytest.fixture
async def facts(client: AsyncQdrantClient, collection: str) -> str:
    """Dense scores to NORTH fall with the id; term 1 is common, term 2 rarer, term 3 in one point only."""
    await client.upsert(
        collection,
        [
            point(
                i,
                dense=[math.cos(i * 0.2), math.sin(i * 0.2), 0.0, 0.0],
                sparse={1: 1.0} | ({2: 1.0} if i in (2, 5) else {}) | ({3: 1.0} if i == 7 else {}),
                project="ab"[i % 2],
                deleted=i == 0,
            )
            for i in range(8)
        ],
        wait=True,
    )
    return collection


def terms(*indices: int) -> models.SparseVector:
    return models.SparseVector(indices=list(indices), values=[1.0] * len(indices))


def ids(response: models.QueryResponse) -> list[int]:
    return [each.id for each in response.points]


async def test_dense_query_ranks_by_similarity(client: AsyncQdrantClient, facts: str) -> None:
    response = await client.query_points(facts, query=NORTH, using="dense", limit=3, with_payload=["project"])

    assert ids(response) == [0, 1, 2]
    assert response.points[1].score == pytest.approx(math.cos(0.2), abs=1e-5)
    assert response.points[1].payload == {"project": "b"}


async def test_query_skips_offset_and_cuts_at_the_threshold(client: AsyncQdrantClient, facts: str) -> None:
    response = await client.query_points(
        facts, query=NORTH, using="dense", offset=1, limit=10, score_threshold=math.cos(0.7)
    )

    assert ids(response) == [1, 2, 3]


async def test_sparse_query_weighs_rare_terms_more(client: AsyncQdrantClient, facts: str) -> None:
    response = await client.query_points(facts, query=terms(1, 2, 3), using="bm25")

    scores = {each.id: each.score for each in response.points}
    assert ids(response)[0] == 7
    assert set(ids(response)[1:3]) == {2, 5}
    assert scores[7] > scores[2] > scores[1]


async def test_rarity_can_be_counted_within_a_corpus(client: AsyncQdrantClient, facts: str) -> None:
    """Term 3 is in one of 8 points, and in one of the 4 points of project b."""
    project_b = models.Filter(must=[equals("project", "b")])
    within_b = models.SearchParams(idf=models.IdfCorpusParams(corpus=project_b))

    everywhere = await client.query_points(facts, query=terms(3), using="bm25")
    within = await client.query_points(facts, query=terms(3), using="bm25", search_params=within_b)

    assert ids(within) == ids(everywhere) == [7]
    assert within.points[0].score < everywhere.points[0].score


async def test_sparse_query_finds_only_points_that_share_a_term(client: AsyncQdrantClient, facts: str) -> None:
    assert sorted(ids(await client.query_points(facts, query=terms(2), using="bm25"))) == [2, 5]
    assert ids(await client.query_points(facts, query=terms(99), using="bm25")) == []


async def test_query_is_filtered(client: AsyncQdrantClient, facts: str) -> None:
    live_a = models.Filter(must=[equals("project", "a")], must_not=[equals("deleted", True)])

    response = await client.query_points(facts, query=NORTH, using="dense", query_filter=live_a)

    assert ids(response) == [2, 4, 6]


async def test_hybrid_query_fuses_filtered_prefetches_by_rank(client: AsyncQdrantClient, facts: str) -> None:
    only_b = models.Filter(must=[equals("project", "b")])

    response = await client.query_points(
        facts,
        prefetch=[
            models.Prefetch(query=NORTH, using="dense", filter=only_b, limit=4),
            models.Prefetch(query=terms(2, 3), using="bm25", filter=only_b, limit=4),
        ],
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        limit=4,
    )

    # dense: 1 3 5 7, sparse: 7 5
    assert set(ids(response)) == {1, 3, 5, 7}
    assert ids(response)[-1] == 3
    scores = {each.id: each.score for each in response.points}
    assert scores[7] == pytest.approx(1 / 2 + 1 / 5)
    assert scores[5] == pytest.approx(1 / 3 + 1 / 4)


async def test_hybrid_query_filters_after_the_fusion_too(client: AsyncQdrantClient, facts: str) -> None:
    response = await client.query_points(
        facts,
        prefetch=[
            models.Prefetch(query=NORTH, using="dense", limit=8),
            models.Prefetch(query=terms(2, 3), using="bm25", limit=8),
        ],
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        query_filter=models.Filter(must=[equals("project", "b")]),
        limit=8,
    )

    assert set(ids(response)) == {1, 3, 5, 7}


async def test_fusion_by_score_distribution_and_weighted_ranks(client: AsyncQdrantClient, facts: str) -> None:
    prefetch = [
        models.Prefetch(query=NORTH, using="dense", limit=4),
        models.Prefetch(query=terms(3), using="bm25", limit=4),
    ]

    by_scores = await client.query_points(
        facts, prefetch=prefetch, query=models.FusionQuery(fusion=models.Fusion.DBSF), limit=8
    )
    by_ranks = await client.query_points(
        facts, prefetch=prefetch, query=models.RrfQuery(rrf=models.Rrf(k=60, weights=[1.0, 5.0])), limit=8
    )

    assert set(ids(by_scores)) == {0, 1, 2, 3, 7}
    assert ids(by_ranks) == [7, 0, 1, 2, 3]


async def test_nested_prefetch_narrows_then_rescores(client: AsyncQdrantClient, facts: str) -> None:
    response = await client.query_points(
        facts,
        prefetch=models.Prefetch(
            prefetch=[models.Prefetch(query=terms(2, 3), using="bm25", limit=3)],
            query=NORTH,
            using="dense",
            limit=2,
        ),
        query=terms(2),
        using="bm25",
    )

    assert set(ids(response)) == {2, 5}


async def test_batch_answers_in_the_order_of_its_queries(client: AsyncQdrantClient, facts: str) -> None:
    responses = await client.query_batch_points(
        facts,
        [
            models.QueryRequest(query=NORTH, using="dense", limit=2),
            models.QueryRequest(query=terms(3), using="bm25", limit=2),
        ],
    )

    assert [ids(response) for response in responses] == [[0, 1], [7]]


async def test_query_without_a_vector_lists_points(client: AsyncQdrantClient, facts: str) -> None:
    response = await client.query_points(facts, query_filter=models.Filter(must=[equals("project", "a")]))

    assert ids(response) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("query", "using"),
    [([1.0], "dense"), (NORTH, "unknown"), (NORTH, "bm25"), (terms(1), "dense")],
    ids=["dimension", "name", "dense-for-sparse", "sparse-for-dense"],
)
async def test_bad_query_vector_is_an_invalid_argument(client: AsyncQdrantClient, facts: str, query, using) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.query_points(facts, query=query, using=using)

    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_fusion_without_prefetches_is_an_invalid_argument(client: AsyncQdrantClient, facts: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.query_points(facts, query=models.FusionQuery(fusion=models.Fusion.RRF))

    assert failure.value.code() == grpc.StatusCode.INVALID_ARGUMENT
