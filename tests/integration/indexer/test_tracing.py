"""The trace of a batch leads back to the transactions that stated its intents."""

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.shared.telemetry import tracing
from tests.integration.indexer.builders import IndexerClient, fact_id, upsert

SAMPLED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SAMPLED_AND_RANDOM = "00-2af7651916cd43dd8448eb211c80319c-b7ad6b7169203333-03"
NOT_SAMPLED = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203332-00"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "tracer", lambda: provider.get_tracer("tests"))
    yield exporter
    provider.shutdown()


async def test_batch_links_to_sampled_transactions_once_each(
    client: IndexerClient, spans: InMemorySpanExporter
) -> None:
    await client.apply(
        [
            upsert(fact_id(1), traceparent=SAMPLED),
            upsert(fact_id(2), traceparent=SAMPLED),
            upsert(fact_id(3), traceparent=NOT_SAMPLED),
            upsert(fact_id(5), traceparent=SAMPLED_AND_RANDOM),
            upsert(fact_id(4), traceparent="not a traceparent-01"),
        ]
    )

    (batch,) = [span for span in spans.get_finished_spans() if span.name == "indexer.apply_batch"]
    assert [trace.format_trace_id(link.context.trace_id) for link in batch.links] == [
        each.split("-")[1] for each in (SAMPLED, SAMPLED_AND_RANDOM)
    ]
    assert batch.attributes["scristill.batch.size"] == 5
    assert batch.parent is None
