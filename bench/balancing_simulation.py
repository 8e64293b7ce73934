"""Simulated backends in front of real balancers: the strategies as compiled, over a shared page, in simulated time.

Rules:
- Nothing here looks at a clock or draws an unseeded number: a run repeats exactly.
- Every policy meets the same requests: arrivals, lengths and coin tosses are drawn in the order of arrival, before
  anybody picks. So two policies can be compared to within a percent after a few thousand requests.
- A backend serves as many requests at once as it has slots, the others wait in line. Lengths are exponential: no
  distribution with as little to learn from occurs in practice.
- The workers are balancers of their own over the same cells, as in a gateway; each request comes to any of them.
- A failed request is charged CHARGE_US on top of its time: what a retry costs its client, a back-off of 50 ms in the
  mean and another attempt of 20 ms. Without it, a backend that fails fast would be the best of all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import groupby
from mmap import mmap
from typing import Protocol

from kairos._speedups import cells
from kairos._speedups.balance import make
from kairos.config.model import Strategy

WORKERS = 4
CHARGE_US = 70_000
SECOND = 1_000_000
STARTED_US = 3600 * SECOND
"""Monotonic time at the beginning: not zero, which in cells means never."""
SLOW_START_US = 10 * SECOND
PATIENCE = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Backend:
    """So many requests at once, each taking so long in the mean."""

    mean_us: float
    slots: int


@dataclass(frozen=True, slots=True)
class Episode:
    """What befalls one backend between two times (µs from the beginning)."""

    backend: int
    begin: float
    end: float
    factor: float = 1.0
    """Times the usual length."""
    failing: float = 0.0
    """Share of requests that fail."""
    warms_in: float = 0.0
    """The factor fades to 1 with this time constant; 0: it stays."""
    down: bool = False
    """Out by its health checks. It comes back at the end, with a slow start."""


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    backends: Sequence[Backend]
    rate: float
    """Requests per second."""
    requests: int
    episodes: Sequence[Episode] = ()

    def condition(self, backend: int, now: float) -> tuple[float, float]:
        """The mean length on a backend now, and the share of its requests that fail."""
        mean, failing = self.backends[backend].mean_us, 0.0
        for episode in self.episodes:
            if episode.backend == backend and episode.begin <= now < episode.end:
                fading = math.exp((episode.begin - now) / episode.warms_in) if episode.warms_in else 1.0
                mean *= 1 + (episode.factor - 1) * fading
                failing = max(failing, episode.failing)
        return mean, failing

    def down(self, backend: int, now: float) -> bool:
        return any(e.down and e.backend == backend and e.begin <= now < e.end for e in self.episodes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the clients of one run saw."""

    mean_us: float
    p99_us: float
    fill: float
    """99th percentile of (requests in flight / slots) that a pick found at its backend: well above the oracle's where
    requests are herded."""
    longest_run: int
    """Most picks of the same backend in a row."""
    failed: int


class Policy(Protocol):
    """Who picks. `done` is told of each request as it ends."""

    def pick(self, worker: int, client: int, now: float) -> int: ...
    def done(self, worker: int, backend: int, us: float, ok: bool, now: float) -> None: ...


class Gateway:
    """The workers' balancers of one route over one page."""

    def __init__(self, strategy: Strategy, scenario: Scenario) -> None:
        count = len(scenario.backends)
        self._scenario = scenario
        self._in_flight = 8 + cells.SU_CELLS * count
        self._stride = cells.U_CELLS * count
        self._page = cells.Page(mmap(-1, 8 * (self._in_flight + self._stride * WORKERS)))
        self._changes = sorted((time, e.backend) for e in scenario.episodes if e.down for time in (e.begin, e.end))
        backends = [
            (8 + cells.SU_CELLS * at, self._in_flight + cells.U_CELLS * at, 1, f"http://b{at}", 0)
            for at in range(count)
        ]
        self._balancers = [
            make(
                strategy,
                self._page,
                cursor=0,
                workers=WORKERS,
                stride=self._stride,
                backends=backends,
                seed=seed,
                slow_us=SLOW_START_US,
                panic_percent=0,
                breakers=True,
            )
            for seed in range(1, WORKERS + 1)
        ]

    def pick(self, worker: int, client: int, now: float) -> int:
        while self._changes and self._changes[0][0] <= now:
            self._change(*self._changes.pop(0))
        backend = self._balancers[worker].choose(client, STARTED_US + int(now))
        self._page.add(self._in_flight + worker * self._stride + cells.U_CELLS * backend, 1)
        return backend

    def _change(self, time: float, backend: int) -> None:
        """What the control process writes when health checks change their mind."""
        block = 8 + cells.SU_CELLS * backend
        down = self._scenario.down(backend, time)
        self._page.set(block + cells.SU_OUT, cells.OUT_DOWN if down else 0)
        self._page.set(block + cells.SU_BACK_AT_US, 0 if down else STARTED_US + int(time))

    def done(self, worker: int, backend: int, us: float, ok: bool, now: float) -> None:
        self._page.add(self._in_flight + worker * self._stride + cells.U_CELLS * backend, -1)
        self._balancers[worker].observe(backend, int(us), ok, STARTED_US + int(now))


