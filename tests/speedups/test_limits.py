"""Rate limits: traces of grants over cells in memory, alone and shared by processes."""

from __future__ import annotations

import os
import signal
from mmap import mmap
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos._speedups.cells import Page
from kairos._speedups.limits import (
    T_FORGOTTEN,
    T_FULL,
    T_KEYS,
    T_REUSED,
    FixedWindow,
    Lease,
    Limit,
    LimitCell,
    LimitTable,
    SlidingWindow,
    TokenBucket,
    table_cells,
)
from kairos._speedups.ring import hash_of

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000
NEVER = (1 << 63) - 1
KINDS: list[type[Limit]] = [TokenBucket, FixedWindow, SlidingWindow]


def cell(limit: Limit) -> LimitCell:
    return LimitCell(Page(mmap(-1, 4096)), 0, limit)


def grants(state: LimitCell, now_us: int, tries: int, cost: int = 1) -> int:
    """How many of so many tries at one moment are granted."""
    return sum(state.acquire(now_us, cost) == 0 for _ in range(tries))


def at(state: LimitCell, now_us: int, cost: int = 1) -> tuple[int, int, int]:
    """µs to wait, what is left, µs until there is more."""
    wait, left, _, more = state.take(now_us, cost)
    return wait, left, more


# --- each kind -------------------------------------------------------------------------------------------------------


def test_token_bucket_starts_with_its_requests_and_fills_up_to_the_burst() -> None:
    state = cell(TokenBucket(10, 10 * SECOND, 5))
    start = 1000 * SECOND
    assert grants(state, start, 30) == 10
    assert grants(state, start + SECOND - 1, 5) == 0
    assert grants(state, start + SECOND, 5) == 1
    assert grants(state, start + 4 * SECOND, 5) == 3
    assert grants(state, start + 1000 * SECOND, 50) == 15


