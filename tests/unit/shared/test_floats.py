"""Vectors between messages and arrays."""

from array import array

import pytest
from scristill.indexer.v1 import fact_pb2

from services.shared.grpc.floats import fill_floats, read_floats


@pytest.mark.parametrize("size", [0, 1, 31, 32, 256, 4096])
def test_what_is_filled_in_is_read_back(size: int) -> None:
    values = array("f", [number / 7 for number in range(size)])
    message = fill_floats(fact_pb2.KnownVector(embedding_model="m"), 2, values)
    assert list(message.values) == list(values)
    assert message.embedding_model == "m"
    assert read_floats(message, message.values) == values


def test_bytes_are_the_floats_of_an_array() -> None:
    values = array("f", [1.5, -2.25])
    assert list(fill_floats(fact_pb2.KnownVector(), 2, values.tobytes()).values) == [1.5, -2.25]


def test_a_field_of_a_newer_version_is_not_read_as_numbers() -> None:
    newer = fact_pb2.KnownVector(embedding_model="m", values=[1.0, 2.0]).SerializeToString() + b"\x1a\x04abcd"
    message = fact_pb2.KnownVector.FromString(newer)
    assert list(read_floats(message, message.values)) == [1.0, 2.0]
