import struct
import uuid

from scristill.llm_gateway.v1 import llm_gateway_service_pb2 as pb
from scristill.llm_gateway.v1 import model_call_pb2 as call_pb

from services.llm_gateway.adapters.redis import records
from services.llm_gateway.application.embed import Embedded
from services.llm_gateway.application.ports import CancelRequested, Failed, HandedOver
from services.llm_gateway.domain.calls import FinishReason, Usage
from services.llm_gateway.domain.errors import OutputInvalid, TextEmpty
from services.llm_gateway.domain.frames import Delta, Done, Started, UsageReport
from services.llm_gateway.entrypoints import mapping
from services.llm_gateway.settings import LlmGatewaySettings
from services.shared.errors import Reason


def request(**changes: object) -> pb.GenerateRequest:
    fields = {
        "request_id": str(uuid.uuid4()),
        "project_id": "p",
        "model": "m",
        "prompt": call_pb.Prompt(documents=[call_pb.Document(document_id="d", text="t")]),
    }
    return pb.GenerateRequest(**(fields | changes))


def test_fingerprint_is_of_the_payload_alone() -> None:
    fingerprint = mapping.generate_call(request()).fingerprint

    assert mapping.generate_call(request(priority=5, detach=True, resume_after_seq=3)).fingerprint == fingerprint
    for change in (
        {"project_id": "q"},
        {"model": "n"},
        {"prompt": call_pb.Prompt(documents=[call_pb.Document(document_id="d", text="u")])},
        {"sampling": call_pb.Sampling(temperature=1.0)},
        {"sampling": call_pb.Sampling(seed=1)},
        {"output_format": call_pb.OutputFormat(json_schema=call_pb.JsonSchemaFormat(name="n", schema="{}"))},
    ):
        assert mapping.generate_call(request(**change)).fingerprint != fingerprint


def test_sampling_that_is_not_set_stays_unset() -> None:
    assert mapping.generate_call(request()).sampling is None
    sampling = mapping.generate_call(request(sampling=call_pb.Sampling())).sampling
    assert sampling is not None
    assert sampling.temperature == 0.0


def test_vectors_arrive_as_the_floats_they_are() -> None:
    for dimension in (1, 31, 32, 256, 4096):
        values = [index / 7 for index in range(dimension)]
        vector = struct.pack(f"<{dimension}f", *values)

        response = mapping.embed_response(
            Embedded(model="m", dimension=dimension, vectors=[vector, TextEmpty("empty")], usage=Usage())
        )

        assert struct.pack(f"<{dimension}f", *response.embeddings[0].values) == vector
        assert not response.embeddings[1].values
        assert response.embeddings[1].failure.reason == Reason.TEXT_EMPTY


def test_records_survive_the_store() -> None:
    usage = Usage(input_tokens=1, output_tokens=2, cached_input_tokens=3, provider_calls=4, estimated=True)
    batch = [
        Started(provider="p", model="m", attempt=2),
        Delta(seq=1, text="é 👋🏽\n"),
        UsageReport(usage=usage),
        Done(finish_reason=FinishReason.LENGTH, usage=usage, last_seq=1, model="m", repaired_output="{}"),
        HandedOver(),
        CancelRequested(),
    ]

    assert records.load(records.dump(batch)) == batch


def test_stored_error_is_the_error_that_was_raised() -> None:
    (record,) = records.load(records.dump([Failed(error=OutputInvalid.at("/a", schema="s"))]))

    assert isinstance(record, Failed)
    assert isinstance(record.error, OutputInvalid)
    assert record.error.metadata == {"schema": "s", "path": "/a"}


def test_weights_of_projects_are_read_from_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("LLM_GATEWAY_REDIS_URL", "redis://127.0.0.1/0")
    monkeypatch.setenv("LLM_GATEWAY_PROJECT_WEIGHTS", "a=2, b=0.5")

    settings = LlmGatewaySettings()  # type: ignore[call-arg]

    assert [settings.project_weight(project) for project in "abc"] == [2.0, 0.5, 1.0]
