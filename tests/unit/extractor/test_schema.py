import json
from dataclasses import replace

import pytest

from services.extractor.domain.errors import SchemaInvalid
from services.extractor.domain.schema import ExtractionSchema, FieldGroup, instructions, output_schema, validate
from services.extractor.domain.templates import TEMPLATES

DEFAULT = TEMPLATES["default"].schema
ITEM = (
    '{"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "array", "items": {"type": "number"}}}}'
)


def _schema(**changes: object) -> ExtractionSchema:
    return ExtractionSchema(groups=(replace(FieldGroup(name="things", item_schema=ITEM), **changes),))  # pyright: ignore[reportArgumentType]


def test_every_template_is_valid() -> None:
    for template in TEMPLATES.values():
        validate(template.schema)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"item_schema": "{"}, "item_schema"),
        ({"item_schema": '{"type": "string"}'}, "item_schema"),
        ({"item_schema": '{"type": "object"}'}, "item_schema"),
        ({"item_schema": '{"type": "object", "properties": {"a": {"type": "object"}}}'}, "item_schema"),
        ({"item_schema": '{"type": "object", "properties": {"a": {"type": "array"}}}'}, "item_schema"),
        ({"key_fields": ("missing",)}, "key_fields"),
        ({"statement_field": "missing"}, "statement_field"),
        ({"entities": True}, "item_schema"),
    ],
)
def test_a_bad_group_is_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(SchemaInvalid) as caught:
        validate(_schema(**changes))

    assert [violation.field for violation in caught.value.field_violations] == [f"schema.groups[0].{field}"]


def test_two_groups_with_one_name_are_refused() -> None:
    group = FieldGroup(name="things", item_schema=ITEM)

    with pytest.raises(SchemaInvalid):
        validate(ExtractionSchema(groups=(group, group)))


def test_every_item_of_the_answer_must_have_a_quote() -> None:
    answer = json.loads(output_schema(_schema()))

    item = answer["properties"]["things"]["items"]
    assert item["properties"]["quote"] == {"type": "string", "minLength": 1}
    assert "quote" in item["required"]
    assert answer["required"] == ["things"]


def test_the_fingerprint_follows_what_the_model_is_told() -> None:
    assert _schema().fingerprint == _schema(key_fields=("a",)).fingerprint
    assert _schema().fingerprint != _schema(description="other").fingerprint
    assert _schema().fingerprint != replace(_schema(), instructions="shout").fingerprint


def test_instructions_describe_each_group() -> None:
    told = instructions(replace(DEFAULT, instructions="Only ships."))

    assert "facts: " in told
    assert "entities: " in told
    assert told.endswith("Only ships.")
