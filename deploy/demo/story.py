"""The trace of one document, out of the trace of the whole ingest."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rich.console import RenderableType
from scristill.scheduler.v1.job_pb2 import Job

from deploy.local.home import Home
from deploy.local.traces.reader import Node, read_trace
from deploy.local.traces.spans import Span
from services.cli.render import traces

Key = tuple[str, str]
"""Trace id and span id."""

INDEXER = "scristill-indexer"
PATIENCE_SECONDS = 8.0
"""Spans are exported in batches, some seconds after their end."""


async def of_job(home: Home, job: Job, *, wait: bool) -> Sequence[RenderableType]:
    """The tree; with `wait` not before the index has its part in it, as far as patience reaches."""
    trace_id = job.traceparent.split("-")[1] if job.traceparent else "0" * 32
    deadline = time.monotonic() + (PATIENCE_SECONDS if wait else 0)
    while True:
        roots = told(await asyncio.to_thread(read_trace, home.traces, trace_id), job.job_id)
        if has_service(roots, INDEXER) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    if not roots:
        return [f"trace {trace_id} is no longer kept in {home.traces}"]
    return [f"trace {trace_id}", *traces.tree(roots, alike=3)]


def told(roots: Sequence[Node], job_id: str) -> list[Node]:
    """What leads to the spans of one job, all below these, and what links to them from elsewhere.

    A batch of the index serves many jobs, links to all of them, and hangs below the first.
    """
    attempts = [node for root in roots for _, node in root.walk() if node.span.attributes.get("job.id") == job_id]
    ours = {key_of(node.span) for attempt in attempts for _, node in attempt.walk()}
    serving: dict[Key, list[Node]] = defaultdict(list)
    for root in roots:
        for _, node in root.walk():
            linked = [key for link in node.span.links if (key := (link.trace_id, link.span_id)) in ours]
            if linked and key_of(node.span) not in ours:
                serving[linked[0]].append(replace(node, linked=True))
    return [with_links(root, serving) for root in branches(roots, job_id)]


def branches(nodes: Iterable[Node], job_id: str) -> list[Node]:
    kept: list[Node] = []
    for node in nodes:
        if node.span.attributes.get("job.id") == job_id:
            kept.append(node)
        elif below := branches(node.children, job_id):
            kept.append(replace(node, children=tuple(below)))
    return kept


def with_links(node: Node, serving: Mapping[Key, Sequence[Node]]) -> Node:
    below = [with_links(child, serving) for child in node.children]
    return replace(node, children=(*below, *serving.get(key_of(node.span), ())))


def key_of(span: Span) -> Key:
    return span.trace_id, span.span_id


def has_service(roots: Iterable[Node], service: str) -> bool:
    return any(node.span.service == service for root in roots for _, node in root.walk())
