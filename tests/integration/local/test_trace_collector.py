"""From the exporter that services use to the tree that the reader shows."""

import asyncio
import sys

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from deploy.local import probes
from deploy.local.home import CHECKOUT
from deploy.local.ports import free_port
from deploy.local.traces.reader import read_trace, recent_traces


@pytest.fixture
async def collector(tmp_path):
    port = free_port()
    arguments = ["-m", "deploy.local.traces", "--directory", str(tmp_path), "--port", str(port)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, cwd=CHECKOUT)
    await probes.until_ready(probes.grpc_health(f"127.0.0.1:{port}"), within=20)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    assert await process.wait() == 0


async def test_exported_spans_come_back_as_one_tree(collector, tmp_path):
    provider = TracerProvider(resource=Resource.create({"service.name": "scristill-extractor"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector, insecure=True)))
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("CreateSources", kind=SpanKind.SERVER) as root:
        with tracer.start_as_current_span("insert", attributes={"rows": 3, "tags": ["a", "b"]}) as child:
            child.set_status(Status(StatusCode.ERROR, "deadlock"))
        created = root.get_span_context()
    attempt = tracer.start_span("attempt", links=[Link(created)], context={})
    attempt.end()
    provider.shutdown()

    (tree,) = read_trace(tmp_path, f"{created.trace_id:032x}")

    assert [(depth, node.span.name, node.linked) for depth, node in tree.walk()] == [
        (0, "CreateSources", False),
        (1, "insert", False),
        (1, "attempt", True),
    ]
    insert = tree.children[0].span
    assert (insert.service, insert.status, insert.message) == ("scristill-extractor", "error", "deadlock")
    assert insert.attributes == {"rows": 3, "tags": ["a", "b"]}
    assert tree.span.kind == "server"
    assert {span.name for span in recent_traces(tmp_path)} == {"CreateSources", "attempt"}
