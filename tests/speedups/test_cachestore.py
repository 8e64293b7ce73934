"""The cache all processes share: what is found is what was stored, whoever writes, evicts, purges or dies meanwhile."""

from __future__ import annotations

import hashlib
import mmap
import os
import random
import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kairos._speedups.cachestore import MIN_BYTES, CacheStore

MIB = 1 << 20


def store(size: int = 2 * MIB) -> CacheStore:
    return CacheStore(mmap.mmap(-1, size), 7, True)


def value(key: bytes, version: int, size: int) -> bytes:
    """A body that proves itself: its digest, then bytes made from it."""
    seed = hashlib.sha256(key + b"%d" % version).digest()
    return seed + (seed * (size // 32 + 1))[:size]


def whole(body: bytes) -> bool:
    seed = body[:32]
    return body[32:] == (seed * (len(body) // 32 + 1))[: len(body) - 32]


def test_what_is_stored_is_found_until_it_is_replaced_or_deleted() -> None:
    cache = store()
    assert cache.get(b"a") is None
    assert cache.put(b"a", b"meta", b"body")
    assert cache.get(b"a") == (b"meta", b"body", False)
    assert cache.put(b"a", b"other", b"")
    assert cache.get(b"a") == (b"other", b"", False)
    assert cache.stats()["entries"] == 1
    assert cache.delete(b"a")
    assert not cache.delete(b"a")
    assert cache.get(b"a") is None


def test_a_key_counts_in_full() -> None:
    cache = store()
    cache.put(b"key", b"", b"1")
    assert cache.get(b"ke") is None
    assert cache.get(b"key\0") is None


def test_memory_that_holds_no_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="needs"):
        CacheStore(mmap.mmap(-1, 4096), 1, True)
    with pytest.raises(ValueError, match="holds no cache"):
        CacheStore(mmap.mmap(-1, MIN_BYTES), 1)


def test_two_views_of_the_memory_are_one_cache() -> None:
    memory = mmap.mmap(-1, 2 * MIB)
    one, other = CacheStore(memory, 5, True), CacheStore(memory, 5)
    one.put(b"k", b"m", b"b")
    assert other.get(b"k") == (b"m", b"b", False)


def test_what_is_too_large_is_not_stored() -> None:
    cache = store()
    assert not cache.put(b"big", b"", bytes(cache.max_entry))
    assert cache.put(b"just fits", b"", bytes(cache.max_entry - 200))
    assert cache.stats()["rejected"] == 1


def test_it_stays_bounded_and_keeps_what_is_new() -> None:
    cache = store()
    for i in range(20_000):
        assert cache.put(b"%d" % i, b"m", bytes(500))
    stats = cache.stats()
    assert stats["bytes"] <= 2 * MIB
    assert stats["evictions"] > 15_000
    assert cache.get(b"19999") is not None
    assert stats["entries"] == len(cache.every_key())


def test_a_scan_does_not_flush_what_is_in_use() -> None:
    cache = store()
    hot = [b"hot%d" % i for i in range(200)]
    misses = 0
    for i in range(10_000):  # five times the memory
        cache.put(b"scan%d" % i, b"", bytes(1000))
        key = hot[i % 200]
        if cache.get(key) is None:
            cache.put(key, b"", bytes(1000))
            misses += 1
    assert misses < 3 * 200, "each was fetched, and once more by the time it was known to be asked for often"


def test_what_comes_back_soon_after_it_fell_out_is_kept() -> None:
    cache = store()
    cache.put(b"back", b"", bytes(1000))
    for i in range(300):
        cache.put(b"a%d" % i, b"", bytes(1000))
    assert cache.get(b"back") is None
    cache.put(b"back", b"", bytes(1000))
    for i in range(300):
        cache.put(b"b%d" % i, b"", bytes(1000))
    assert cache.get(b"back") is not None


def test_purges_find_keys_tags_and_prefixes() -> None:
    cache = store()
    red, blue = cache.hash_of(b"red"), cache.hash_of(b"blue")
    cache.put(b"http://a/1", b"", b"", [red])
    cache.put(b"http://a/2", b"", b"", [red, blue])
    cache.put(b"http://b/1", b"", b"", [blue])
    cache.put(b"http://b/2", b"", b"")
    assert cache.purge(b"http://b/2", 10)
    assert not cache.purge(b"http://b/2", 11)
    assert cache.purge_tags([red], 12) == 2
    assert sorted(cache.every_key()) == [b"http://b/1"]
    assert cache.purge_prefix(b"http://a/", 13) == 0
    assert cache.purge_prefix(b"http://b/", 14) == 1
    assert cache.every_key() == []
    assert cache.stats()["purges"] == 5


def test_a_soft_purge_leaves_it_to_be_validated() -> None:
    cache = store()
    tag = cache.hash_of(b"t")
    cache.put(b"k", b"m", b"b", [tag])
    assert cache.purge_tags([tag], 10, True) == 1
    assert cache.get(b"k") == (b"m", b"b", True)
    cache.put(b"k", b"m", b"b", [tag])
    assert cache.get(b"k") == (b"m", b"b", False)


@pytest.mark.parametrize(
    "purge",
    [
        lambda cache, now: cache.purge(b"k", now),
        lambda cache, now: cache.purge_tags([cache.hash_of(b"t")], now),
        lambda cache, now: cache.purge_prefix(b"anything", now),
    ],
)
def test_what_was_asked_for_before_a_purge_is_not_stored_after_it(purge: Callable[[CacheStore, int], object]) -> None:
    cache = store()
    purge(cache, 1000)
    tags = [cache.hash_of(b"t")]
    assert not cache.put(b"k", b"", b"", tags, 999)
    assert cache.get(b"k") is None
    assert cache.put(b"k", b"", b"", tags, 1001)


def test_purges_of_others_are_no_hindrance_until_there_were_too_many_to_tell() -> None:
    cache = store()
    for i in range(100):
        cache.purge(b"other%d" % i, 1000 + i)
    assert cache.put(b"k", b"", b"", (), 500)
    for i in range(3000):
        cache.purge(b"other%d" % i, 2000 + i)
    assert not cache.put(b"k", b"", b"", (), 500)
    assert cache.put(b"k", b"", b"", (), 4000)


def test_one_fetches_and_the_others_know_it() -> None:
    cache = store()
    key = cache.hash_of(b"k")
    assert cache.acquire(key, 100, 200) == 1
    assert cache.acquire(key, 150, 250) == 0
    assert cache.busy(key, 199)
    assert not cache.busy(key, 200), "whoever died does not block it for longer than it said"
    assert cache.acquire(key, 201, 300) == 1
    cache.release(key, 200)
    assert cache.busy(key, 250), "the late one of before does not end it"
    cache.release(key, 300)
    assert not cache.busy(key, 250)
    assert cache.acquire(key + 4096, 250, 300) == 1
    assert cache.acquire(key, 250, 300) == -1, "another key has the place: nobody waits for it"


Step = tuple[str, int, int]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put", "put", "get", "delete", "purge"]), st.integers(0, 30), st.integers(0, 9000)
        ),
        max_size=300,
    )
)
@settings(max_examples=60, deadline=None)
def test_it_never_tells_anything_but_what_was_stored_last(steps: list[Step]) -> None:
    cache = store(MIN_BYTES)
    model: dict[bytes, bytes] = {}
    for version, (what, number, size) in enumerate(steps):
        key = b"key-%d" % number
        if what == "put":
            body = value(key, version, size * 16)
            if cache.put(key, b"%d" % version, body):
                model[key] = body
            else:
                assert len(body) > cache.max_entry - 300
        elif what == "get":
            found = cache.get(key)
            assert found is None or found[1] == model[key]
        else:
            there = cache.delete(key) if what == "delete" else cache.purge(key, version)
            assert there <= (key in model)
            model.pop(key, None)
            assert cache.get(key) is None
    for key in cache.every_key():
        found = cache.get(key)
        assert found is not None
        assert found[1] == model[key]


