"""The JSON of messages."""

from google.protobuf.timestamp_pb2 import Timestamp
from scristill.extractor.v1.extraction_pb2 import Extraction, FieldValue, SourceQuote
from scristill.extractor.v1.source_pb2 import Source, SourceState
from scristill.indexer.v1.fact_pb2 import FactContent
from scristill.scheduler.v1.scheduler_service_pb2 import QueueStats

from services.cli.documents import document, enum_name


def test_every_field_is_present_under_its_name_in_the_contract() -> None:
    made = document(Source())

    assert list(made) == [field.name for field in Source.DESCRIPTOR.fields]
    assert made["uri"] == ""
    assert made["create_time"] is None


def test_numbers_stay_numbers_and_bytes_are_hexadecimal() -> None:
    made = document(Source(size_bytes=2**53 + 1, content_hash=b"\x00\xff"))

    assert made["size_bytes"] == 2**53 + 1
    assert made["content_hash"] == "00ff"


def test_enum_values_lose_their_prefix_and_unknown_ones_are_kept_as_numbers() -> None:
    assert document(Source(state=SourceState.SOURCE_STATE_PARTIAL))["state"] == "PARTIAL"
    assert document(Source())["state"] == "UNSPECIFIED"
    assert enum_name(SourceState.DESCRIPTOR, 99) == "99"


def test_times_are_rfc3339_and_durations_seconds() -> None:
    stats = QueueStats()
    stats.oldest_ready_age.FromMilliseconds(1500)

    assert document(stats)["oldest_ready_age"] == 1.5
    assert document(Source(create_time=Timestamp(seconds=0, nanos=5_000_000)))["create_time"] == (
        "1970-01-01T00:00:00.005Z"
    )


def test_nested_messages_lists_and_maps_are_followed() -> None:
    fact = Extraction(values=[FieldValue(name="subject", quote=SourceQuote(text="x", start=1, end=2))])

    assert document(fact)["values"][0]["quote"]["end"] == 2
    assert document(FactContent(fields={"b": "2", "a": "1"}))["fields"] == {"a": "1", "b": "2"}
