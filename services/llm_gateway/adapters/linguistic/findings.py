"""What the linguistic provider finds in a text, with offsets into that text.

Quotes are never carried as strings: a finding holds `[start, end)` in code points of the
document as it was sent, so a quote cannot differ from the source.
"""

from dataclasses import dataclass
from enum import StrEnum


class Category(StrEnum):
    DEFINITION = "definition"
    EVENT = "event"
    PROPERTY = "property"
    RELATION = "relation"
    QUANTITY = "quantity"
    LOCATION = "location"
    OTHER = "other"


class EntityType(StrEnum):
    PERSON = "person"
    ORGANIZATION = "organization"
    PLACE = "place"
    DATE = "date"
    QUANTITY = "quantity"
    WORK = "work"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    subject: str
    predicate: str
    object: str
    statement: str
    category: Category
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    name: str
    type: EntityType
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    facts: tuple[Fact, ...] = ()
    entities: tuple[Entity, ...] = ()
