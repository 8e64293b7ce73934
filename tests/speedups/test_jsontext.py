"""JSON texts measured before they are parsed: against the parser's own view."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos._speedups.jsontext import members, shape

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)


def model_depth(value):
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(model_depth, inner), default=0)
    return 0


def model_members(value):
    if isinstance(value, dict):
        return len(value) + sum(map(model_members, value.values()))
    return sum(map(model_members, value)) if isinstance(value, list) else 0


@given(VALUES, st.booleans())
def test_shape_and_members_are_those_of_the_value(value, ascii_):
    text = json.dumps(value, ensure_ascii=ascii_).encode()
    assert shape(text) == (model_depth(value), model_members(value))
    assert members(value) == model_members(value)


@given(st.binary() | st.text(alphabet='{}[]:",\\ a1').map(str.encode))
def test_any_bytes_are_measured(data):
    depth, colons = shape(data)
    assert 0 <= depth <= len(data)
    assert 0 <= colons <= data.count(b":")


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'[{"x":{"role":"user","role":"admin"}}]',
        b'{"a":{"b":1},"a":{"b":1}}',
        b'{"":1,"":{}}',
    ],
)
def test_a_member_given_twice_shows_in_the_figures(text):
    assert shape(text)[1] > members(orjson.loads(text))


def test_a_string_is_passed_in_one_go_however_many_escapes_it_has():
    """Looking for its end again at each escape would take a minute here."""
    assert shape(b'["' + b"\\n" * 2_000_000 + b'"]') == (1, 0)
    assert shape(b'["' + b'\\"' * 2_000_000 + b':"]') == (1, 0)


def test_depth_is_told_of_what_no_parser_would_follow():
    assert shape(b"[" * 1_000_000) == (1_000_000, 0)


def test_a_value_too_deep_for_the_stack_is_refused():
    value = None
    for _ in range(5000):
        value = [value]
    with pytest.raises(RecursionError):
        members(value)
