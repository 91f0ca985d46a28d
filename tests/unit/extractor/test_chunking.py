import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.extractor.domain.chunking import Chunk, split

WORDS = (
    "the harbour opened in spring and a pilot counted ships",
    "near old stone walls while rain fell",
)


def _sentence(rng: random.Random) -> str:
    return (
        " ".join(rng.choices(" ".join(WORDS).split(), k=rng.randint(6, 18))).capitalize() + f" {rng.randint(1, 9999)}."
    )


def _document(seed: int, *, chunks: int) -> str:
    """About `chunks` chunks of prose, with headings now and then."""
    rng = random.Random(seed)
    paragraphs: list[str] = []
    while sum(map(len, paragraphs)) < chunks * 2000:
        if rng.random() < 0.08:
            paragraphs.append(f"## Section {rng.randint(1, 10**6)}")
        paragraphs.append(" ".join(_sentence(rng) for _ in range(rng.randint(2, 9))))
    return "\n\n".join(paragraphs)


def _check_invariants(text: str, chunks: list[Chunk], *, max_chars: int) -> None:
    position = 0
    for index, chunk in enumerate(chunks):
        stretch = text[chunk.start : chunk.end]
        assert chunk.index == index
        assert text[position : chunk.start].strip() == ""
        assert stretch == stretch.strip() != ""
        assert len(stretch) <= max_chars
        assert chunk.content_hash == hashlib.sha256(stretch.encode()).digest()
        position = chunk.end
    assert text[position:].strip() == ""


@given(st.text(alphabet=st.sampled_from("ab .\n#。é\u0301👩\u200d"), max_size=400))
@settings(max_examples=300)
def test_chunks_cover_all_but_white_space_in_order(text: str) -> None:
    _check_invariants(text, split(text, target_chars=40, max_chars=80), max_chars=80)


@pytest.mark.parametrize("text", ["", " \n\t ", "\n\n\n"])
def test_blank_text_has_no_chunks(text: str) -> None:
    assert split(text) == []


def test_chunks_are_near_the_target() -> None:
    text = _document(1, chunks=200)

    chunks = split(text)

    _check_invariants(text, chunks, max_chars=4000)
    assert 1000 <= len(text) / len(chunks) <= 3000


def test_a_text_without_any_boundary_is_cut_all_the_same() -> None:
    text = "漢" * 25_000

    _check_invariants(text, split(text), max_chars=4000)


def test_a_cut_never_tears_a_joined_emoji() -> None:
    family = "👩\u200d👩\u200d👧"
    text = family * 3000

    assert all(text[chunk.start] == "👩" for chunk in split(text))


@pytest.mark.parametrize("seed", range(25))
def test_editing_one_sentence_of_a_long_document_changes_at_most_three_chunks(seed: int) -> None:
    text = _document(seed, chunks=1000)
    rng = random.Random(seed)
    begin = text.index(". ", rng.randrange(len(text) - 5000)) + 2
    finish = text.index(".", begin) + 1
    edited = text[:begin] + _sentence(rng) + text[finish:]
    inserted = text[:begin] + _sentence(rng) + " " + text[begin:]

    known = {chunk.content_hash for chunk in split(text)}

    for changed in (edited, inserted):
        assert len([chunk for chunk in split(changed) if chunk.content_hash not in known]) <= 3


def test_heading_path_names_the_headings_above() -> None:
    body = "A sentence about nothing in particular. " * 40
    text = f"# Ships\n\n{body}\n\n## Sail ##\n\n{body}\n\n# Harbours\n\n{body}"

    paths = [chunk.heading_path for chunk in split(text)]

    assert paths[0] == ("Ships",)
    assert ("Ships", "Sail") in paths
    assert paths[-1] == ("Harbours",)
