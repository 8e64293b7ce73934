"""Structured fields: what they mean, what is none, and that writing what was read changes nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.proxy.structured import StructureError, Token, parse_dictionary, write_item

GOOD = {
    "": {},
    "a=1": {"a": (1, {})},
    "a": {"a": (True, {})},
    "a, b;x": {"a": (True, {}), "b": (True, {"x": True})},
    "a=?0;b=-7;c=1.5": {"a": (False, {"b": -7, "c": 1.5})},
    'a="x \\"y\\" \\\\";z=tok/en': {"a": ('x "y" \\', {"z": Token("tok/en")})},
    "a=:aGk=:": {"a": (b"hi", {})},
    "a=:aGk:": {"a": (b"hi", {})},
    'a=("x" "y";q=1);created=5': {"a": ([("x", {}), ("y", {"q": 1})], {"created": 5})},
    "a=(  1   2 )": {"a": ([(1, {}), (2, {})], {})},
    "a=()": {"a": ([], {})},
    "a=1 ,\tb=2": {"a": (1, {}), "b": (2, {})},
    "a=1,a=2": {"a": (2, {})},
    " *k.e-y_=*t ": {"*k.e-y_": (Token("*t"), {})},
    "a=999999999999999": {"a": (999_999_999_999_999, {})},
}
BAD = [
    "A=1", "a=", "a=(", "a=(1", "a=(1,2)", 'a=("x""y")', "a=1 b=2", "a=1;", "a=1;=2", "a,", ",a", "a=1,,b=2", "=1",
    'a="x', 'a="\\x"', 'a="\x7f"', 'a="é"', "a=:=:", "a=:a*:", "a=:aGk", "a=:a:", "a=?2", "a=1.", "a=.5",
    "a=1.2345", "a=--1",
    "a=1234567890123456", "a=@1", 'a=%"x"', "a=1\nb", "\x00", "a=(1)x", "a=((1))",
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_what_it_means(text: str) -> None:
    assert parse_dictionary(text) == GOOD[text]


def test_a_token_is_no_string() -> None:
    assert type(parse_dictionary("a=b")["a"][0]) is Token
    assert type(parse_dictionary('a="b"')["a"][0]) is str


@pytest.mark.parametrize("text", BAD)
def test_what_is_none(text: str) -> None:
    with pytest.raises(StructureError):
        parse_dictionary(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("( 1  2 )", "(1 2)"),
        ("1.50", "1.5"),
        ("2.0", "2.0"),
        ("?1", "?1"),
        ('"a\\"b"; c=x;d', '"a\\"b";c=x;d'),
        (":aGk:", ":aGk=:"),
    ],
)
def test_the_canonical_text(text: str, canonical: str) -> None:
    assert write_item(parse_dictionary(f"a={text}")["a"]) == canonical


KEYS = st.from_regex(r"[a-z*][a-z0-9_.*-]{0,8}", fullmatch=True)
BARE = st.one_of(
    st.integers(-999_999_999_999_999, 999_999_999_999_999),
    st.booleans(),
    st.binary(max_size=20),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20),
    st.from_regex(r"[A-Za-z*][a-z0-9:/*]{0,9}", fullmatch=True).map(Token),
    st.integers(-999_999, 999_999).map(lambda number: number / 8 if number % 8 else number / 4),
)
ITEMS = st.tuples(BARE, st.dictionaries(KEYS, BARE, max_size=3))
MEMBERS = st.one_of(ITEMS, st.tuples(st.lists(ITEMS, max_size=4), st.dictionaries(KEYS, BARE, max_size=2)))


@given(st.dictionaries(KEYS, MEMBERS, max_size=4))
def test_what_is_written_is_read_again(members: dict) -> None:
    text = ", ".join(f"{key}={write_item(member)}" for key, member in members.items())
    assert parse_dictionary(text) == members


@given(st.text(st.sampled_from('a1;=,"\\() :?-.\t@%é'), max_size=30))
def test_anything_is_read_or_refused(text: str) -> None:
    try:
        members = parse_dictionary(text)
    except StructureError:
        return
    assert parse_dictionary(", ".join(f"{key}={write_item(member)}" for key, member in members.items())) == members