def _child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(1)
    return pid


def _mix(cache: CacheStore, seed: int, until: float) -> bool:
    """Store and read at random; whether all that was read was whole."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        key = b"key-%d" % rng.randrange(300)
        if rng.random() < 0.5:
            cache.put(key, b"m", value(key, rng.randrange(1000), rng.choice([10, 500, 5000, 60_000])))
        else:
            found = cache.get(key)
            if found is not None and not whole(found[1]):
                return False
    return True


def test_processes_that_read_and_write_at_once_see_only_whole_entries() -> None:
    cache = store()
    until = time.monotonic() + 0.8
    pids = [_child(lambda seed=seed: os._exit(0 if _mix(cache, seed, until) else 3)) for seed in range(3)]  # type: ignore[misc]
    assert _mix(cache, 99, until)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]


def test_writers_that_are_killed_at_any_moment_leave_a_sound_cache() -> None:
    cache = store()
    rng = random.Random(5)
    for number in range(60):
        pid = _child(lambda number=number: _mix(cache, number, time.monotonic() + 5))  # type: ignore[misc]
        time.sleep(rng.random() * 0.01)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for key in cache.every_key():  # takes every lock there is
            found = cache.get(key)
            assert found is None or whole(found[1])
        body = value(b"mine", number, 4000)
        assert cache.put(b"mine", b"m", body)
        assert cache.get(b"mine") == (b"m", body, False)


def test_a_process_that_does_not_run_blocks_no_store() -> None:
    cache = store(64 * MIB)
    pid = _child(lambda: _mix(cache, 1, time.monotonic() + 30))
    try:
        time.sleep(0.02)
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        stored = sum(cache.put(b"%d" % i, b"", b"x") for i in range(16))
        assert time.monotonic() - began < 5
        assert stored >= 1  # at most one of the shards is held
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
