"""Assembling stored spans into one tree."""

import pytest

from deploy.local.rotation import RotatingFile, newest_first
from deploy.local.traces.reader import assemble, read_trace, recent_traces, render
from deploy.local.traces.spans import Link, Span, span_file

TRACE = "a" * 32
ATTEMPT = "b" * 32
OTHER = "c" * 32


def span(name, *, trace=TRACE, parent="", start=0, duration=5, links=(), status="unset"):
    return Span(
        trace_id=trace,
        span_id=f"{abs(hash((trace, name))) % 16**16:016x}",
        parent_id=parent,
        name=name,
        service="scristill-scheduler",
        kind="server",
        start=start,
        end=start + duration,
        status=status,
        message="",
        attributes={"rpc.method": "CreateJob", "job.attempt": 1},
        links=tuple(Link(trace_id=target.trace_id, span_id=target.span_id) for target in links),
    )


def store(directory, *spans):
    file = RotatingFile(path=span_file(directory), max_bytes=1_000_000, keep=2)
    file.write(b"".join(span.to_line() for span in spans))
    file.close()


def shape(roots):
    return [(depth, node.span.name) for root in roots for depth, node in root.walk()]


def test_children_hang_below_their_parent_in_order_of_time():
    root = span("root")
    late = span("late", parent=root.span_id, start=3)
    early = span("early", parent=root.span_id, start=1)

    assert shape(assemble([late, root, early])) == [(0, "root"), (1, "early"), (1, "late")]


def test_a_span_without_its_parent_is_still_shown():
    assert shape(assemble([span("orphan", parent="f" * 16)])) == [(0, "orphan")]


def test_a_trace_that_links_back_hangs_below_what_it_links_to(tmp_path):
    create = span("create")
    attempt = span("attempt", trace=ATTEMPT, start=10, links=[create])
    model_call = span("generate", trace=ATTEMPT, parent=attempt.span_id, start=11)
    store(tmp_path, create, model_call, attempt, span("unrelated", trace=OTHER))

    roots = read_trace(tmp_path, TRACE)

    assert shape(roots) == [(0, "create"), (1, "attempt"), (2, "generate")]
    assert "~> scristill-scheduler  attempt" in "\n".join(render(roots))


def test_links_in_both_directions_lose_no_span():
    first, second = span("first"), span("second", trace=ATTEMPT, start=1)
    first = span("first", links=[second])
    second = span("second", trace=ATTEMPT, start=1, links=[first])

    assert shape(assemble([first, second])) == [(0, "first"), (1, "second")]


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    store(tmp_path, span("whole"))
    with span_file(tmp_path).open("ab") as file:
        file.write(span("torn").to_line()[:-20])

    assert shape(read_trace(tmp_path, TRACE)) == [(0, "whole")]


def test_an_unknown_trace_is_empty_and_a_malformed_id_is_refused(tmp_path):
    assert read_trace(tmp_path, TRACE) == ()
    with pytest.raises(ValueError, match="32 hexadecimal digits"):
        read_trace(tmp_path, "x")


def test_recent_traces_are_the_roots_newest_first(tmp_path):
    old, new = span("old"), span("new", trace=ATTEMPT, start=100)
    store(tmp_path, old, new, span("child", parent=old.span_id, start=200))

    assert [root.name for root in recent_traces(tmp_path)] == ["new", "old"]


def test_files_rotate_by_size_and_the_oldest_goes(tmp_path):
    file = RotatingFile(path=tmp_path / "log", max_bytes=10, keep=2)

    for letter in b"abcde":
        file.write(bytes([letter]) * 8 + b"\n")
    file.close()

    kept = [path.read_bytes()[:1] for path in newest_first(tmp_path / "log")]
    assert kept == [b"e", b"d", b"c"]


def test_errors_are_named_in_the_rendering():
    assert "ERROR" in next(render(assemble([span("broken", status="error")])))
