"""What reaches the terminal."""

import io
import json

import pytest

from services.cli.output import Mode, Output, harmless


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\n  lines\t", "two lines"),
        ("\x1b[31mred", "\N{REPLACEMENT CHARACTER}[31mred"),
        ("a\x9bb", "a\N{REPLACEMENT CHARACTER}b"),
        ("abc\N{RIGHT-TO-LEFT OVERRIDE}txt", "abc\N{REPLACEMENT CHARACTER}txt"),
        ("湖泊 naïve 👩\N{ZERO WIDTH JOINER}🔬", "湖泊 naïve 👩\N{ZERO WIDTH JOINER}🔬"),
        ("\udce9", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_text_of_documents_cannot_steer_the_terminal(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_json_mode_prints_documents_and_nothing_else_on_standard_output() -> None:
    stdout, stderr = io.StringIO(), io.StringIO()
    output = Output(Mode(json=True), stdout=stdout, stderr=stderr)

    output.document({"a": 1})
    output.show("a table")
    output.note("a remark")

    assert json.loads(stdout.getvalue()) == {"a": 1}
    assert stderr.getvalue() == "a remark\n"


def test_markup_and_emoji_codes_in_text_stand_as_they_are() -> None:
    stdout = io.StringIO()

    Output(Mode(), stdout=stdout).show("[bold]:warning: /a/[1].md")

    assert stdout.getvalue() == "[bold]:warning: /a/[1].md\n"


def test_long_lines_are_not_folded_in_a_pipe() -> None:
    stdout = io.StringIO()

    Output(Mode(), stdout=stdout).show("word " * 100)

    assert stdout.getvalue().count("\n") == 1