class Oracle:
    """Knows each backend's slots, true mean length, share of failures and queue at any moment.

    It takes the least of: expected time to completion, waiting counted `patience` times, and the charge for what
    fails. A patience of 1 is the best for this one request, but selfish: it fills the queue of a fast backend until
    waiting there takes as long as a slow one, and everybody behind pays. The best patience depends on the scenario;
    an oracle knows it.
    """

    def __init__(self, scenario: Scenario, patience: float) -> None:
        self._scenario = scenario
        self._patience = patience
        self._in_flight = [0] * len(scenario.backends)

    def _cost(self, backend: int, now: float) -> tuple[float, float]:
        """And how full it is, for ties."""
        if self._scenario.down(backend, now):
            return math.inf, 0.0
        mean, failing = self._scenario.condition(backend, now)
        slots, ahead = self._scenario.backends[backend].slots, self._in_flight[backend]
        waiting = max(0, ahead + 1 - slots) / slots
        return mean * (1 + self._patience * waiting) + failing * CHARGE_US, ahead / slots

    def pick(self, worker: int, client: int, now: float) -> int:
        backend = min(range(len(self._in_flight)), key=lambda at: self._cost(at, now))
        self._in_flight[backend] += 1
        return backend

    def done(self, worker: int, backend: int, us: float, ok: bool, now: float) -> None:
        self._in_flight[backend] -= 1


def simulate(scenario: Scenario, policy: Policy, seed: int) -> Outcome:
    """One run: every request is sent where the policy says."""
    chance = random.Random(seed)
    free = [[0.0] * backend.slots for backend in scenario.backends]  # when each slot is, earliest first
    in_flight = [0] * len(scenario.backends)
    under_way: list[tuple[float, int, int, float, bool]] = []
    spent, fills, picks, failed, now = [], [], [], 0, 0.0
    for _ in range(scenario.requests):
        now += chance.expovariate(scenario.rate) * SECOND
        worker, client = chance.randrange(WORKERS), chance.getrandbits(63)
        length, coin = chance.expovariate(1), chance.random()
        while under_way and under_way[0][0] <= now:
            ended, at, by, us, ok = heappop(under_way)
            in_flight[at] -= 1
            policy.done(by, at, us, ok, ended)
        backend = policy.pick(worker, client, now)
        begun = max(now, free[backend][0])
        mean, failing = scenario.condition(backend, begun)
        end = begun + mean * length
        heapreplace(free[backend], end)
        heappush(under_way, (end, backend, worker, end - now, coin >= failing))
        fills.append(in_flight[backend] / scenario.backends[backend].slots)
        in_flight[backend] += 1
        spent.append(end - now + (CHARGE_US if coin < failing else 0))
        failed += coin < failing
        picks.append(backend)
    longest = max(sum(1 for _ in run) for _, run in groupby(picks))
    return Outcome(sum(spent) / len(spent), _p99(spent), _p99(fills), longest, failed)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def oracle(scenario: Scenario, seed: int) -> Outcome:
    """The best that somebody who knows everything but the length of single requests can do."""
    runs = (simulate(scenario, Oracle(scenario, patience), seed) for patience in PATIENCE)
    return min(runs, key=lambda outcome: outcome.mean_us)


def strategy(name: Strategy) -> Callable[[Scenario, int], Outcome]:
    """A run of a compiled strategy."""
    return lambda scenario, seed: simulate(scenario, Gateway(name, scenario), seed)
