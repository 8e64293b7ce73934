"""Whether rate limits hold: `python -m bench limits`.

Eight processes take from one limit at once, as fast as they can; what they get together is compared with what there
was, to the request. Then ten million keys, one request each, want a place in a table of the default size, while one key
that has used its limit up goes on asking. Fails where one request too many was granted.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Sequence
from mmap import mmap
from random import Random
from typing import NamedTuple

from kairos._speedups.cells import Page
from kairos._speedups.limits import (
    T_FORGOTTEN,
    T_FULL,
    FixedWindow,
    Limit,
    LimitTable,
    SlidingWindow,
    TokenBucket,
    table_cells,
)
from kairos.config.model import Server
from kairos.scoreboard import WINDOW_WORDS

KINDS: list[type[Limit]] = [FixedWindow, SlidingWindow, TokenBucket]
HOUR_US = 3600 * 1_000_000
KEY = 0x5DEECE66D0B

GRANTED, TOOK_NS, READY, GO = range(4)
"""Cells that the processes share beside the table."""


class Together(NamedTuple):
    """What processes got of one limit."""

    kind: str
    tries: int
    granted: int
    allowed: int
    ns: float
    """Processor time of one try."""

    @property
    def over(self) -> int:
        return max(self.granted - self.allowed, 0)


class Flood(NamedTuple):
    """What many keys did to a table."""

    kind: str
    keys: int
    passed: int
    """Of these keys, those that were granted their one request."""
    attacker: int
    """Requests granted to the key that had used its limit up."""
    forgotten: int
    full: int
    mib: float
    ns: float


def together(kind: type[Limit], processes: int, tries: int) -> Together:
    """Half of what they try is allowed."""
    requests = processes * tries // 2
    limit = kind(min(requests, 10_000_000), HOUR_US)
    table = LimitTable(
        Page(mmap(-1, 8 * table_cells(64, WINDOW_WORDS))), 0, table_cells(64, WINDOW_WORDS), WINDOW_WORDS
    )
    cells = Page(mmap(-1, 4096))
    children = [_fork(table, limit, cells, tries) for _ in range(processes)]
    while cells.get(READY) < processes:
        time.sleep(0.001)
    began = time.monotonic()
    cells.set(GO, 1)
    for child in children:
        os.waitpid(child, 0)
    refilled = int((time.monotonic() - began) * limit.capacity / 3600) + 1 if kind is TokenBucket else 0
    took = cells.get(TOOK_NS) / (processes * tries)
    return Together(kind.__name__, processes * tries, cells.get(GRANTED), limit.capacity + refilled, took)


def _fork(table: LimitTable, limit: Limit, cells: Page, tries: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        cells.add(READY, 1)
        while not cells.get(GO):
            time.sleep(0)
        began, acquire, granted = time.process_time_ns(), table.acquire, 0
        for _ in range(tries):
            granted += acquire(KEY, limit, time.monotonic_ns() // 1000) == 0
        cells.add(TOOK_NS, time.process_time_ns() - began)
        cells.add(GRANTED, granted)
    finally:
        os._exit(0)


def flood(kind: type[Limit], keys: int, places: int) -> Flood:
    """Each new key asks once; the one at its limit asks after every thousandth."""
    limit = kind(10, HOUR_US)
    cells = table_cells(places, limit.words)
    before = _touched_mib()
    table = LimitTable(Page(mmap(-1, 8 * cells)), 0, cells, limit.words)
    now, random = time.monotonic_ns() // 1000, Random(1)
    while table.acquire(KEY, limit, now) == 0:
        pass
    acquire, bits = table.acquire, random.getrandbits
    passed = attacker = 0
    began = time.process_time_ns()
    for number in range(keys):
        passed += acquire(bits(64), limit, now + number) == 0
        if number % 1000 == 0:
            attacker += acquire(KEY, limit, now + number) == 0
    took = (time.process_time_ns() - began) / keys
    mib = _touched_mib() - before
    return Flood(kind.__name__, keys, passed, attacker, table.count(T_FORGOTTEN), table.count(T_FULL), mib, took)


def _touched_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench limits", description=__doc__)
    parser.add_argument("--processes", type=int, default=8, help="that take at once (8)")
    parser.add_argument("--tries", type=int, default=500_000, help="of each process (500000)")
    parser.add_argument("--keys", type=int, default=10_000_000, help="of the flood (10000000)")
    parser.add_argument("--places", type=int, default=Server().rate_limit_keys, help="of the table (rate_limit_keys)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    wrong = 0
    print(f"{options.processes} processes at one limit")
    print(_row("", "tries", "granted", "allowed", "over", "ns"))
    for run in (together(kind, options.processes, options.tries) for kind in KINDS):
        wrong += run.over
        print(_row(run.kind, run.tries, run.granted, run.allowed, run.over, round(run.ns)), flush=True)
    print(f"\n{options.keys} keys, {options.places} places")
    print(_row("", "passed", "attacker", "forgotten", "full", "MiB", "ns"))
    for kind in (TokenBucket, SlidingWindow):
        seen = flood(kind, options.keys, options.places)
        wrong += seen.attacker
        cells = (seen.passed, seen.attacker, seen.forgotten, seen.full, round(seen.mib), round(seen.ns))
        print(_row(seen.kind, *cells), flush=True)
    if wrong:
        print(f"\nbench: {wrong} requests too many were granted", file=sys.stderr)
    return 1 if wrong else 0


def _row(name: str, *cells: object) -> str:
    return f"{name:16}" + "".join(f"{cell:>12}" for cell in cells)
