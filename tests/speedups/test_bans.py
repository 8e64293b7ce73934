"""Bans: traces of failures and what follows, alone, in a full table, and counted by several processes at once."""

from __future__ import annotations

import ipaddress
import os
from mmap import mmap

import pytest

from kairos._speedups.bans import Bans, Rule, jail_hash, lifted, listed, rule
from kairos._speedups.cells import Page

SECOND = 1_000_000
HOUR = 3600 * SECOND
START = 86_400 * SECOND
CELLS = 8 + 6 * 8 * 64  # 512 places


def packed(text: str) -> bytes:
    """16 bytes, IPv4 mapped."""
    address = ipaddress.ip_address(text)
    return address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed


def strict(failures: int = 3, **changes: float) -> Rule:
    """Three failures in 10 s ban for 60 s, then twice that, at most 200 s."""
    settings = {"window": 10.0, "time": 60.0, "most": 200.0, "growth": 2.0, "forget": 3600.0} | changes
    window, time, most, forget = (int(settings[name] * SECOND) for name in ("window", "time", "most", "forget"))
    return rule(failures, window, time, most, settings["growth"], forget)


def made(ban: Rule | None = None, jail: str = "default", page: Page | None = None, cells: int = CELLS) -> Bans:
    return Bans(page or Page(mmap(-1, 8 * cells)), 0, cells, ban or strict(), jail, 77)


def fail(bans: Bans, address: str, *moments: float) -> list[float]:
    """The bans that failures bring, in seconds."""
    return [bans.failed(packed(address), START + int(moment * SECOND)) / SECOND for moment in moments]


def left(bans: Bans, address: str, moment: float) -> float:
    return bans.banned_for(packed(address), START + int(moment * SECOND)) / SECOND


def test_an_address_is_banned_after_so_many_failures() -> None:
    bans = made()
    assert left(bans, "192.0.2.1", 0) == 0
    assert fail(bans, "192.0.2.1", 0, 1, 2) == [0, 0, 60]
    assert left(bans, "192.0.2.1", 3) == 59
    assert left(bans, "192.0.2.2", 3) == 0
    assert left(bans, "192.0.2.1", 61.999) == pytest.approx(0.001)
    assert left(bans, "192.0.2.1", 62) == 0


def test_failures_too_far_apart_ban_nobody() -> None:
    assert fail(made(), "192.0.2.1", *range(0, 200, 6)) == [0] * 34


def test_failures_during_a_ban_make_it_no_longer() -> None:
    bans = made()
    assert fail(bans, "192.0.2.1", 0, 0, 0, 1, 2, 3, 4) == [0, 0, 60, 0, 0, 0, 0]
    assert left(bans, "192.0.2.1", 4) == 56


def test_each_further_ban_is_longer_up_to_the_cap() -> None:
    bans = made()
    lengths = [fail(bans, "192.0.2.1", at, at, at)[-1] for at in range(0, 2000, 400)]
    assert lengths == [60, 120, 200, 200, 200]


def test_counting_again_keeps_earlier_offences() -> None:
    """A failure every now and then between two bans does not make a first offender of him."""
    bans = made()
    assert fail(bans, "192.0.2.1", 0, 0, 0) == [0, 0, 60]
    assert fail(bans, "192.0.2.1", 100, 200, 300) == [0, 0, 0]
    assert fail(bans, "192.0.2.1", 400, 400, 400) == [0, 0, 120]


def test_offences_are_forgotten() -> None:
    bans = made(strict(forget=500))
    assert fail(bans, "192.0.2.1", 0, 0, 0) == [0, 0, 60]
    assert fail(bans, "192.0.2.1", 561, 561, 561) == [0, 0, 60]
    assert fail(bans, "192.0.2.1", 1000, 1120, 1120, 1120) == [0, 0, 0, 120]


def test_one_failure_may_be_enough() -> None:
    assert fail(made(strict(1)), "192.0.2.1", 0, 1) == [60, 0]


def test_bans_grow_to_the_last_step_and_no_further() -> None:
    bans = made(strict(1, growth=1.5, most=1e6))
    lengths = [fail(bans, "192.0.2.1", at * 10_000)[0] for at in range(4)]
    assert lengths == [60, 60, 60, 60]  # forgotten in between
    bans = made(strict(1, time=1, growth=1.1, most=1e6))
    lengths = [fail(bans, "192.0.2.1", at * 100)[0] for at in range(20)]
    assert lengths == sorted(lengths)
    assert lengths[0] == 1
    assert lengths[15:] == [lengths[15]] * 5


