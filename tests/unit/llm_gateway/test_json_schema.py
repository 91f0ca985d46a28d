import json

import pytest

from services.llm_gateway.adapters.json_schema import JsonSchemaChecker
from services.llm_gateway.application.ports import Verdict
from services.llm_gateway.domain.calls import JsonSchema
from services.shared.errors import InvalidRequest

SCHEMA = JsonSchema(
    name="facts",
    schema=json.dumps({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}),
)


def test_valid_output_is_left_alone() -> None:
    assert JsonSchemaChecker().check('{"a": [1]}', SCHEMA) == Verdict()


def test_repair_counts_only_if_the_result_matches_the_schema() -> None:
    checker = JsonSchemaChecker()

    assert checker.check('{"a": [1,]}', SCHEMA).repaired == '{"a":[1]}'
    problem = checker.check('{"a": ["x",]}', SCHEMA).problem
    assert problem is not None
    assert "not JSON" in problem.description


def test_problem_names_the_place() -> None:
    problem = JsonSchemaChecker().check('{"a": [1, "x"]}', SCHEMA).problem

    assert problem is not None
    assert problem.path == "/a/1"


@pytest.mark.parametrize("schema", ["{", '{"type": "wrong"}', '{"$ref": "https://example.com/s.json"}'])
def test_schema_that_is_none_is_refused_without_leaving_the_process(schema: str) -> None:
    with pytest.raises(InvalidRequest):
        JsonSchemaChecker().require_valid(JsonSchema(name="x", schema=schema))
