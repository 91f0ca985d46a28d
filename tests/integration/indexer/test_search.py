"""Search: what comes back, in which order, and what never does."""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import grpc
import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from scristill.indexer.v1 import fact_pb2, search_service_pb2

from services.extractor.domain.token import write_token
from tests.integration.indexer.builders import PROJECT, IndexerClient, delete, fact_id, new_id, upsert

HYBRID = search_service_pb2.SEARCH_MODE_HYBRID
DENSE = search_service_pb2.SEARCH_MODE_DENSE
SPARSE = search_service_pb2.SEARCH_MODE_SPARSE

STATEMENTS = (
    "The Torvik bridge was opened in 1932.",
    "Ottilie bakes rye bread every morning.",
    "The observatory stands on Cerro Lumbre.",
    "长江是中国最长的河流。",
    "Le café de la gare ferme à minuit.",
)


async def search(client: IndexerClient, query: str, **more) -> search_service_pb2.SearchResponse:
    request = search_service_pb2.SearchRequest(**{"project_id": PROJECT, "query": query} | more)
    return await client.searcher.Search(request, timeout=10)


async def fill(client: IndexerClient) -> None:
    await client.apply([upsert(fact_id(number), 1, text) for number, text in enumerate(STATEMENTS)])


@pytest.mark.parametrize(
    ("mode", "query", "expected"),
    [
        (HYBRID, "When was the bridge opened?", 0),
        (HYBRID, "bread baking", 1),
        (HYBRID, "最长的河流", 3),
        (HYBRID, "cafe gare", 4),
        (DENSE, "When was the bridge opened?", 0),
        (SPARSE, "bridges opening", 0),
        (SPARSE, "bread baking", 1),
        (SPARSE, "最长的河流", 3),
        (SPARSE, "cafe gare", 4),
    ],
)
async def test_right_fact_is_on_top(client: IndexerClient, mode: int, query: str, expected: int) -> None:
    await fill(client)

    response = await search(client, query, mode=mode)

    assert response.hits[0].fact_id == fact_id(expected)
    assert response.epoch == 1


async def test_hit_carries_everything_that_was_indexed(client: IndexerClient) -> None:
    content = fact_pb2.FactContent(
        statement="The Torvik bridge was opened in 1932.",
        evidence=fact_pb2.Evidence(
            quote="opened in 1932", start=20, end=34, context_before="The bridge was ", context_after=". It"
        ),
        group="facts",
        category="history",
        fields={"subject": "Torvik bridge", "predicate": "opened", "object": "1932"},
        entities=["Torvik bridge", "1932"],
        confidence=0.75,
        source_title="Bridges",
        source_uri="file:///bridges.md",
        source_group="archive",
        source_version=4,
        extract_time=Timestamp(seconds=1_790_000_000, nanos=500_000_000),
    )
    intent = upsert(fact_id(1), 6)
    intent.content.CopyFrom(content)
    await client.apply_one(intent)

    (hit,) = (await search(client, "Torvik bridge")).hits

    assert hit.content == content
    assert (hit.fact_id, hit.source_id, hit.version) == (intent.fact_id, intent.source_id, 6)
    assert hit.score > 0


async def test_deleted_fact_is_never_found(client: IndexerClient) -> None:
    await fill(client)
    await client.apply_one(delete(fact_id(0), 2))

    for mode in (HYBRID, DENSE, SPARSE):
        hits = (await search(client, "Torvik bridge opened", mode=mode)).hits
        assert fact_id(0) not in {hit.fact_id for hit in hits}


async def test_other_projects_stay_out(client: IndexerClient) -> None:
    await fill(client)

    response = await search(client, "Torvik bridge", project_id=new_id())

    assert not response.hits


def _moment(day: int) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(datetime(2026, 11, day, tzinfo=UTC))
    return timestamp


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, {0, 1, 2}),
        ({"source_ids": [fact_id(100), fact_id(102)]}, {0, 2}),
        ({"source_groups": ["g1"]}, {1}),
        ({"groups": ["facts-0", "facts-1", "none"]}, {0, 1}),
        ({"entities": ["Entity 2", "Shared"]}, {0, 1, 2}),
        ({"entities": ["Entity 2"]}, {2}),
        ({"categories": ["c0"]}, {0}),
        ({"min_confidence": 0.5}, {1, 2}),
        ({"extract_start_time": _moment(11), "extract_end_time": _moment(12)}, {1}),
        ({"extract_start_time": _moment(11)}, {1, 2}),
        ({"categories": ["c0"], "min_confidence": 0.5}, set()),
    ],
)
async def test_filters_mean_any_of_a_list_and_all_of_the_lists(
    client: IndexerClient, wanted: dict, expected: set[int]
) -> None:
    await client.apply(
        [
            upsert(
                fact_id(number),
                source_id=fact_id(100 + number),
                source_group=f"g{number}",
                group=f"facts-{number}",
                category=f"c{number}",
                entities=[f"Entity {number}", "Shared"],
                confidence=0.3 + number * 0.3,
                extract_time=_moment(10 + number),
            )
            for number in range(3)
        ]
    )

    response = await search(client, "water", filter=search_service_pb2.SearchFilter(**wanted))

    assert {hit.fact_id for hit in response.hits} == {fact_id(number) for number in expected}


