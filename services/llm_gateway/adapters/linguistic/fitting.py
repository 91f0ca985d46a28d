"""Fits findings into the JSON Schema of a request, as far as its shape allows.

A list property whose items have `subject`, `predicate`, `object` or `statement` takes the
facts, one whose items have `name` the entities; of each item only the properties that the
schema names are filled. Lists that are neither stay empty. A schema that has a place for
neither facts nor entities is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from services.llm_gateway.domain.errors import ProviderRejection

_FACT_SIGNS = frozenset({"subject", "predicate", "object", "statement"})
_ENTITY_SIGNS = frozenset({"name"})

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _List:
    """One list property of the output."""

    name: str
    kind: str
    fields: Mapping[str, Json]
    required: frozenset[str]
    limit: int | None


class Fitting:
    """Raises `ProviderRejection` when the schema has no place for what the provider finds."""

    def __init__(self, schema: str) -> None:
        root = _object(orjson.loads(schema))
        definitions = {**_object(root.get("definitions")), **_object(root.get("$defs"))}
        self._lists = [
            found
            for name, value in _object(root.get("properties")).items()
            if (found := _list(name, _resolved(value, definitions), definitions)) is not None
        ]
        if not any(each.kind for each in self._lists):
            raise ProviderRejection(
                "the linguistic provider fills lists of facts (subject, predicate, object, statement) and of "
                "entities (name, type) only; this schema has neither, so configure a language model for it"
            )

    def output(self, *, facts: Sequence[Json], entities: Sequence[Json]) -> Json:
        """`facts` and `entities` are objects with all the properties that the provider knows."""
        sources: dict[str, Sequence[Json]] = {"facts": facts, "entities": entities}
        return {each.name: list(_items(each, sources.get(each.kind, ()))) for each in self._lists}


def _list(name: str, schema: Json, definitions: Json) -> _List | None:
    items = _resolved(schema.get("items"), definitions)
    if schema.get("type") != "array":
        return None
    fields = {key: _resolved(value, definitions) for key, value in _object(items.get("properties")).items()}
    kind = "facts" if _FACT_SIGNS & fields.keys() else "entities" if _ENTITY_SIGNS & fields.keys() else ""
    return _List(
        name=name,
        kind=kind,
        fields=fields,
        required=frozenset(cast("list[str]", items.get("required") or [])),
        limit=schema.get("maxItems"),
    )


def _items(target: _List, sources: Sequence[Json]) -> Iterator[Json]:
    taken = 0
    for source in sources:
        if target.limit is not None and taken >= target.limit:
            return
        item = {
            name: source[name] for name, rule in target.fields.items() if name in source and _fits(source[name], rule)
        }
        for name in target.fields.keys() & source.keys() - item.keys():
            if "other" in cast("list[object]", target.fields[name].get("enum") or []):
                item[name] = "other"
        if target.required <= item.keys():
            taken += 1
            yield item


def _fits(value: str, rule: Json) -> bool:
    allowed = cast("list[object] | None", rule.get("enum"))
    kinds = rule.get("type", "string")
    is_string = kinds == "string" or (isinstance(kinds, list) and "string" in kinds)
    shortest, longest = rule.get("minLength", 0), rule.get("maxLength", len(value))
    return is_string and (allowed is None or value in allowed) and shortest <= len(value) <= longest


def _resolved(schema: object, definitions: Json) -> Json:
    """Follows one local `$ref`."""
    found = _object(schema)
    reference = str(found.get("$ref", ""))
    return _object(definitions.get(reference.rpartition("/")[2])) if reference else found


def _object(value: object) -> Json:
    return cast("Json", value) if isinstance(value, dict) else {}
