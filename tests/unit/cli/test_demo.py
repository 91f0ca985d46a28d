"""The demo's judgement: it must see a broken promise, and tell one document's story."""

# ruff: noqa: ARG002 - stand-ins have the signatures of what they stand for

import pytest
from scristill.extractor.v1.consistency_service_pb2 import GetConsistencyResponse
from scristill.extractor.v1.extraction_pb2 import Extraction, FieldValue, SourceQuote
from scristill.indexer.v1.fact_pb2 import Evidence, FactContent
from scristill.indexer.v1.indexer_service_pb2 import GetIndexStatsResponse
from scristill.indexer.v1.search_service_pb2 import SearchHit, SearchResponse

from deploy.demo import checks, run, story
from deploy.local.traces.reader import Node
from deploy.local.traces.spans import Link, Span

TEXT = "Zoé 👩🏿‍🔬 wrote it in 1931."
QUOTE = "🔬 wrote it in 1931."
QUERY = checks.Query(question="When?", source="a b.md", quote_contains="in 1931")


class Facts:
    def __init__(self, facts: list[Extraction], *, points: int) -> None:
        self._facts = facts
        self._points = points

    async def every(self, project_id: str):
        for fact in self._facts:
            yield fact

    async def index_stats(self, project_id: str) -> GetIndexStatsResponse:
        return GetIndexStatsResponse(live_point_count=self._points)


class Sources:
    async def text(self, source_id: str) -> str:
        return TEXT

    async def consistency(self, project_id: str) -> GetConsistencyResponse:
        return GetConsistencyResponse(fact_count=1)


def fact(*, shift: int = 0, value: str = "1931", embedding_id: str = "e") -> Extraction:
    start, year_start = TEXT.index(QUOTE), TEXT.index("1931")
    quote = SourceQuote(text=QUOTE, start=start + shift, end=start + shift + len(QUOTE))
    year = SourceQuote(text=value, start=year_start, end=year_start + 4)
    return Extraction(source_id="s", embedding_id=embedding_id, quote=quote, values=[FieldValue(quote=year)])


async def verdicts(facts: list[Extraction], *, points: int = 1) -> list[bool]:
    made = await checks.invariants("p", facts=Facts(facts, points=points), sources=Sources())
    return [check.holds for check in made]


async def test_promises_that_hold_are_seen_to_hold() -> None:
    assert await verdicts([fact()]) == [True, True, True]


@pytest.mark.parametrize(
    ("facts", "points", "expected"),
    [
        ([fact(embedding_id="")], 1, [False, True, True]),
        ([fact()], 2, [True, False, True]),
        ([fact(shift=1)], 1, [True, True, False]),
        ([fact(value="1930")], 1, [True, True, False]),
        ([], 0, [False, False, False]),
    ],
)
async def test_each_broken_promise_is_seen(facts: list[Extraction], points: int, expected: list[bool]) -> None:
    assert await verdicts(facts, points=points) == expected


def found(uri: str, quote: str) -> SearchResponse:
    return SearchResponse(hits=[SearchHit(content=FactContent(source_uri=uri, evidence=Evidence(quote=quote)))])


def test_answer_counts_only_from_the_right_source_with_the_right_words() -> None:
    assert QUERY.answered_by(found("file:///docs/a%20b.md", "built in 1931"))
    assert not QUERY.answered_by(found("file:///docs/c.md", "built in 1931"))
    assert not QUERY.answered_by(found("file:///docs/a%20b.md", "built in 1930"))
    assert not QUERY.answered_by(SearchResponse())


def test_corpus_holds_what_the_demo_shows_and_asks() -> None:
    names = {path.name for path in run.CORPUS.iterdir()}

    assert names >= {*run.SAMPLED, run.TOLD, *(query.source for query in checks.queries())}
    assert len(names) >= 30


def node(
    name: str, *children: Node, service: str = "scristill-extractor", job: str = "", links: tuple[str, ...] = ()
) -> Node:
    span = Span(
        trace_id="0" * 32,
        span_id=name,
        parent_id="",
        name=name,
        service=service,
        kind="internal",
        start=0,
        end=1,
        status="ok",
        message="",
        attributes={"job.id": job} if job else {},
        links=tuple(Link(trace_id="0" * 32, span_id=each) for each in links),
    )
    return Node(span=span, children=children, linked=False)


def test_story_of_a_job_leaves_out_the_others() -> None:
    ours = node("job", node("index", service=story.INDEXER), job="ours")
    root = node("ingest", node("list"), node("create", node("job", job="theirs"), ours))

    kept = story.told([root], "ours")

    assert [(depth, each.span.name) for depth, each in kept[0].walk()] == [
        (0, "ingest"),
        (1, "create"),
        (2, "job"),
        (3, "index"),
    ]
    assert story.has_service(kept, story.INDEXER)
    assert story.told([root], "nobody's") == []


def test_batch_that_hangs_below_another_job_belongs_to_the_story_too() -> None:
    batch = node("batch", node("embed"), service=story.INDEXER, links=("their publish", "our publish"))
    theirs = node("job", node("their publish", batch), job="theirs", links=("create",))
    root = node("create", theirs, node("job", node("our publish"), job="ours", links=("create",)))

    (kept,) = story.told([root], "ours")

    assert [each.span.name for _, each in kept.walk()] == ["create", "job", "our publish", "batch", "embed"]
    assert [each.span.name for _, each in kept.walk() if each.linked] == ["batch"]
