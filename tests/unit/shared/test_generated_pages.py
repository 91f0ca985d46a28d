"""What is rendered from the contract and from code is current."""

import json
from pathlib import Path

import pytest
from scristill.extractor.v1 import (
    consistency_service_pb2,
    extraction_service_pb2,
    project_service_pb2,
    source_service_pb2,
)
from scristill.indexer.v1 import indexer_service_pb2, search_service_pb2
from scristill.llm_gateway.v1 import llm_gateway_service_pb2
from scristill.scheduler.v1 import scheduler_service_pb2, worker_service_pb2

from services.shared.errors import Reason
from services.shared.grpc.error_catalogue import PROTO, entries, render
from services.shared.grpc.service_config import SERVICE_CONFIG
from services.shared.telemetry import catalogue

ROOT = Path(__file__).parents[3]

FILES = (
    consistency_service_pb2,
    extraction_service_pb2,
    project_service_pb2,
    source_service_pb2,
    indexer_service_pb2,
    search_service_pb2,
    llm_gateway_service_pb2,
    scheduler_service_pb2,
    worker_service_pb2,
)
METHODS = [
    method for file in FILES for service in file.DESCRIPTOR.services_by_name.values() for method in service.methods
]
READS = ("Get", "List", "Watch", "Stream", "Scan", "Search")

# Safe to repeat without a request id, and why.
IDEMPOTENT_BY_NATURE = {
    "ConsistencyService.Reconcile": "a second caller attaches to the run",
    "SourceService.UploadSource": "nothing is stored until the stream ends, and then by uri and content",
    "IndexerService.IndexFacts": "conditional on the version of each fact",
    "LlmGatewayService.Embed": "has no effect but usage",
    "LlmGatewayService.ReplayDeadLetters": "results are stored under the old request id",
    "LlmGatewayService.DeleteDeadLetters": "deletes by id",
    "LlmGatewayService.DeleteCachedResults": "deletes by scope, and a deleted scope never comes back",
    "WorkerService.LeaseJobs": "a stream is repeated before its first frame only",
    "WorkerService.RenewLeases": "fenced",
    "WorkerService.CompleteJobs": "fenced",
    "WorkerService.FailJobs": "fenced",
    "WorkerService.ReleaseJobs": "fenced",
}


def test_page_of_errors_is_current():
    assert (ROOT / "docs" / "errors.md").read_text() == render(PROTO.read_text()), (
        "run: python -m services.shared.grpc.error_catalogue > docs/errors.md"
    )


def test_page_of_errors_has_every_reason():
    documented = {entry.reason for entry in entries(PROTO.read_text())}

    assert documented == {reason.name for reason in Reason if reason is not Reason.UNSPECIFIED}


def test_service_config_for_other_languages_is_current():
    assert json.loads((ROOT / "deploy" / "grpc" / "service_config.json").read_text()) == SERVICE_CONFIG


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_call_that_channels_repeat_is_safe_to_repeat(method):
    assert (
        method.name.startswith(READS)
        or "request_id" in method.input_type.fields_by_name
        or f"{method.containing_service.name}.{method.name}" in IDEMPOTENT_BY_NATURE
    )


def test_page_of_telemetry_lists_every_metric():
    page = catalogue.PAGE.read_text()

    assert page == catalogue.render(page, list(catalogue.metrics(ROOT / "services"))), (
        "run: python -m services.shared.telemetry.catalogue"
    )


def test_metrics_are_found_in_code(tmp_path: Path):
    (tmp_path / "greeter").mkdir()
    (tmp_path / "greeter" / "metrics.py").write_text(
        'metrics.counter(\n    "scristill_a_total",\n    "Long "\n    "text.",\n    labels=("kind",),\n)\n'
        'for key, name, text in [("b", "scristill_b", "Short.")]: ...\n'
    )

    found = list(catalogue.metrics(tmp_path))

    assert [(metric.name, metric.description) for metric in found] == [
        ("scristill_a_total", "Long text."),
        ("scristill_b", "Short."),
    ]