def test_token_bucket_says_when_the_next_token_comes() -> None:
    state = cell(TokenBucket(10, 10 * SECOND))
    start = 77 * SECOND
    assert grants(state, start, 10) == 10
    assert state.acquire(start) == SECOND
    assert state.acquire(start + SECOND // 4) == SECOND * 3 // 4
    assert state.acquire(start, 3) == 3 * SECOND
    assert state.acquire(start + SECOND - 1) == 1
    assert state.acquire(start + SECOND) == 0


def test_token_bucket_keeps_its_rate_over_a_long_time() -> None:
    state = cell(TokenBucket(7, SECOND))
    granted = sum(grants(state, SECOND + tick * 10_000, 3) for tick in range(10_001))
    assert 7 + 699 <= granted <= 7 + 700  # a token takes 1/7 s, rounded up


def test_fixed_window_begins_with_the_first_request() -> None:
    state = cell(FixedWindow(2, 60 * SECOND, 1))
    start = 12_345_678_901
    assert [state.acquire(start + n) == 0 for n in range(4)] == [True, True, True, False]
    assert 0 < state.acquire(start + 59 * SECOND) <= SECOND + 1000
    assert state.acquire(start + 59_998_000) > 0
    assert grants(state, start + 60 * SECOND + 1000, 10) == 3
    assert grants(state, start + 61 * SECOND, 10) == 0


def test_sliding_window_gives_back_what_is_a_window_old() -> None:
    state = cell(SlidingWindow(3, 15 * SECOND, 1))
    start = 1500 * SECOND
    assert state.acquire(start) == 0
    assert grants(state, start + 10 * SECOND, 10) == 3
    assert state.acquire(start + 14 * SECOND) == 2 * SECOND
    assert state.acquire(start + 16 * SECOND - 1) > 0
    assert grants(state, start + 16 * SECOND, 10) == 1
    assert grants(state, start + 25 * SECOND, 10) == 0
    assert grants(state, start + 26 * SECOND, 10) == 3


def test_what_is_left_and_when_there_is_more() -> None:
    start = 1500 * SECOND
    bucket, fixed, sliding = (cell(kind(3, 15 * SECOND)) for kind in KINDS)
    assert [at(bucket, start) for _ in range(4)] == [
        (0, 2, 5 * SECOND), (0, 1, 5 * SECOND), (0, 0, 5 * SECOND), (5 * SECOND, 0, 5 * SECOND),
    ]  # fmt: skip
    assert at(bucket, start + 12 * SECOND) == (0, 1, 3 * SECOND)
    assert [at(fixed, start) for _ in range(4)] == [(0, left, 15 * SECOND) for left in (2, 1, 0)] + [
        (15 * SECOND, 0, 15 * SECOND)
    ]
    assert at(fixed, start + 14 * SECOND, 2) == (SECOND, 0, SECOND)
    assert at(sliding, start) == (0, 2, 16 * SECOND)
    assert at(sliding, start + 10 * SECOND, 2) == (0, 0, 6 * SECOND)
    assert at(sliding, start + 16 * SECOND) == (0, 0, 10 * SECOND)


def test_what_is_left_of_a_burst() -> None:
    bucket = cell(TokenBucket(10, 10 * SECOND, 5))
    assert at(bucket, 1000 * SECOND) == (0, 9, SECOND)
    assert at(bucket, 2000 * SECOND) == (0, 14, SECOND)
    assert at(cell(FixedWindow(10, 10 * SECOND, 5)), 0) == (0, 14, 10 * SECOND)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_back_can_be_taken_again(kind: type[Limit]) -> None:
    state, now = cell(kind(5, 15 * SECOND)), 1500 * SECOND
    assert state.acquire(now, 3) == 0
    assert state.acquire(now, 2) == 0
    state.give(now, 3)
    assert (state.look(now, 3), state.look(now, 4) > 0) == (0, True)
    assert grants(state, now, 10) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_back_too_late_is_no_gift(kind: type[Limit]) -> None:
    state, now = cell(kind(5, 15 * SECOND)), 1500 * SECOND
    assert state.acquire(now, 5) == 0
    later = now + 40 * SECOND
    assert state.acquire(later, 1) == 0
    state.give(now, 5)
    assert grants(state, later, 10) <= 5


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_says_what_taking_would_and_changes_nothing(kind: type[Limit]) -> None:
    page = Page(mmap(-1, 4096))
    state, now = LimitCell(page, 0, kind(5, SECOND)), 10 * SECOND
    for _ in range(6):
        before = [page.get(number) for number in range(16)]
        said = state.look(now)
        assert [page.get(number) for number in range(16)] == before
        assert state.acquire(now) == said
    assert state.look(now, 6) == NEVER


@pytest.mark.parametrize("kind", [*KINDS, Lease])
@given(words=st.lists(st.integers(-(1 << 63), NEVER), min_size=16, max_size=16), now=st.integers(0, 1 << 50))
def test_words_of_other_limits_do_no_lasting_harm(kind: type[Limit], words: list[int], now: int) -> None:
    """Whatever lies in a cell, it is mistaken for a word of this limit for an hour at most."""
    page = Page(mmap(-1, 4096))
    state = LimitCell(page, 0, kind(5, 15 * SECOND))
    for number, word in enumerate(words):
        page.set(number, word)
    state.acquire(now)
    granted = [grants(state, now + hours * 3600 * SECOND, 10) for hours in (2, 4, 6)]
    assert granted.count(0 if kind is Lease else 5) >= 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_refusal_changes_nothing(kind: type[Limit]) -> None:
    page = Page(mmap(-1, 4096))
    state = LimitCell(page, 0, kind(5, SECOND))
    assert grants(state, 10 * SECOND, 5) == 5
    before = [page.get(number) for number in range(16)]
    assert grants(state, 10 * SECOND, 100) == 0
    assert [page.get(number) for number in range(16)] == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_cost_is_taken_whole_or_not_at_all(kind: type[Limit]) -> None:
    state = cell(kind(10, SECOND))
    assert state.acquire(10 * SECOND, 7) == 0
    assert state.acquire(10 * SECOND, 4) > 0
    assert state.acquire(10 * SECOND, 3) == 0
    assert state.acquire(10 * SECOND, 11) == NEVER
    with pytest.raises(ValueError, match="cost 0"):
        state.acquire(10 * SECOND, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arguments", [(0, SECOND), (1, 0), (1, 999_999), (1, SECOND, -1), (1 << 24, SECOND)])
def test_a_limit_that_cannot_be_kept_is_refused(kind: type[Limit], arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a limit of"):
        kind(*arguments)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("now", [0, 1, SECOND, 1 << 50, 1_763_700_000 * SECOND])
@pytest.mark.parametrize(
    ("requests", "window", "burst"), [(1, 10**13, 10**7), (10**7, SECOND, 6 * 10**6), (1, SECOND, 0)]
)
def test_the_widest_limits_hold(kind: type[Limit], now: int, requests: int, window: int, burst: int) -> None:
    limit = kind(requests, window, burst)
    state = cell(limit)
    at_first = requests if kind is TokenBucket else requests + burst
    assert state.acquire(now, at_first) == 0
    assert state.acquire(now) > 0
    assert state.acquire(now + 3 * window, requests) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_outside_the_page_is_refused(kind: type[Limit]) -> None:
    with pytest.raises(IndexError):
        LimitCell(Page(mmap(-1, 4096)), 512, kind(1, SECOND))


def most_in_a_window(times: list[int], window: int) -> int:
    return max((sum(time - window < other <= time for other in times) for time in times), default=0)


@given(
    st.lists(st.integers(0, SECOND * 3 // 4), max_size=120),
    st.integers(1, 8),
    st.integers(0, 4),
    st.integers(1, 1 << 40),
)
def test_no_window_ever_grants_more(steps: list[int], requests: int, burst: int, start: int) -> None:
    sliding, fixed = cell(SlidingWindow(requests, SECOND, burst)), cell(FixedWindow(requests, SECOND, burst))
    bucket = cell(TokenBucket(requests, SECOND, burst))
    now, slid, fixed_now, taken = start, [], [], []
    for step in steps:
        now += step
        for state, times in ((sliding, slid), (fixed, fixed_now), (bucket, taken)):
            if state.acquire(now) == 0:
                times.append(now)
    assert most_in_a_window(slid, SECOND) <= requests + burst
    assert most_in_a_window(fixed_now, SECOND) <= 2 * (requests + burst)
    assert len(taken) <= requests + burst + (now - start) * requests // SECOND


@given(st.lists(st.tuples(st.integers(0, SECOND // 2), st.integers(1, 3)), max_size=60), st.integers(1, 1 << 40))
@pytest.mark.parametrize("kind", KINDS)
def test_after_the_wait_it_is_granted(kind: type[Limit], steps: list[tuple[int, int]], start: int) -> None:
    state, now = cell(kind(3, SECOND, 1)), start
    for step, cost in steps:
        now += step
        wait = state.acquire(now, cost)
        if wait:
            now += wait
            assert state.acquire(now, cost) == 0


@given(st.lists(st.integers(-SECOND, SECOND * 2), max_size=60))
@pytest.mark.parametrize("kind", KINDS)
def test_a_clock_that_steps_back_grants_nothing_extra(kind: type[Limit], steps: list[int]) -> None:
    state, now, furthest, granted = cell(kind(3, SECOND)), 100 * SECOND, 100 * SECOND, 0
    for step in steps:
        now += step
        granted += state.acquire(now) == 0
        furthest = max(furthest, now)
    assert granted <= 3 + (furthest - 100 * SECOND) * 3 // SECOND + 3


# --- shared by processes ---------------------------------------------------------------------------------------------


def fork(work: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


@pytest.mark.parametrize("kind", KINDS)
def test_processes_together_get_exactly_the_limit(kind: type[Limit]) -> None:
    """Three processes, one moment: not a grant more, none lost."""
    page, tally = Page(mmap(-1, 4096)), Page(mmap(-1, 4096))
    state = LimitCell(page, 0, kind(30_000, 60 * SECOND))

    def work() -> None:
        for _ in range(25_000):
            if state.acquire(1000 * SECOND) == 0:
                tally.add(0, 1)

    for child in [fork(work) for _ in range(3)]:
        os.waitpid(child, 0)
    assert tally.get(0) == 30_000


@pytest.mark.parametrize("kind", KINDS)
def test_processes_with_their_own_clocks_never_get_more(kind: type[Limit]) -> None:
    """The clock runs on while they take, so that slices and windows change under them."""
    page, tally = Page(mmap(-1, 4096)), Page(mmap(-1, 4096))
    state = LimitCell(page, 0, kind(1000, 15 * SECOND))

    def work() -> None:
        for tick in range(15_000):
            if state.acquire(1500 * SECOND + tick * 999) == 0:
                tally.add(0, 1)

    for child in [fork(work) for _ in range(3)]:
        os.waitpid(child, 0)
    refilled = 1000 if kind is TokenBucket else 0
    assert 1000 - 16 <= tally.get(0) <= 1000 + refilled


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_leaves_nothing_locked(kind: type[Limit]) -> None:
    page = Page(mmap(-1, 1 << 20))
    table, limit = LimitTable(page, 0, 1 << 14, 16), kind(1_000_000, SECOND)

    def work() -> None:
        while True:
            for key in range(64):
                table.acquire(key, limit, 1000 * SECOND)

    for _ in range(10):
        child = fork(work)
        for _ in range(500):
            table.acquire(7, limit, 1000 * SECOND)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert table.acquire(12345, limit, 1000 * SECOND) == 0


# --- leases ----------------------------------------------------------------------------------------------------------


class Leased:
    """One key of a table that is leased from elsewhere."""

    def __init__(self, low: int = 0) -> None:
        self.lease = Lease(100, SECOND, 0, low)
        self.table = LimitTable(Page(mmap(-1, 1 << 16)), 0, table_cells(8, 2), 2)

    def take(self, now: int, cost: int = 1) -> int:
        return self.table.acquire(5, self.lease, now, cost)

    def put(self, now: int, until: int, tokens: int) -> None:
        assert self.table.lend(5, self.lease, now, until, tokens)


ASK = -1
NOW = 1000 * SECOND


def test_a_lease_is_used_up_and_asked_for() -> None:
    leased = Leased()
    assert leased.take(NOW) == ASK
    leased.put(NOW, NOW + SECOND, 3)
    assert [leased.take(NOW) for _ in range(5)] == [0, 0, 0, ASK, ASK]
    leased.put(NOW, NOW + SECOND, 2)
    assert leased.take(NOW, 3) == ASK
    assert leased.take(NOW, 2) == 0


def test_a_lease_ends_and_what_is_left_is_drained_once() -> None:
    leased = Leased()
    leased.put(NOW, NOW + SECOND, 5)
    assert leased.take(NOW + SECOND // 2) == 0
    assert leased.table.drain(5, leased.lease, NOW + SECOND // 2) == 0
    assert leased.take(NOW + SECOND) == ASK
    assert leased.table.drain(5, leased.lease, NOW + SECOND) == 4
    assert leased.table.drain(5, leased.lease, NOW + SECOND) == 0


def test_a_further_lease_adds_and_lasts_longer() -> None:
    leased = Leased()
    leased.put(NOW, NOW + SECOND, 2)
    leased.put(NOW + SECOND // 2, NOW + 2 * SECOND, 2)
    assert [leased.take(NOW + SECOND * 3 // 2) for _ in range(5)] == [0, 0, 0, 0, ASK]


def test_where_nothing_is_to_be_had_nobody_asks_until_then() -> None:
    leased = Leased()
    leased.table.hold(5, leased.lease, NOW, NOW + SECOND)
    assert leased.take(NOW) == SECOND
    assert leased.take(NOW + SECOND // 4) == SECOND * 3 // 4
    assert leased.take(NOW + SECOND) == ASK
    leased.put(NOW, NOW + SECOND, 1)
    leased.table.hold(5, leased.lease, NOW, NOW + SECOND)  # tokens came meanwhile: they can be used
    assert leased.take(NOW) == 0


def test_processes_together_use_a_lease_up_exactly() -> None:
    leased, tally = Leased(), Page(mmap(-1, 4096))
    leased.put(NOW, NOW + SECOND, 20_000)

    def work() -> None:
        for _ in range(10_000):
            if leased.take(NOW) == 0:
                tally.add(0, 1)

    for child in [fork(work) for _ in range(4)]:
        os.waitpid(child, 0)
    assert tally.get(0) == 20_000


# --- the table -------------------------------------------------------------------------------------------------------


class Table:
    """A table asked with one limit."""

    def __init__(self, limit: Limit, places: int = 64, page: Page | None = None) -> None:
        self.limit = limit
        self.made = LimitTable(page or Page(mmap(-1, 1 << 20)), 0, table_cells(places, 16), 16)
        assert self.made.places == places

    def acquire(self, key: int, now_us: int) -> int:
        return self.made.acquire(key, self.limit, now_us)

    @property
    def keys(self) -> int:
        return self.made.count(T_KEYS)


def in_one_set(count: int) -> list[int]:
    """Key hashes that share a set of any table."""
    return [number + 1 for number in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_has_its_own_limit(kind: type[Limit]) -> None:
    limits = Table(kind(3, 60 * SECOND), 4096)
    keys = [hash_of(b"ip:%d" % number) for number in range(1000)]
    for _ in range(3):
        assert all(limits.acquire(key, 1000 * SECOND) == 0 for key in keys)
    assert all(limits.acquire(key, 1000 * SECOND) > 0 for key in keys)
    assert limits.keys == 1000


def test_limits_of_all_kinds_share_a_table() -> None:
    table = LimitTable(Page(mmap(-1, 1 << 20)), 0, table_cells(4096, 16), 16)
    limits = [kind(requests, 60 * SECOND) for kind in KINDS for requests in (1, 2, 3)]
    keys = {(at, n): hash_of(b"%d:%d" % (at, n)) for at in range(len(limits)) for n in range(50)}
    granted = {
        (at, n): sum(table.acquire(key, limits[at], 1000 * SECOND) == 0 for _ in range(5))
        for (at, n), key in keys.items()
    }
    assert granted == {(at, n): limits[at].capacity for at, n in keys}


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_set_gives_up_a_state_no_longer_in_force(kind: type[Limit]) -> None:
    limits = Table(kind(2, 15 * SECOND))
    keys = in_one_set(9)
    start = 1500 * SECOND
    for number, key in enumerate(keys[:8]):
        at = start + (20 * SECOND if number != 3 else 0)
        assert [limits.acquire(key, at) == 0 for _ in range(3)] == [True, True, False]
    now = start + 21 * SECOND
    assert [limits.acquire(keys[8], now) == 0 for _ in range(3)] == [True, True, False]
    assert [limits.acquire(key, now) > 0 for number, key in enumerate(keys[:8]) if number != 3] == [True] * 7
    assert (limits.keys, limits.made.count(T_REUSED), limits.made.count(T_FORGOTTEN)) == (8, 1, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_set_all_in_force_gives_up_the_key_that_used_the_least(kind: type[Limit]) -> None:
    limits = Table(kind(10, 15 * SECOND))
    keys, now = in_one_set(9), 1500 * SECOND
    for number, key in enumerate(keys[:8]):
        assert all(limits.acquire(key, now) == 0 for _ in range(9 if number != 6 else 2))
    assert all(limits.acquire(keys[8], now) == 0 for _ in range(10))
    assert limits.acquire(keys[8], now) > 0
    for number, key in enumerate(keys[:8]):
        if number != 6:
            assert [limits.acquire(key, now) == 0 for _ in range(2)] == [True, False]
    assert limits.made.count(T_FORGOTTEN) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_of_keys_that_used_the_same_the_oldest_goes(kind: type[Limit]) -> None:
    limits = Table(kind(2, 15 * SECOND))
    keys, start = in_one_set(9), 1500 * SECOND
    for number, key in enumerate(keys[:8]):
        at = start + SECOND * (5 if number != 6 else 2)
        assert limits.acquire(key, at) == 0
    assert limits.acquire(keys[8], start + 6 * SECOND) == 0
    assert [limits.acquire(key, start + 6 * SECOND) for number, key in enumerate(keys[:8]) if number != 6] == [0] * 7


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_of_keys_resets_nobody_who_is_refused(kind: type[Limit]) -> None:
    """Every place of the table is wanted by hundreds of others; the one at its limit goes on being refused."""
    limits, now = Table(kind(5, 60 * SECOND)), 1500 * SECOND
    attacker = hash_of(b"attacker")
    assert [limits.acquire(attacker, now) == 0 for _ in range(6)] == [True] * 5 + [False]
    for number in range(20_000):
        assert limits.acquire(hash_of(b"%d" % number), now + number) == 0
        if number % 10 == 0:
            assert limits.acquire(attacker, now + number) > 0
    assert limits.keys == 64
    assert limits.made.count(T_FORGOTTEN) > 19_000


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_are_refused_a_new_key_waits(kind: type[Limit]) -> None:
    """Nobody gains by bringing more keys than there are places."""
    limits, now = Table(kind(2, 15 * SECOND)), 1500 * SECOND
    keys = in_one_set(9)
    for key in keys[:8]:
        assert [limits.acquire(key, now) == 0 for _ in range(3)] == [True, True, False]
    wait = limits.acquire(keys[8], now)
    assert 14 * SECOND < wait <= 16 * SECOND
    assert limits.made.count(T_FULL) == 1
    assert all(limits.acquire(key, now) > 0 for key in keys[:8])
    assert limits.acquire(keys[8], now + wait) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_zero_is_a_key(kind: type[Limit]) -> None:
    limits = Table(kind(1, SECOND))
    assert limits.acquire(0, 5 * SECOND) == 0
    assert limits.acquire(0, 5 * SECOND) > 0
    assert limits.keys == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_left_pending_by_a_killed_process_is_adopted(kind: type[Limit]) -> None:
    page = Page(mmap(-1, 1 << 16))
    limits = Table(kind(1, SECOND), 16, page)
    third = 8 + 3
    page.set(third, 77 - (1 << 63))
    for key in in_one_set(7):
        assert limits.acquire(key, 5 * SECOND) == 0
    assert limits.acquire(77, 5 * SECOND) == 0
    assert page.get(third) == 77
    assert limits.acquire(77, 5 * SECOND) > 0


def test_a_table_too_small_or_outside_the_page_is_refused() -> None:
    page = Page(mmap(-1, 4096))
    with pytest.raises(ValueError, match="at least 40"):
        LimitTable(page, 0, 39, 2)
    with pytest.raises(IndexError):
        LimitTable(page, 0, 1024, 2)
    table = LimitTable(page, 0, 200, 2)
    with pytest.raises(ValueError, match="16 words"):
        table.acquire(1, SlidingWindow(1, SECOND), 0)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_bring_the_same_new_keys_share_one_state_each(kind: type[Limit]) -> None:
    page, tally = Page(mmap(-1, 1 << 24)), Page(mmap(-1, 1 << 16))
    limits = Table(kind(3, 60 * SECOND), 1 << 16, page)
    keys = [hash_of(b"user:%d" % number) for number in range(4000)]

    def work() -> None:
        for number, key in enumerate(keys):
            for _ in range(3):
                if limits.acquire(key, 1000 * SECOND) == 0:
                    tally.add(number, 1)

    for child in [fork(work) for _ in range(3)]:
        os.waitpid(child, 0)
    counts = [tally.get(number) for number in range(4000)]
    assert counts == [3] * 4000
    assert limits.keys == 4000


@pytest.mark.parametrize("kind", KINDS)
def test_four_processes_in_a_full_table_never_get_more(kind: type[Limit]) -> None:
    """Keys come and go all the time, those at their limit stay there."""
    page, tally = Page(mmap(-1, 1 << 20)), Page(mmap(-1, 4096))
    limits = Table(kind(100, 60 * SECOND), 64, page)
    attackers = [hash_of(b"attacker:%d" % number) for number in range(4)]
    for key in attackers:
        assert [limits.acquire(key, NOW) == 0 for _ in range(101)] == [True] * 100 + [False]

    def work() -> None:
        for number in range(10_000):
            limits.acquire(hash_of(b"%d:%d" % (os.getpid(), number)), NOW)
            if limits.acquire(attackers[number % 4], NOW) == 0:
                tally.add(0, 1)

    for child in [fork(work) for _ in range(4)]:
        os.waitpid(child, 0)
    assert tally.get(0) == 0