def test_an_ipv6_client_is_its_64() -> None:
    bans = made()
    assert fail(bans, "2001:db8:1:2::1", 0, 0) == [0, 0]
    assert fail(bans, "2001:db8:1:2:ffff::7", 0) == [60]
    assert left(bans, "2001:db8:1:2:3:4:5:6", 1) == 59
    assert left(bans, "2001:db8:1:3::1", 1) == 0


def test_ipv4_addresses_are_told_apart_though_they_share_a_64() -> None:
    bans = made(strict(1))
    assert fail(bans, "192.0.2.1", 0) == [60]
    assert left(bans, "192.0.2.2", 0) == 0
    assert left(bans, "::1", 0) == 0


def test_jails_share_the_table_and_nothing_else() -> None:
    page = Page(mmap(-1, 8 * CELLS))
    one, other = made(page=page), made(strict(1), "other", page)
    assert fail(one, "192.0.2.1", 0, 0, 0) == [0, 0, 60]
    assert left(other, "192.0.2.1", 0) == 0
    assert fail(other, "192.0.2.1", 0) == [60]
    same = made(page=page)
    assert left(same, "192.0.2.1", 1) == 59


def test_bans_are_listed_and_lifted() -> None:
    page = Page(mmap(-1, 8 * CELLS))
    bans, other = made(page=page), made(strict(1), "login", page)
    fail(bans, "192.0.2.1", 0, 0, 0)
    fail(bans, "2001:db8::9", 0, 0, 0)
    fail(bans, "192.0.2.9", 0)
    fail(other, "192.0.2.1", 0)
    found = {(who, jail): (left, offences) for who, jail, left, offences in listed(page, 0, CELLS, START)}
    assert found == {
        (packed("192.0.2.1"), jail_hash("default")): (60 * SECOND, 1),
        (packed("2001:db8::"), jail_hash("default")): (60 * SECOND, 1),
        (packed("192.0.2.1"), jail_hash("login")): (60 * SECOND, 1),
    }
    assert lifted(page, 0, CELLS, packed("192.0.2.1")) == 2
    assert lifted(page, 0, CELLS, packed("2001:db8::77")) == 1
    assert lifted(page, 0, CELLS, packed("2001:db8::77")) == 0
    assert listed(page, 0, CELLS, START) == []
    assert fail(bans, "192.0.2.1", 0, 0, 0) == [0, 0, 60]


def test_a_full_table_lets_go_of_passers_by_first() -> None:
    """However many addresses fail once, those that are banned stay so."""
    bans = made(cells=8 + 6 * 8)
    assert fail(bans, "192.0.2.1", 0, 0, 0) == [0, 0, 60]
    for n in range(1000):
        assert fail(bans, f"198.51.{n // 250}.{n % 250}", 1) == [0]
    assert left(bans, "192.0.2.1", 2) == 58


def test_processes_count_together() -> None:
    """1000 failures from four processes: the ban comes with exactly the thousandth."""
    bans = made(strict(1000, window=3600))
    address, children = packed("203.0.113.5"), []
    for _ in range(4):
        if (child := os.fork()) == 0:
            made_bans = sum(bans.failed(address, START) > 0 for _ in range(250))
            os._exit(made_bans)
        children.append(child)
    assert sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children) == [0, 0, 0, 1]
    assert bans.banned_for(address, START) == 60 * SECOND


def test_a_bad_rule_or_address_is_refused() -> None:
    for settings in ((0, 1, 1, 1, 1), (1 << 20, 1, 1, 1, 1), (1, 1, 0, 1, 1), (1, 1, 1, 1, 0.5)):
        with pytest.raises(ValueError):
            rule(settings[0], settings[1] * SECOND, settings[2] * SECOND, settings[3] * SECOND, settings[4], 0)
    for address in (b"", b"1.2.3.4", bytes(17)):
        with pytest.raises(ValueError):
            made().failed(address, 0)
        with pytest.raises(ValueError):
            made().banned_for(address, 0)
