"""From chunks to facts: merging, identity, content hash, results that move with their chunk."""

from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from services.extractor.domain.chunk import decode, encode
from services.extractor.domain.facts import CONTEXT_CHARS, ChunkFindings, Distillate, distil
from services.extractor.domain.grounding import GroundedChunk, GroundedEntity, GroundedItem, GroundedValue
from services.extractor.domain.source import SourceVersion, VersionRef, title_from_uri

TEXT = "Before it. Ada wrote programs. Grace found bugs. After it."
SOURCE = SourceVersion(
    ref=VersionRef(source_id=UUID(int=1), version=1, job_id=UUID(int=2), fence=1),
    project_id=UUID(int=3),
    incarnation=UUID(int=4),
    uri="file:///a.txt",
    title="a",
    group="",
    media_type="text/plain",
    content=b"",
    text=TEXT,
    published=False,
)


def _item(quote: str, *, key: str = "", confidence: float = 1.0, text: str = TEXT) -> GroundedItem:
    start = text.index(quote)
    return GroundedItem(
        group="facts",
        item_key=key or quote,
        statement=quote,
        category="other",
        values=(GroundedValue(name="subject", value=quote.split(maxsplit=1)[0], start=start, end=start + 3),),
        start=start,
        end=start + len(quote),
        confidence=confidence,
    )


def _entity(name: str, *, text: str = TEXT) -> GroundedEntity:
    start = text.index(name)
    return GroundedEntity(group="entities", name=name, type="person", mentions=((start, start + len(name)),))


def _distil(*chunks: GroundedChunk, source: SourceVersion = SOURCE, text: str = TEXT) -> Distillate:
    findings = [ChunkFindings(chunk_index=index, model="m", grounded=grounded) for index, grounded in enumerate(chunks)]
    return distil(findings, source=source, text=text)


def test_of_the_same_fact_in_two_chunks_the_better_supported_one_stays() -> None:
    weak = GroundedChunk(items=(_item("Ada wrote programs.", key="k", confidence=0.5),))
    strong = GroundedChunk(items=(_item("Grace found bugs.", key="k", confidence=0.9),))

    (fact,) = _distil(weak, strong).facts

    assert (fact.quote, fact.chunk_index) == ("Grace found bugs.", 1)


def test_entities_are_linked_to_the_quotes_that_name_them() -> None:
    chunk = GroundedChunk(
        items=(_item("Ada wrote programs."), _item("Grace found bugs.")),
        entities=(_entity("Grace"), _entity("Ada"), _entity("After")),
    )

    distillate = _distil(chunk)

    assert [fact.entities for fact in distillate.facts] == [("Ada",), ("Grace",)]
    assert {mention.name for mention in distillate.mentions} == {"Ada", "Grace", "After"}


def test_context_stops_at_the_ends_of_the_text() -> None:
    (fact,) = _distil(GroundedChunk(items=(_item("Ada wrote programs."),))).facts

    assert fact.context_before == "Before it. "
    assert TEXT.endswith(fact.context_after)
    assert len(fact.context_after) <= CONTEXT_CHARS


def test_the_content_hash_does_not_know_the_version_of_the_source() -> None:
    chunk = GroundedChunk(items=(_item("Ada wrote programs."),))
    later = replace(SOURCE, ref=replace(SOURCE.ref, version=9))

    assert _distil(chunk).facts == _distil(chunk, source=later).facts


def test_the_content_hash_knows_place_context_and_title() -> None:
    (fact,) = _distil(GroundedChunk(items=(_item("Ada wrote programs."),))).facts
    moved_text = f"Well. {TEXT}"
    (moved,) = _distil(GroundedChunk(items=(_item("Ada wrote programs.", text=moved_text),)), text=moved_text).facts
    nearby_text = TEXT.replace("After it", "After that")
    (nearby,) = _distil(GroundedChunk(items=(_item("Ada wrote programs.", text=nearby_text),)), text=nearby_text).facts
    (renamed,) = _distil(GroundedChunk(items=(_item("Ada wrote programs."),)), source=replace(SOURCE, title="b")).facts

    assert len({each.content_hash for each in (fact, moved, nearby, renamed)}) == 4
    assert fact.fact_id == moved.fact_id == nearby.fact_id == renamed.fact_id


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_a_result_moves_with_its_chunk(first: int, second: int) -> None:
    grounded = GroundedChunk(items=(_item("Ada wrote programs."),), entities=(_entity("Ada"),), ungrounded_count=2)

    there = decode(encode(grounded, start=first, model="m"), start=second)
    back = decode(encode(there, start=second, model="m"), start=first)

    assert back == grounded
    assert there.items[0].start - grounded.items[0].start == second - first


def test_a_document_without_a_title_is_called_by_its_address() -> None:
    assert title_from_uri("file:///notes/my%20day.md") == "my day.md"
    assert title_from_uri("https://example.org/") == "https://example.org/"
