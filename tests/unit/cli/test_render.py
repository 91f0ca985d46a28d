"""Tables, hits, trees and progress as text."""

import io
from pathlib import Path

import pytest
from rich.console import Console
from scristill.extractor.v1.source_pb2 import Source, SourceState
from scristill.indexer.v1.fact_pb2 import Evidence, FactContent
from scristill.indexer.v1.search_service_pb2 import SearchHit
from scristill.scheduler.v1.job_pb2 import Job, JobProgress, JobState

from deploy.local.traces.reader import Node
from deploy.local.traces.spans import Span
from services.cli.ingest.follow import ChunkProgress, Progress, Result
from services.cli.ingest.outcome import Fate, Outcome, Tally
from services.cli.output import console
from services.cli.render import hits, ingest, tables, traces


def text_of(*renderables: object) -> str:
    stream = io.StringIO()
    for renderable in renderables:
        console(stream).print(renderable)
    return stream.getvalue()


EVIDENCE = Evidence(
    quote="opened the bridge", start=40, end=57, context_before="In 1931 the king\n", context_after=" ."
)


def test_quote_stands_marked_in_its_context() -> None:
    assert str(hits.quote(EVIDENCE, marked=True)) == "…In 1931 the king **opened the bridge** .…"


def test_quote_stands_in_colour_on_a_terminal() -> None:
    stream = io.StringIO()

    Console(file=stream, force_terminal=True, color_system="standard").print(hits.quote(EVIDENCE, marked=False))

    assert "\x1b[1;33mopened the bridge\x1b[0m" in stream.getvalue()


def test_long_context_is_cut_away_from_the_quote() -> None:
    evidence = Evidence(quote="Q", context_before="a" * 150 + "near ", context_after=" next" + "b" * 150)

    shown = str(hits.quote(evidence, marked=False))

    assert shown.startswith("…a")
    assert "near Q next" in shown
    assert len(shown) == 2 * hits.CONTEXT + 3


def test_hit_shows_title_score_quote_and_place() -> None:
    content = FactContent(evidence=EVIDENCE, source_title="The bridge", source_uri="file:///docs/a%20b.md")

    shown = text_of(*hits.hit_lines(1, SearchHit(content=content, score=0.5), marked=True))

    assert shown.splitlines()[0] == " 1. The bridge  score 0.500"
    assert "**opened the bridge**" in shown
    assert "/docs/a b.md [40, 57)" in shown


def test_job_line_tells_state_and_progress() -> None:
    job = Job(type="extract", state=JobState.JOB_STATE_RUNNING, progress=JobProgress(completed_count=3, total_count=9))

    assert "RUNNING    extract        3/9" in str(tables.job_line(job))


def test_source_table_gives_the_reason_of_what_was_not_extracted() -> None:
    source = Source(uri="file:///a.bin", state=SourceState.SOURCE_STATE_SKIPPED, message="binary")

    assert text_of(tables.sources([source])).splitlines()[1].split() == ["SKIPPED", "0/0", "0", "0", "/a.bin", "binary"]


def test_exceptions_of_an_ingest_are_listed_with_reasons() -> None:
    tally, result = Tally(), Result()
    tally.add(Outcome(path="/b\x1b.fifo", fate=Fate.SKIPPED, reason="not a regular file"))
    result.add(Source(uri="file:///c.pdf", state=SourceState.SOURCE_STATE_FAILED, message="damaged"))

    shown = [str(line) for line in ingest.exception_lines(tally, result)]

    assert shown == ["skipped  /b\N{REPLACEMENT CHARACTER}.fifo  not a regular file", "failed   /c.pdf  damaged"]
    assert result.failed


def test_skipped_source_is_no_failure() -> None:
    result = Result()

    result.add(Source(state=SourceState.SOURCE_STATE_SKIPPED))

    assert not result.failed


def test_source_left_open_by_a_job_that_ended_is_a_failure() -> None:
    result = Result()

    result.add(Source(uri="file:///a", state=SourceState.SOURCE_STATE_PENDING))

    assert result.failed
    assert [str(line) for line in ingest.exception_lines(Tally(), result)] == [
        "pending  /a  its job ended without success"
    ]


def test_chunks_of_a_job_count_once_whatever_is_heard_of_it() -> None:
    chunks = ChunkProgress()

    for done, state in ((1, JobState.JOB_STATE_RUNNING), (3, JobState.JOB_STATE_SUCCEEDED)):
        chunks.add(Job(job_id="a", state=state, progress=JobProgress(completed_count=done, total_count=4)))
    chunks.add(Job(job_id="b", state=JobState.JOB_STATE_DEAD, progress=JobProgress(completed_count=2, total_count=5)))

    assert (chunks.done, chunks.total, chunks.unsuccessful) == (6, 9, 1)


def test_job_that_is_retried_is_no_longer_unsuccessful() -> None:
    chunks = ChunkProgress()

    chunks.add(Job(job_id="a", state=JobState.JOB_STATE_DEAD))
    chunks.add(Job(job_id="a", state=JobState.JOB_STATE_PENDING))

    assert chunks.unsuccessful == 0


def test_progress_is_one_line_outside_of_a_terminal() -> None:
    progress = Progress(
        source_count=39,
        source_done=12,
        chunk_count=80,
        chunk_done=40,
        fact_count=1200,
        indexed_count=900,
        pending_count=300,
    )

    assert ingest.progress_line(progress) == "sources 12/39  chunks 40/80  facts 1,200  indexed 900"


def test_rate_and_time_left_are_means_since_the_start() -> None:
    now = 100.0
    pace = ingest.Pace(lambda: now)

    assert pace.told(50, 90) == ("", "")
    now = 110.0
    assert pace.told(70, 90) == ("2.0/s", "0:00:10 left")
    assert pace.told(90, 90) == ("4.0/s", "")


def span(name: str, *, start: int = 0, status: str = "ok", message: str = "") -> Span:
    return Span(
        trace_id="0" * 32,
        span_id=f"{start:016}",
        parent_id="",
        name=name,
        service="scristill-extractor",
        kind="server",
        start=start,
        end=start + 2_000_000,
        status=status,
        message=message,
        attributes={},
        links=(),
    )


def node(name: str, *children: Node, linked: bool = False, **fields: object) -> Node:
    return Node(span=span(name, **fields), children=children, linked=linked)


def test_trace_is_a_tree_of_services_names_and_times() -> None:
    root = node(
        "scristill.extractor.v1.SourceService/CreateSources",
        node("extract", linked=True, start=5_000_000, status="error", message="boom"),
    )

    shown = text_of(*traces.tree([root], alike=3)).splitlines()

    assert [line.rstrip() for line in shown] == [
        "extractor SourceService/CreateSources  2.0 ms  +0 ms",
        "└── ⇢ extractor extract  2.0 ms  +5 ms  boom",
    ]


@pytest.mark.parametrize(("alike", "lines"), [(2, 4), (0, 6)])
def test_siblings_alike_are_counted_beyond_the_first_ones(alike: int, lines: int) -> None:
    root = node("ingest", *(node("extract", start=index) for index in range(5)))

    shown = text_of(*traces.tree([root], alike=alike)).splitlines()

    assert len(shown) == lines
    assert ("… 3 more: extractor extract" in shown[-1]) == bool(alike)


def test_place_of_a_source_is_its_path() -> None:
    assert hits.place(Path("/a b/ü.md").as_uri()) == "/a b/ü.md"
    assert hits.place("https://example.org/a") == "https://example.org/a"
