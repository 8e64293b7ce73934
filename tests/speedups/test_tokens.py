"""The cache of verified tokens: what was put in is found by all of its bytes, until its moment, within its bounds."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos._speedups.tokens import TokenCache


class Value:
    """Something whose end can be seen."""


def test_a_token_is_found_until_its_moment_comes() -> None:
    cache = TokenCache(8, 1)
    cache.put(b"token", "ann", 100, 1)
    assert cache.get(b"token", 99) == "ann"
    assert cache.get(b"token", 100) is None
    assert cache.get(b"token", 99) is None, "what is over is forgotten"
    assert cache.count == cache.held_bytes == 0


@pytest.mark.parametrize("near", [b"", b"toke", b"token2", b"tokeN", b"\0token", b"token\0", b"token" * 100])
def test_nothing_else_is_taken_for_it(near: bytes) -> None:
    cache = TokenCache(8, 1)
    cache.put(b"token", "ann", 100, 1)
    assert cache.get(near, 2) is None


def test_all_of_a_long_token_counts() -> None:
    token = bytes(range(256)) * 32
    cache = TokenCache(8, 1)
    cache.put(token, "ann", 100, 1)
    for at in range(len(token)):
        other = bytearray(token)
        other[at] ^= 1
        assert cache.get(bytes(other), 2) is None, at
    assert cache.get(token, 2) == "ann"


def test_a_token_put_in_again_has_its_newest_value_and_time() -> None:
    cache = TokenCache(8, 1)
    cache.put(b"token", "ann", 100, 1)
    cache.put(b"token", "bob", 50, 1)
    assert cache.get(b"token", 49) == "bob"
    assert cache.count == 1
    cache.put(b"token", "eve", 50, 50)
    assert cache.get(b"token", 49) is None, "it was over when it came"


def test_a_full_set_gives_up_what_is_over_then_what_was_not_asked_for() -> None:
    cache = TokenCache(8, 1)
    tokens = [b"token %d" % number for number in range(9)]
    for token in tokens[:8]:
        cache.put(token, token, 100, 1)
    for token in tokens[1:8]:
        assert cache.get(token, 2) == token
    cache.put(tokens[8], tokens[8], 100, 2)
    assert cache.get(tokens[0], 3) is None
    assert all(cache.get(token, 3) for token in tokens[1:])
    cache.put(tokens[3], tokens[3], 10, 3)
    cache.put(tokens[0], tokens[0], 100, 10)
    assert cache.get(tokens[3], 9) is None
    assert cache.count == 8


def test_the_bytes_of_all_tokens_are_bounded() -> None:
    cache = TokenCache(64, 1, most_bytes=1000)
    for number in range(100):
        cache.put(b"%0300d" % number, number, 100, 1)
        assert cache.held_bytes == 300 * cache.count <= 1000
        assert cache.get(b"%0300d" % number, 2) == number
    cache.put(b"x" * 1001, "too long", 100, 1)
    assert cache.get(b"x" * 1001, 2) is None


def test_it_holds_as_many_as_it_was_made_for_and_no_more() -> None:
    cache = TokenCache(1000, 7)
    for number in range(100_000):
        cache.put(b"%d" % number, number, 100, 1)
    assert 1000 <= cache.count <= 1024


def test_what_it_forgets_is_let_go() -> None:
    value = Value()
    gone = weakref.ref(value)
    token = b"a token of its own"
    before = sys.getrefcount(token)
    cache = TokenCache(8, 1)
    cache.put(token, value, 100, 1)
    del value
    assert gone() is not None
    cache.clear()
    assert gone() is None
    assert sys.getrefcount(token) == before
    cache.put(token, Value(), 100, 1)
    del cache
    gc.collect()
    assert sys.getrefcount(token) == before


def test_a_value_whose_end_comes_back_finds_a_sane_cache() -> None:
    cache = TokenCache(8, 1)

    class Returning:
        def __del__(self) -> None:
            cache.put(b"token", "from the grave", 100, 1)

    cache.put(b"token", Returning(), 100, 1)
    cache.put(b"token", "ann", 100, 1)
    assert (cache.count, cache.held_bytes) == (1, 5)
    cache.put(b"token", Returning(), 100, 1)
    cache.clear()
    assert (cache.count, cache.held_bytes) == (1, 5)
    assert cache.get(b"token", 2) == "from the grave"


@pytest.mark.parametrize("size", [0, -1, 1 << 25])
def test_a_senseless_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="a cache of"):
        TokenCache(size, 1)


@given(st.lists(st.tuples(st.binary(max_size=3), st.integers(0, 5), st.integers(0, 5))), st.integers(0, 2**64 - 1))
def test_it_is_a_dictionary_that_may_forget(steps: list[tuple[bytes, int, int]], seed: int) -> None:
    """What it answers is what was put in last, and still good."""
    cache, model = TokenCache(16, seed), dict[bytes, tuple[int, int]]()
    for number, (token, until, now) in enumerate(steps):
        found = cache.get(token, now)
        if found is not None:
            value, end = model[token]
            assert found == value
            assert now < end
        cache.put(token, number, until, now)
        model[token] = (number, until)
    assert cache.count <= 16
    assert cache.held_bytes <= 48
