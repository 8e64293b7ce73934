"""The hash ring: who owns which keys, and which keys move."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos._speedups.ring import Ring, hash_of, point_counts

KEYS = [hash_of(b"10.0.%d.%d" % (number >> 8, number & 255)) for number in range(20_000)]


def names(count: int) -> list[str]:
    return [f"http://backend-{number}:8080" for number in range(count)]


def owners(members: list[str], weights: list[int] | None = None) -> list[str]:
    ring = Ring(members, weights)
    return [members[ring.owner(key)] for key in KEYS]


def test_an_empty_ring_owns_nothing() -> None:
    assert Ring([]).owner(1) == -1
    assert Ring([]).owner_up(1, b"") == -1


def test_one_member_owns_every_key() -> None:
    ring = Ring(["only"])
    assert {ring.owner(key) for key in (0, 1, 1 << 63, (1 << 64) - 1, *KEYS[:100])} == {0}


def test_a_key_stays_with_its_owner_in_every_process() -> None:
    """Known values: a change of the hash or the ring would move every client of a rolling upgrade."""
    assert hash_of(b"203.0.113.7") == 0x2E6149BA2A65FAA0
    ring = Ring(names(5))
    assert [ring.owner(hash_of(b"10.1.1.%d" % number)) for number in range(10)] == [
        0,
        2,
        4,
        4,
        0,
        4,
        0,
        2,
        1,
        1,
    ]


def test_the_order_of_members_does_not_matter() -> None:
    assert owners(names(7)) == owners(names(7)[::-1])


def test_shares_are_even() -> None:
    shares = Counter(owners(names(5)))
    assert len(shares) == 5
    assert all(0.75 < count / (len(KEYS) / 5) < 1.25 for count in shares.values())


def test_shares_follow_weights() -> None:
    shares = Counter(owners(names(3), [10, 20, 50]))
    for name, weight in zip(names(3), [1, 2, 5], strict=True):
        assert 0.75 < shares[name] / (len(KEYS) * weight / 8) < 1.25


@pytest.mark.parametrize("count", [2, 5, 20])
def test_a_member_that_leaves_moves_only_its_own_keys(count: int) -> None:
    before, after = owners(names(count)), owners(names(count)[:-1])
    moved = [old for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {names(count)[-1]}
    assert 0.6 < len(moved) / (len(KEYS) / count) < 1.4
    assert len(set(after)) == count - 1


def test_the_keys_of_a_member_that_leaves_are_spread_over_the_others() -> None:
    before, after = owners(names(5)), owners(names(5)[:-1])
    heirs = Counter(new for old, new in zip(before, after, strict=True) if old != new)
    assert set(heirs) == set(names(4))


def test_a_member_that_is_down_is_stepped_over_as_if_it_had_left() -> None:
    ring, without = Ring(names(6)), Ring(names(6)[:-1])
    for key in KEYS[:2000]:
        assert ring.owner_up(key, b"\0\0\0\0\0\1") == without.owner(key)


def test_with_all_down_the_owner_is_given() -> None:
    ring = Ring(names(4))
    assert all(ring.owner_up(key, b"\1\1\1\1") == ring.owner(key) for key in KEYS[:200])
    with pytest.raises(ValueError, match="3 bytes for 4"):
        ring.owner_up(1, b"\0\0\0")


def test_huge_weights_are_scaled_down() -> None:
    counts = point_counts([1_000_000, 1, 500_000])
    assert sum(counts) <= 65_536 + 3
    assert min(counts) == 1
    with pytest.raises(ValueError, match="1 or more"):
        Ring(["a"], [0])


@given(st.lists(st.binary(max_size=40), unique=True, max_size=50))
def test_different_texts_have_different_hashes(texts: list[bytes]) -> None:
    assert len({hash_of(text) for text in texts}) == len(texts)


def test_every_bit_of_a_hash_is_even_and_every_input_bit_spreads() -> None:
    """A quarter of the output bits at least changes with any input bit; each output bit is set about half the time."""
    ones = Counter[int]()
    for number in range(4000):
        value = hash_of(b"key-%d" % number)
        ones.update(bit for bit in range(64) if value >> bit & 1)
    assert all(0.45 < ones[bit] / 4000 < 0.55 for bit in range(64))
    for size in (1, 3, 4, 7, 8, 15, 16, 17, 40):
        base = bytes(range(65, 65 + size))
        for bit in range(size * 8):
            other = bytearray(base)
            other[bit >> 3] ^= 1 << (bit & 7)
            assert 14 < (hash_of(base) ^ hash_of(bytes(other))).bit_count() < 50
