"""Puts the stored spans of one trace together as a tree.

An attempt of a job is a trace of its own that links back to the call that created the job. The reader follows such
links: the linking trace hangs below the span it links to, so that one tree shows a document's whole way.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.local.rotation import newest_first
from deploy.local.traces.spans import Span, span_file

TRACE_ID = re.compile(r"[0-9a-f]{32}")
MENTIONED = re.compile(rb'"trace_id":"([0-9a-f]{32})"')
"""In a stored line: of the span itself and of what it links to."""

Key = tuple[str, str]
"""Trace id and span id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    span: Span
    children: tuple["Node", ...]
    linked: bool
    """It is the root of another trace, which links to the span above."""

    def walk(self, depth: int = 0) -> "Iterator[tuple[int, Node]]":
        yield depth, self
        for child in self.children:
            yield from child.walk(depth + 1)


def read_trace(directory: Path, trace_id: str) -> tuple[Node, ...]:
    """The roots, oldest first; empty when no such trace is stored. Raises ValueError for a malformed id."""
    if not TRACE_ID.fullmatch(trace_id):
        raise ValueError("a trace id is 32 hexadecimal digits")
    return assemble(_spans_around(directory, trace_id))


def recent_traces(directory: Path, *, limit: int = 20) -> list[Span]:
    """The roots of the traces that ended last, newest first, out of the newest file."""
    roots = [Span.from_line(line) for line in _lines(span_file(directory)) if b'"parent_id":""' in line]
    return sorted(roots, key=lambda span: span.end, reverse=True)[:limit]


def assemble(spans: Iterable[Span]) -> tuple[Node, ...]:
    """A span whose parent is not stored becomes a root, so that a trace with a gap is still shown whole."""
    ordered = sorted(spans, key=lambda span: span.start)
    known = {_key(span) for span in ordered}
    below: dict[Key | None, list[tuple[Span, bool]]] = defaultdict(list)
    earlier: set[Key] = set()
    for span in ordered:
        parent = (span.trace_id, span.parent_id)
        # Only to what began earlier: links may point both ways, and a tree must not.
        origin = next((key for link in span.links if (key := (link.trace_id, link.span_id)) in earlier), None)
        if parent in known:
            below[parent].append((span, False))
        else:
            below[origin].append((span, origin is not None))
        earlier.add(_key(span))
    return _nodes(below, None)


def render(roots: Iterable[Node]) -> Iterator[str]:
    """One line per span: milliseconds since the first, duration, service, name, what went wrong."""
    roots = tuple(roots)
    first = min((root.span.start for root in roots), default=0)
    for root in roots:
        for depth, node in root.walk():
            span = node.span
            arrow = "~> " if node.linked else ""
            failure = f"  ERROR {span.message}".rstrip() if span.status == "error" else ""
            timing = f"{(span.start - first) / 1e6:10.1f} ms {span.milliseconds:10.1f} ms"
            yield f"{timing}  {'  ' * depth}{arrow}{span.service}  {span.name}{failure}"


def _key(span: Span) -> Key:
    return span.trace_id, span.span_id


def _nodes(below: dict[Key | None, list[tuple[Span, bool]]], parent: Key | None) -> tuple[Node, ...]:
    return tuple(
        Node(span=span, linked=linked, children=_nodes(below, _key(span))) for span, linked in below.get(parent, [])
    )


def _spans_around(directory: Path, trace_id: str) -> list[Span]:
    """Of the trace and of all that link to it, directly or through others: one pass over the files per generation."""
    found: dict[Key, Span] = {}
    sought = {trace_id.encode()}
    seen: set[bytes] = set()
    while sought:
        linking: set[bytes] = set()
        for path in newest_first(span_file(directory)):
            for line in _lines(path):
                own, *links = MENTIONED.findall(line)
                if own in sought:
                    span = Span.from_line(line)
                    found[_key(span)] = span
                elif not sought.isdisjoint(links):
                    linking.add(own)
        seen |= sought
        sought = linking - seen
    return list(found.values())


def _lines(path: Path) -> Iterator[bytes]:
    """The whole lines of a file that may be growing, and that rotation may take away."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        yield from (line for line in file if line.endswith(b"\n"))