async def many(client: IndexerClient, count: int, sources: int = 1) -> None:
    await client.apply(
        [
            upsert(fact_id(number), 1, f"Water of well number {number}.", source_id=fact_id(1000 + number % sources))
            for number in range(count)
        ]
    )


@pytest.mark.parametrize("mode", [HYBRID, DENSE, SPARSE])
@pytest.mark.parametrize("per_source", [0, 3])
async def test_pages_continue_each_other_and_end(client: IndexerClient, mode: int, per_source: int) -> None:
    await many(client, 25, sources=5)

    seen: list[str] = []
    token = ""
    for _ in range(10):
        page = await search(
            client, "water well", mode=mode, page_size=7, page_token=token, max_hits_per_source=per_source
        )
        seen += [hit.fact_id for hit in page.hits]
        token = page.next_page_token
        if not token:
            break

    expected = 5 * per_source or 25
    assert len(seen) == len(set(seen)) == expected


async def test_page_token_of_other_arguments_is_refused(client: IndexerClient) -> None:
    await many(client, 5)
    token = (await search(client, "water", page_size=2)).next_page_token

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await search(client, "wells", page_size=2, page_token=token)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_no_source_gives_more_hits_than_allowed(client: IndexerClient) -> None:
    await many(client, 20, sources=4)

    response = await search(client, "water well", max_hits_per_source=2, page_size=100)

    sources = [hit.source_id for hit in response.hits]
    assert len(sources) == 8
    assert all(sources.count(source) == 2 for source in sources)


async def test_hits_below_the_lowest_score_are_left_out(client: IndexerClient) -> None:
    await fill(client)
    best = (await search(client, "Torvik bridge opened", mode=DENSE)).hits[0].score

    response = await search(client, "Torvik bridge opened", mode=DENSE, min_score=best - 0.01)

    assert {hit.fact_id for hit in response.hits} == {fact_id(0)}


async def test_query_of_stop_words_only_has_no_words_to_match(client: IndexerClient) -> None:
    await fill(client)

    assert not (await search(client, "the of and", mode=SPARSE)).hits


def token(marker: str, version: int) -> str:
    return write_token(marker=UUID(marker), version=version)


async def test_f14_search_waits_for_the_writes_that_its_token_stands_for(client: IndexerClient) -> None:
    await fill(client)
    marker = new_id()
    searching = asyncio.create_task(search(client, "Zanzibar cloves", consistency_token=token(marker, 7)))
    await client.apply_one(delete(marker, 6))
    await asyncio.sleep(0.1)
    assert not searching.done()

    await client.apply_one(upsert(fact_id(50), 1, "Zanzibar grows cloves."))
    await client.apply_one(delete(marker, 7))

    response = await searching
    assert response.hits[0].fact_id == fact_id(50)
    assert marker not in {hit.fact_id for hit in response.hits}


async def test_token_that_was_reached_before_costs_no_wait(client: IndexerClient) -> None:
    await fill(client)
    marker = new_id()
    await client.apply_one(delete(marker, 9))

    assert (await search(client, "Torvik bridge", consistency_token=token(marker, 7))).hits


async def test_search_whose_token_is_not_reached_ends_at_its_deadline(client: IndexerClient) -> None:
    await fill(client)
    request = search_service_pb2.SearchRequest(project_id=PROJECT, query="water", consistency_token=token(new_id(), 7))

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.searcher.Search(request, timeout=1)

    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("text", ["w1", "1.x.7", "1.018f0000-0000-7000-8000-000000000001", "2." + PROJECT + ".7"])
async def test_malformed_token_is_refused(client: IndexerClient, text: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await search(client, "water", consistency_token=text)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_query_is_embedded_as_most_urgent_with_the_model_of_the_epoch(client: IndexerClient, models) -> None:
    await search(client, "Who baked?")

    request = models.requests[-1]
    assert (list(request.texts), request.priority, request.model) == (["Who baked?"], 0, "hash-1")


async def test_search_without_a_model_says_which_service_is_missing(client: IndexerClient, models) -> None:
    await fill(client)
    models.down = True

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await search(client, "water")

    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await search(client, "water", mode=SPARSE)).epoch == 1
