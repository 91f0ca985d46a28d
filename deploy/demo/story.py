"""The trace of one document, out of the trace of the whole ingest."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.console import RenderableType
from scristill.scheduler.v1.job_pb2 import Job

from deploy.local.home import Home
from deploy.local.traces.reader import Node, read_trace
from services.cli.render import traces

INDEXER = "scristill-indexer"
PATIENCE_SECONDS = 8.0
"""Spans are exported in batches, some seconds after their end."""


async def of_job(home: Home, job: Job, *, wait: bool) -> Sequence[RenderableType]:
    """The tree; with `wait` not before the index has its part in it, as far as patience reaches."""
    trace_id = job.traceparent.split("-")[1] if job.traceparent else "0" * 32
    deadline = time.monotonic() + (PATIENCE_SECONDS if wait else 0)
    while True:
        roots = branches(await asyncio.to_thread(read_trace, home.traces, trace_id), job.job_id)
        if has_service(roots, INDEXER) or time.monotonic() > deadline:
            break
        await asyncio.sleep(0.5)
    if not roots:
        return [f"trace {trace_id} is no longer kept in {home.traces}"]
    return [f"trace {trace_id}", *traces.tree(roots, alike=3)]


def branches(nodes: Iterable[Node], job_id: str) -> list[Node]:
    """What leads to the spans of one job, and all below these."""
    kept: list[Node] = []
    for node in nodes:
        if node.span.attributes.get("job.id") == job_id:
            kept.append(node)
        elif below := branches(node.children, job_id):
            kept.append(replace(node, children=tuple(below)))
    return kept


def has_service(roots: Iterable[Node], service: str) -> bool:
    return any(node.span.service == service for root in roots for _, node in root.walk())
