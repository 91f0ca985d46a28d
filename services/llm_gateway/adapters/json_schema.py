"""Checks structured output with jsonschema-rs; compiled schemas are cached by their text."""

from functools import lru_cache

import jsonschema_rs
import orjson

from services.llm_gateway.application.ports import Problem, Verdict
from services.llm_gateway.domain.calls import JsonSchema
from services.llm_gateway.domain.json_repair import repaired
from services.shared.errors import InvalidRequest

_CACHED_SCHEMAS = 256
_MAX_DESCRIPTION = 300


class JsonSchemaChecker:
    def __init__(self) -> None:
        self._compiled = lru_cache(maxsize=_CACHED_SCHEMAS)(_compile)

    def check(self, output: str, schema: JsonSchema) -> Verdict:
        validator = self._compiled(schema.schema)
        problem = _problem(validator, output)
        if problem is None:
            return Verdict()
        whole = repaired(output)
        if whole is not None and _problem(validator, whole) is None:
            return Verdict(repaired=whole)
        return Verdict(problem=problem)

    def require_valid(self, schema: JsonSchema) -> None:
        self._compiled(schema.schema)


def _compile(text: str) -> jsonschema_rs.Validator:
    """References to other documents are refused: they would make the gateway fetch what a caller names."""
    try:
        return jsonschema_rs.validator_for(orjson.loads(text), offline=True)
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise InvalidRequest.of("output_format.json_schema.schema", "is not a valid JSON Schema") from error


def _problem(validator: jsonschema_rs.Validator, output: str) -> Problem | None:
    try:
        value = orjson.loads(output)
    except orjson.JSONDecodeError as error:
        return Problem(path="", description=f"not JSON at line {error.lineno}, column {error.colno}")
    try:
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        path = "".join(f"/{part}" for part in error.instance_path)
        return Problem(path=path, description=error.message[:_MAX_DESCRIPTION])
    return None
