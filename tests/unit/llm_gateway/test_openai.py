from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm_gateway.adapters.openai import failures, prompts
from services.llm_gateway.adapters.openai.sse import EventStream
from services.llm_gateway.adapters.openai.strictness import is_strict
from services.llm_gateway.domain.calls import ChatMessage, Document, Prompt, Role
from services.llm_gateway.domain.errors import ProviderFailure, ProviderRejection

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@given(st.lists(st.binary(min_size=1, max_size=9)), st.lists(st.integers(0, 400)))
def test_events_do_not_depend_on_where_the_network_cuts_them(payloads: list[bytes], cuts: list[int]) -> None:
    events = [payload.hex().encode() for payload in payloads]
    body = b": comment\r\n\r\n" + b"".join(b"event: x\ndata: " + event + b"\r\n\r\n" for event in events)
    stream = EventStream()
    edges = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})

    found = [event for start, end in pairwise(edges) for event in stream.feed(body[start:end])]

    assert found == events


def test_line_without_end_is_refused() -> None:
    stream = EventStream()

    with pytest.raises(ValueError, match="too long"):
        list(stream.feed(b"x" * 9 * 1024 * 1024))


@pytest.mark.parametrize(
    ("header", "delay"),
    [
        ("2", timedelta(seconds=2)),
        ("0.5", timedelta(seconds=0.5)),
        ("Tue, 24 Nov 2026 12:00:30 GMT", timedelta(seconds=30)),
        ("Tue, 24 Nov 2026 11:00:00 GMT", timedelta()),
        ("86400", timedelta(hours=1)),
        ("-3", timedelta()),
        ("soon", None),
        ("nan", None),
        ("1e400", None),
        ("", None),
        (None, None),
    ],
)
def test_both_forms_of_retry_after_are_read(header: str | None, delay: timedelta | None) -> None:
    assert failures.parse_retry_after(header, now=NOW) == delay


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_passing_failures_are_told_from_refusals(status: int) -> None:
    error = failures.of_status(status, retry_after="3", code="", now=NOW)

    assert isinstance(error, ProviderFailure)
    assert error.retry_after == timedelta(seconds=3)
    assert error.throttled == (status in (429, 503, 529))


@pytest.mark.parametrize(
    ("status", "code"), [(400, ""), (401, "invalid_api_key"), (404, ""), (429, "insufficient_quota")]
)
def test_refusals_stay_refusals(status: int, code: str) -> None:
    assert isinstance(failures.of_status(status, retry_after=None, code=code, now=NOW), ProviderRejection)


def test_schema_is_strict_only_if_closed_and_required_all_the_way_down() -> None:
    inner = {
        "type": "object",
        "additionalProperties": False,
        "required": ["b"],
        "properties": {"b": {"type": "string"}},
    }
    outer = {
        "type": "object",
        "additionalProperties": False,
        "required": ["a"],
        "properties": {"a": {"type": "array", "items": inner}},
    }

    assert is_strict(outer)
    assert not is_strict(outer | {"required": []})
    assert not is_strict({**outer, "properties": {"a": {"type": "array", "items": inner | {"required": []}}}})
    assert not is_strict({**outer, "additionalProperties": True})


def test_messages_follow_the_documents_and_the_schema_rule_only_where_it_is_wanted() -> None:
    prompt = Prompt(
        system="Be brief.",
        documents=(Document(document_id="d1", text="one"), Document(document_id="d2", text="two")),
        messages=(ChatMessage(role=Role.USER, text="Go."),),
    )

    system, documents, last = prompts.messages(prompt, schema_in_prompt='{"type":"object"}')

    assert '{"type":"object"}' in system["content"]
    assert documents["content"].index("one") < documents["content"].index("two")
    assert last == {"role": "user", "content": "Go."}
    assert prompts.messages(Prompt(messages=(ChatMessage(role=Role.USER, text="Hi"),))) == [
        {"role": "user", "content": "Hi"}
    ]
