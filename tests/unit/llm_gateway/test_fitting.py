import json

import pytest

from services.llm_gateway.adapters.linguistic.fitting import Fitting
from services.llm_gateway.domain.errors import ProviderRejection

FACT = {"subject": "s", "predicate": "p", "object": "o", "statement": "s p o.", "category": "event", "quote": "s p o"}
ENTITY = {"name": "n", "type": "person", "quote": "n"}


def schema(**lists: object) -> str:
    return json.dumps({"type": "object", "properties": lists})


def items(**properties: object) -> dict[str, object]:
    return {"type": "array", "items": {"type": "object", "properties": properties}}


def fit(text: str) -> dict[str, object]:
    return Fitting(text).output(facts=[FACT, FACT], entities=[ENTITY])


TEXT = {"type": "string"}


def test_only_properties_of_the_schema_are_filled() -> None:
    found = fit(schema(facts=items(subject=TEXT, object=TEXT, colour=TEXT), entities=items(name=TEXT)))

    assert found == {"facts": [{"subject": "s", "object": "o"}] * 2, "entities": [{"name": "n"}]}


def test_lists_are_known_by_their_items_not_their_names() -> None:
    assert fit(schema(claims=items(statement=TEXT, quote=TEXT))) == {
        "claims": [{"statement": "s p o.", "quote": "s p o"}] * 2
    }


def test_references_are_followed() -> None:
    text = json.dumps(
        {
            "type": "object",
            "properties": {"facts": {"type": "array", "items": {"$ref": "#/$defs/Fact"}}},
            "$defs": {"Fact": {"type": "object", "properties": {"statement": TEXT}}},
        }
    )

    assert fit(text) == {"facts": [{"statement": "s p o."}] * 2}


def test_value_outside_an_enumeration_becomes_other_if_there_is_one() -> None:
    other = fit(schema(facts=items(subject=TEXT, category={"enum": ["definition", "other"]})))
    none = fit(schema(facts=items(subject=TEXT, category={"enum": ["definition"]})))

    assert other == {"facts": [{"subject": "s", "category": "other"}] * 2}
    assert none == {"facts": [{"subject": "s"}] * 2}


def test_item_that_cannot_have_a_required_property_is_left_out() -> None:
    facts = items(subject=TEXT, confidence={"type": "number"})
    facts["items"]["required"] = ["confidence"]  # type: ignore[index]

    assert fit(schema(facts=facts)) == {"facts": []}


def test_limits_of_the_schema_hold() -> None:
    found = fit(
        schema(
            facts={**items(subject=TEXT), "maxItems": 1},
            entities=items(name=TEXT, type={"type": "string", "maxLength": 3}),
        )
    )

    assert found == {"facts": [{"subject": "s"}], "entities": [{"name": "n"}]}


def test_lists_of_another_kind_stay_empty() -> None:
    assert fit(schema(facts=items(subject=TEXT), events=items(when=TEXT))) == {
        "facts": [{"subject": "s"}] * 2,
        "events": [],
    }


@pytest.mark.parametrize(
    "text", ["{}", '{"type": "string"}', schema(events=items(when=TEXT)), schema(total={"type": "number"})]
)
def test_schema_without_a_place_for_facts_or_entities_is_refused(text: str) -> None:
    with pytest.raises(ProviderRejection, match="configure a language model"):
        Fitting(text)
