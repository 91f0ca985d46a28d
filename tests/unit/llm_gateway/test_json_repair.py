import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm_gateway.domain.json_repair import repaired

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)
documents = st.dictionaries(st.text(max_size=6), values, min_size=1, max_size=4) | st.lists(values, min_size=1)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Sure! Here it is: {"a": [1, 2,],} Anything else?', {"a": [1, 2]}),
        ('{"a": True, "b": None}', {"a": True, "b": None}),
        ('{"a": [1 2 "x" {"y": 3}]}', {"a": [1, 2, "x", {"y": 3}]}),
        ('{"a": "line\nbreak"}', {"a": "line\nbreak"}),
        ('{"facts": [{"s": "x"}, {"s": "y"}, {"s": "z', {"facts": [{"s": "x"}, {"s": "y"}]}),
        ('{"facts": [{"s": "x", "o": ', {}),
        ('{"done": 1, "broken": {"b": 1, "c"', {"done": 1}),
        ('[{"a": "}"}, {"b": "\\"]"}]', [{"a": "}"}, {"b": '"]'}]),
    ],
)
def test_usual_faults_of_models_are_repaired(given_text: str, expected: object) -> None:
    assert json.loads(repaired(given_text) or "") == expected


@pytest.mark.parametrize("text", ["", "no json here", '"just a string"', "42"])
def test_text_without_an_object_or_array_is_given_up(text: str) -> None:
    assert repaired(text) is None


@given(documents)
def test_valid_json_keeps_its_meaning(document: object) -> None:
    assert json.loads(repaired(f"Text before {json.dumps(document)} and after") or "") == document


@given(documents, st.data())
def test_json_that_breaks_off_becomes_valid_json_again(document: object, data: st.DataObject) -> None:
    text = json.dumps(document)
    cut = data.draw(st.integers(1, len(text)))

    assert isinstance(json.loads(repaired(text[:cut]) or ""), type(document))


@given(st.text(alphabet='{}[]":,\\ntrue1 '))
def test_any_text_is_survived(text: str) -> None:
    repaired(text)
