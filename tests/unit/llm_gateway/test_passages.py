import re

from hypothesis import given
from hypothesis import strategies as st

from services.llm_gateway.adapters.linguistic.passages import passages

DOCUMENT = """# Heading that is no fact

The *Torvik Bridge* is a [suspension bridge](https://example.org/a "b") in
western **Norway**.[1]

| span | metres |
|------|--------|
| main | 348    |

- The first item is a sentence.
- The second item is another one.

```python
this_is = "code"
```

Copyright 2026 Somebody. All rights reserved.

Setext title
============

> A quoted line that goes
> on in the next.

Home
"""


def texts(document: str) -> list[str]:
    return [passage.text for passage in passages(document)]


def test_prose_is_kept_without_markup_and_everything_else_is_left_out() -> None:
    assert texts(DOCUMENT) == [
        "The Torvik Bridge is a suspension bridge in western Norway.",
        "The first item is a sentence.",
        "The second item is another one.",
        "A quoted line that goes on in the next.",
    ]


def test_title_above_its_paragraph_is_left_out() -> None:
    document = "Finances\nRashid Karim presented the third quarter, and the board approved\nthe report."

    assert texts(document) == ["Rashid Karim presented the third quarter, and the board approved the report."]


def test_span_covers_markup_and_line_breaks_of_the_document() -> None:
    passage = next(passages(DOCUMENT))
    start = passage.text.index("suspension")

    found = passage.span(start, len(passage.text))

    assert DOCUMENT[slice(*found)] == ('suspension bridge](https://example.org/a "b") in\nwestern **Norway**.')


def test_emoji_are_hidden_from_the_parser_but_shown_and_quoted() -> None:
    document = "Each sticker shows a family 👨‍👩‍👧‍👦 under one umbrella 🏴󠁧󠁢󠁳󠁣󠁴󠁿."
    (passage,) = passages(document)

    assert passage.text == "Each sticker shows a family under one umbrella ."
    assert passage.display(0, len(passage.text)) == document
    assert document[slice(*passage.span(0, len(passage.text)))] == document


def test_span_takes_the_marks_of_its_last_character_along() -> None:
    document = "The café is in Ha Noi\u0323\u0302, they said to the visitors."
    (passage,) = passages(document)
    end = passage.text.index("Noi") + 3

    start, stop = passage.span(0, end)

    assert document[start:stop] == "The café is in Ha Noi\u0323\u0302"


def test_long_passages_are_cut_between_sentences() -> None:
    document = " ".join(f"Sentence number {number} says a little about the bridge." for number in range(100))

    found = texts(document)

    assert len(found) > 1
    assert all(len(each) < 1400 and each.strip().endswith(".") for each in found)
    assert " ".join(each.strip() for each in found) == document


def test_code_between_lines_of_prose_is_left_out() -> None:
    document = (
        "def open_lock(self, *, slowly=False):\n    The lock is opened by hand.\n    self.gate = Gate(open=True)\n"
        "    return self.gate\nThe keeper walks\nfrom the lock to the mill.\n"
    )

    assert texts(document) == [
        "The lock is opened by hand.",
        "The keeper walks from the lock to the mill.",
    ]


@given(st.text(alphabet=st.sampled_from("aB cd.\n-*_[]()#>`|👨\u200d👩é\u0301é中文。，1 \t"), max_size=200))
def test_every_character_of_a_passage_stands_at_its_origin(document: str) -> None:
    for passage in passages(document):
        assert len(passage.text) == len(passage.origin)
        assert passage.origin == sorted(set(passage.origin))
        for character, at in zip(passage.text, passage.origin, strict=True):
            assert document[at] == character or (document[at].isspace() and character == " ")
        start, end = passage.span(0, len(passage.text))
        assert 0 <= start < end <= len(document)
        assert not re.search(r"\s\s|^\s|\s$", passage.display(0, len(passage.text)))
