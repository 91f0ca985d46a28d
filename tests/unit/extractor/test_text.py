from hypothesis import given
from hypothesis import strategies as st

from services.extractor.domain.text import normalise


def test_line_endings_become_newlines() -> None:
    assert normalise("a\r\nb\rc\u2028d\x0ce") == "a\nb\nc\nd\ne"


def test_control_characters_and_byte_order_marks_go() -> None:
    assert normalise("\ufeffa\x00b\x07c\x9bd") == "abcd"


def test_composition_emoji_and_joiners_stay_as_written() -> None:
    text = "e\u0301 é 👩\u200d🔬 🏳\ufe0f\u200d🌈 अ\u093f"

    assert normalise(text) == text


def test_unpaired_surrogates_become_replacement_characters() -> None:
    assert normalise("a\ud800b") == "a\ufffdb"


@given(st.text())
def test_normalise_is_idempotent(raw: str) -> None:
    once = normalise(raw)

    assert normalise(once) == once
    assert "\x00" not in once
    once.encode()
