"""The schemas that come with the extractor."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.extractor.domain.schema import ExtractionSchema, FieldGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    name: str
    description: str
    schema: ExtractionSchema


def _item(properties: Mapping[str, Mapping[str, Any]]) -> str:
    return json.dumps(
        {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    )


def _enum(*values: str) -> dict[str, object]:
    return {"type": "string", "enum": list(values)}


_TEXT: Final[Mapping[str, Any]] = {"type": "string", "minLength": 1, "maxLength": 2000}

_FACTS: Final = FieldGroup(
    name="facts",
    description=(
        "Statements that the document makes about the world, one per item. subject and object are copied from the "
        "quote, predicate is the verb phrase between them; statement is the fact as one sentence that can be "
        "understood alone."
    ),
    item_schema=_item(
        {
            "subject": _TEXT,
            "predicate": _TEXT,
            "object": _TEXT,
            "statement": _TEXT,
            "category": _enum("definition", "event", "property", "relation", "quantity", "location", "other"),
        }
    ),
    key_fields=("subject", "predicate", "object"),
    statement_field="statement",
)

_ENTITIES: Final = FieldGroup(
    name="entities",
    description="People, organisations, places, dates, quantities and works that the document names.",
    item_schema=_item(
        {
            "name": _TEXT,
            "type": _enum("person", "organization", "place", "date", "quantity", "work", "other"),
        }
    ),
    key_fields=("type", "name"),
    entities=True,
)

TEMPLATES: Final[Mapping[str, Template]] = {
    template.name: template
    for template in (
        Template(
            name="default",
            description="Facts as subject, predicate and object, with the entities that they name. Fits any prose.",
            schema=ExtractionSchema(template="default", groups=(_FACTS, _ENTITIES)),
        ),
    )
}
