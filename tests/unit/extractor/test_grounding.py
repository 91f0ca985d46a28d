from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor.domain.chunking import Chunk, split
from services.extractor.domain.grounding import GroundedChunk, GroundingPolicy, ground
from services.extractor.domain.schema import ExtractionSchema, FieldGroup
from services.extractor.domain.templates import TEMPLATES

DEFAULT = TEMPLATES["default"].schema
TEXT = "Preface. The Torvik  Bridge — “the old lady” —\nwas opened by Queen Maud in 1931 and cost 1,250,000 crowns."
QUOTE = "The Torvik  Bridge — “the old lady” —\nwas opened by Queen Maud in 1931"

SHIPS = ExtractionSchema(
    groups=(
        FieldGroup(
            name="ships",
            item_schema=(
                '{"type": "object", "properties": {"name": {"type": "string"}, "tons": {"type": "number"}, '
                '"steam": {"type": "boolean"}, "owners": {"type": "array", "items": {"type": "string"}}}}'
            ),
            key_fields=("name",),
        ),
    )
)


def _ground(
    answer: dict[str, Any],
    *,
    text: str = TEXT,
    schema: ExtractionSchema = DEFAULT,
    policy: GroundingPolicy = GroundingPolicy.DROP,
) -> GroundedChunk:
    (chunk,) = split(text)
    return ground(answer, schema=schema, policy=policy, text=text, chunk=chunk)


def _fact(**changes: str) -> dict[str, str]:
    return {
        "subject": "The Torvik  Bridge",
        "predicate": "was opened by",
        "object": "Queen Maud",
        "statement": "The Torvik Bridge was opened by Queen Maud in 1931.",
        "category": "event",
        "quote": QUOTE,
        **changes,
    }


def test_every_span_is_the_authors_text() -> None:
    (item,) = _ground({"facts": [_fact()]}).items

    assert TEXT[item.start : item.end] == QUOTE
    assert {v.name: TEXT[v.start : v.end] for v in item.values} == {
        "subject": "The Torvik  Bridge",
        "predicate": "was opened by",
        "object": "Queen Maud",
    }
    assert item.category == "event"
    assert item.confidence == 1.0


def test_white_space_case_and_typography_are_set_aside_but_never_stored() -> None:
    sloppy = 'the torvik bridge - "the old lady" - was opened by Queen Maud in 1931'

    (item,) = _ground({"facts": [_fact(quote=sloppy, subject="torvik bridge")]}).items

    assert TEXT[item.start : item.end] == QUOTE
    assert item.confidence < 1.0


@pytest.mark.parametrize("quote", ["", "was opened by Queen Maud in 1932", "Queen Maud opened it"])
def test_an_item_without_a_verbatim_quote_is_dropped_and_counted(quote: str) -> None:
    grounded = _ground({"facts": [_fact(quote=quote)]}, policy=GroundingPolicy.MARK)

    assert grounded.items == ()
    assert grounded.ungrounded_count == 1


def test_a_key_value_outside_its_quote_drops_the_item() -> None:
    grounded = _ground({"facts": [_fact(object="King Haakon")]})

    assert grounded.items == ()
    assert grounded.ungrounded_count == 1


def test_a_value_outside_its_quote_is_marked_when_the_policy_says_so() -> None:
    grounded = _ground({"facts": [_fact(object="King Haakon")]}, policy=GroundingPolicy.MARK)

    (item,) = grounded.items
    assert [(v.start, v.end) for v in item.values if v.name == "object"] == [(None, None)]
    assert grounded.ungrounded_count == 1
    assert item.confidence < 1.0


def test_a_quote_outside_the_chunk_is_not_support() -> None:
    text = f"{TEXT} The end was near."
    (whole,) = split(text)
    chunk = Chunk(index=0, start=0, end=20, heading_path=(), content_hash=whole.content_hash)

    grounded = ground({"facts": [_fact()]}, schema=DEFAULT, policy=GroundingPolicy.DROP, text=text, chunk=chunk)

    assert grounded.items == ()


@pytest.mark.parametrize(
    "statement",
    ["", "Aliens built a pyramid near the river.", "The Torvik Bridge was opened by Queen Maud in 1932."],
)
def test_a_statement_that_says_more_than_its_quote_is_replaced_by_the_quote(statement: str) -> None:
    (item,) = _ground({"facts": [_fact(statement=statement)]}).items

    assert item.statement == "The Torvik Bridge — “the old lady” — was opened by Queen Maud in 1931"


def test_the_same_fact_twice_is_one_item() -> None:
    grounded = _ground({"facts": [_fact(), _fact(subject="the torvik bridge", object="QUEEN MAUD")]})

    assert len(grounded.items) == 1


def test_entities_carry_every_mention() -> None:
    text = "Maud met Maudsley. Later Maud left."

    (entity,) = _ground({"entities": [{"name": "Maud", "type": "person", "quote": "Maud"}]}, text=text).entities

    assert [text[start:end] for start, end in entity.mentions] == ["Maud", "Maud"]


def test_an_entity_that_the_text_does_not_name_is_dropped_and_counted() -> None:
    grounded = _ground({"entities": [{"name": "Haakon", "type": "person", "quote": "Haakon"}]})

    assert grounded.entities == ()
    assert grounded.ungrounded_count == 1


@pytest.mark.parametrize(("tons", "kept"), [(1250.5, True), (12505, False), (1.25, False), (1250, False)])
def test_numbers_are_compared_by_size_and_not_by_spelling(tons: float, *, kept: bool) -> None:
    text = "The steamer Concordia of 1.250,5 tons belonged to Holm and Falk."
    ship = {"name": "Concordia", "tons": tons, "steam": True, "owners": ["Holm", "Falk"], "quote": text}

    (item,) = _ground({"ships": [ship]}, text=text, schema=SHIPS).items

    assert ("tons" in {v.name for v in item.values}) is kept
    assert [text[v.start : v.end] for v in item.values if v.name == "owners"] == ["Holm and Falk"]


@pytest.mark.parametrize(
    ("tons", "written"), [(1000, "1,000"), (1000, "1 000"), (1000.0, "1.000"), (10, "10"), (0.5, "0.5")]
)
def test_separators_of_many_countries_are_read(tons: float, written: str) -> None:
    text = f"Concordia had {written} tons."
    ship = {"name": "Concordia", "tons": tons, "quote": text}

    (item,) = _ground({"ships": [ship]}, text=text, schema=SHIPS).items

    assert [text[v.start : v.end] for v in item.values if v.name == "tons"] == [written]


PIECES = st.sampled_from(["é", "e\u0301", "👩\u200d🔬", "漢字", "नि", "a", " ", "\n", ".", "Ship", "’", "ẞ", "İ"])


@given(st.lists(PIECES, max_size=30), st.lists(PIECES, min_size=1, max_size=8), st.lists(PIECES, max_size=30))
def test_a_planted_quote_is_found_code_point_for_code_point(
    before: list[str], planted: list[str], after: list[str]
) -> None:
    quote = "".join(planted).strip()
    text = "x" + "".join(before) + quote + "".join(after) + "x"
    if not quote:
        return
    chunk = Chunk(index=0, start=0, end=len(text), heading_path=(), content_hash=b"")
    answer = {"ships": [{"name": quote, "quote": quote}]}

    (item,) = ground(answer, schema=SHIPS, policy=GroundingPolicy.DROP, text=text, chunk=chunk).items

    assert text[item.start : item.end] == quote
