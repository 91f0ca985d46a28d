from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.errors import Code, InvalidRequest, PageTokenInvalid, Reason
from services.shared.paging import decode_token, encode_token, page_size

FILTER = {"project_id": "p", "states": ["PENDING"]}

json_objects = st.dictionaries(st.text(max_size=8), st.integers(-(2**53), 2**53) | st.text(max_size=20), max_size=4)


@pytest.mark.parametrize(("requested", "given_size"), [(0, 50), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_size_is_coerced(requested: int, given_size: int):
    assert page_size(requested) == given_size


def test_negative_page_size_is_refused():
    with pytest.raises(InvalidRequest) as caught:
        page_size(-1)

    assert caught.value.field_violations[0].field == "page_size"


def test_empty_token_is_the_first_page():
    assert decode_token("", arguments=FILTER) is None


@given(position=json_objects, arguments=json_objects)
def test_token_gives_its_position_back(position, arguments):
    assert decode_token(encode_token(position, arguments=arguments), arguments=arguments) == position


@given(position=json_objects, arguments=json_objects, other=json_objects)
def test_token_is_bound_to_the_other_arguments(position, arguments, other):
    token = encode_token(position, arguments=arguments)
    if other != arguments:
        with pytest.raises(PageTokenInvalid):
            decode_token(token, arguments=other)


@given(text=st.text(min_size=1, max_size=60))
def test_any_other_text_is_refused(text: str):
    with pytest.raises(PageTokenInvalid):
        decode_token(text, arguments=FILTER)


@given(data=st.data())
def test_tampered_token_is_refused(data):
    token = encode_token({"id": 5}, arguments=FILTER)
    index = data.draw(st.integers(0, len(token) - 2))  # the last character has bits that mean nothing
    letter = data.draw(st.sampled_from("ABCabc019-_").filter(lambda letter: letter != token[index]))
    with pytest.raises(PageTokenInvalid):
        decode_token(token[:index] + letter + token[index + 1 :], arguments=FILTER)


def test_ids_and_times_come_back_as_text():
    position = {"id": UUID(int=1), "at": datetime(2026, 1, 2, tzinfo=UTC)}

    found = decode_token(encode_token(position, arguments={}), arguments={})

    assert found == {"id": str(UUID(int=1)), "at": "2026-01-02T00:00:00+00:00"}


def test_refusal_names_the_reason_of_the_contract():
    with pytest.raises(PageTokenInvalid) as caught:
        decode_token("x", arguments={})

    assert (caught.value.code, caught.value.reason) == (Code.INVALID_ARGUMENT, Reason.PAGE_TOKEN_INVALID)
