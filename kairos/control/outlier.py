"""Passive health: leaves out for a while a backend that fails or is slow while the others of its route are not.

The workers count attempts per upstream; here the counts of a window are compared, route by route, and whoever is
ejected gets SU_SKIP_UNTIL_US. Rules:
- an upstream of several routes is judged by each; one verdict is enough;
- no ejection leaves any of its routes without a backend, or with more ejected than that route allows;
- an ejection ends by the workers' clock, with or without this process. It is longer each time, until the backend has
  behaved for as long as it was out.
"""

from __future__ import annotations

import asyncio
from statistics import median
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import astuple

from kairos._speedups import cells
from kairos.config.serving import every_route
from kairos.control.upstreams import Upstream, known_upstreams, monotonic_us, upstream_keys
from kairos.scoreboard import route_key
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kairos.config.model import Config, OutlierDetection, Route
    from kairos.scoreboard import Assignment, Scoreboard

LEAST_SLOW_US = 5_000
"""No mean below this is slow, whatever the others' is: among answers that quick a factor says little."""

log = get_logger("health")


class Window(Struct, frozen=True):
    """What the workers counted of an upstream, in all or between two looks."""

    attempts: int = 0
    failures: int = 0
    answers: int = 0
    answer_us: int = 0

    def since(self, before: Window) -> Window:
        """What came after."""
        return Window(
            self.attempts - before.attempts,
            self.failures - before.failures,
            self.answers - before.answers,
            self.answer_us - before.answer_us,
        )

    @property
    def error_percent(self) -> float:
        """Share of the attempts that failed."""
        return 100 * self.failures / self.attempts if self.attempts else 0.0

    @property
    def mean_us(self) -> float:
        """Mean time to the response head."""
        return self.answer_us / self.answers if self.answers else 0.0


class Finding(Struct, frozen=True):
    """An upstream that stands out, by one of two measures."""

    key: str
    measure: str
    own: float
    others: float

    @property
    def facts(self) -> dict[str, float]:
        """For the log."""
        return {self.measure: round(self.own, 3), f"{self.measure}_of_others": round(self.others, 3)}


def worst(spec: OutlierDetection, windows: Mapping[str, Window]) -> Finding | None:
    """The upstream of a route that stands out most among these: failures before slowness."""
    return _most_failing(spec, windows) or _slowest(spec, windows)


def _most_failing(spec: OutlierDetection, windows: Mapping[str, Window]) -> Finding | None:
    found = []
    for key, own in windows.items():
        others = _sum(window for other, window in windows.items() if other != key)
        if own.attempts < spec.min_requests or others.attempts == 0 or own.error_percent < spec.error_percent:
            continue
        if others.error_percent < own.error_percent / 2:
            found.append(Finding(key, "error_percent", own.error_percent, others.error_percent))
    return max(found, key=lambda finding: finding.own, default=None)


def _slowest(spec: OutlierDetection, windows: Mapping[str, Window]) -> Finding | None:
    if spec.latency_factor == 0:
        return None
    means = {key: window.mean_us for key, window in windows.items() if window.answers >= spec.min_requests}
    found = []
    for key, own in means.items():
        others = [mean for other, mean in means.items() if other != key]
        if others and own >= max(LEAST_SLOW_US, spec.latency_factor * median(others)):
            found.append(Finding(key, "latency_ms", own / 1000, median(others) / 1000))
    return max(found, key=lambda finding: finding.own, default=None)


def _sum(windows: Iterable[Window]) -> Window:
    return Window(*map(sum, zip(*map(astuple, windows), strict=True)))


def may_eject(spec: OutlierDetection, *, backends: int, ejected: int, available: int) -> bool:
    """Whether a route can spare one more of its available backends."""
    return available > 1 and ejected < max(1, int(backends * spec.max_ejection_percent / 100))


class Sentence(Struct, frozen=True):
    """An ejection: how many in a row with it, and from when to when."""

    in_a_row: int
    from_us: int
    until_us: int


def sentence(spec: OutlierDetection, last: Sentence | None, now_us: int) -> Sentence:
    """The next ejection of an upstream; in a row with the last one if it did not behave for as long as that took."""
    in_a_row = 1
    if last is not None:
        trial_us = max(last.until_us - last.from_us, int(2e6 * spec.interval))  # it is judged once an interval
        in_a_row = last.in_a_row + 1 if now_us - last.until_us <= trial_us else 1
    seconds = min(spec.ejection_time * in_a_row, spec.max_ejection_time)
    return Sentence(in_a_row, now_us, now_us + int(seconds * 1e6))


# --- at work --------------------------------------------------------------------------------------------------------


class _Judged(Struct, frozen=True):
    """A route with backends to compare."""

    key: str
    spec: OutlierDetection
    upstreams: list[str]


class OutlierDetector:
    """Compares and ejects, for the configuration in use. To be used inside the event loop."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self._upstreams: dict[str, Upstream] = {}
        self._routes: list[_Judged] = []
        self._sentences: dict[str, Sentence] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._tasks: dict[float, asyncio.Task[None]] = {}
        """By interval: routes of one interval are compared together."""

    def apply(self, config: Config, series: Assignment) -> None:
        """A revision is in use; whoever is not compared any more is not ejected."""
        self._upstreams = known_upstreams(self._scoreboard, series)
        self._routes = [judged for route in every_route(config) if (judged := self._judged(route, config)) is not None]
        compared = {key for route in self._routes if route.spec.enabled for key in route.upstreams}
        for key, upstream in self._upstreams.items():
            if not upstream.get(cells.SU_SKIP_UNTIL_US):
                continue
            if key not in compared:
                self._end(key)
            elif key not in self._ends:
                self._await_end(key)  # of a control process before this one
        self._settle_tasks({route.spec.interval for route in self._routes if route.spec.enabled})

    async def close(self) -> None:
        """End; what is ejected stays so until its time is over."""
        for timer in self._ends.values():
            timer.cancel()
        self._ends.clear()
        tasks = list(self._tasks.values())
        self._settle_tasks(set())
        await asyncio.gather(*tasks, return_exceptions=True)

    def _judged(self, route: Route, config: Config) -> _Judged | None:
        spec = route.outlier_detection or config.outlier_detection
        keys = [key for key in upstream_keys(route) if key in self._upstreams]
        return _Judged(route_key(route), spec, keys) if len(keys) > 1 else None

    def _settle_tasks(self, intervals: set[float]) -> None:
        for interval in self._tasks.keys() - intervals:
            self._tasks.pop(interval).cancel()
        for interval in intervals - self._tasks.keys():
            self._tasks[interval] = asyncio.get_running_loop().create_task(self._compare_every(interval))

    async def _compare_every(self, interval: float) -> None:
        before = self._counts()
        while True:
            await asyncio.sleep(interval)
            counts = self._counts()
            windows = {key: count.since(before[key]) for key, count in counts.items() if key in before}
            before = counts
            try:
                self._compare_all(interval, windows)
            except Exception:  # a fault of ours is nobody's verdict, and not the end of comparing
                log.exception("outlier detection failed to run")

    def _counts(self) -> dict[str, Window]:
        return {key: _count(self._upstreams[key]) for route in self._routes for key in route.upstreams}

    def _compare_all(self, interval: float, windows: Mapping[str, Window]) -> None:
        for route in self._routes:
            if route.spec.enabled and route.spec.interval == interval:
                self._compare(route, windows)

    def _compare(self, route: _Judged, windows: Mapping[str, Window]) -> None:
        now = monotonic_us()
        left = {
            key: windows[key] for key in route.upstreams if key in windows and self._upstreams[key].is_available(now)
        }
        while (finding := worst(route.spec, left)) is not None:
            del left[finding.key]  # nobody is compared with it any more
            if self._may_eject(finding.key, now):
                self._eject(route, finding, now)

    def _may_eject(self, key: str, now_us: int) -> bool:
        return all(self._can_spare_one(route, now_us) for route in self._routes if key in route.upstreams)

    def _can_spare_one(self, route: _Judged, now_us: int) -> bool:
        upstreams = [self._upstreams[key] for key in route.upstreams]
        return may_eject(
            route.spec,
            backends=len(upstreams),
            ejected=sum(upstream.get(cells.SU_SKIP_UNTIL_US) > now_us for upstream in upstreams),
            available=sum(upstream.is_available(now_us) for upstream in upstreams),
        )

    def _eject(self, route: _Judged, finding: Finding, now_us: int) -> None:
        key, upstream = finding.key, self._upstreams[finding.key]
        self._sentences[key] = given = sentence(route.spec, self._sentences.get(key), now_us)
        upstream.set(cells.SU_SKIP_UNTIL_US, given.until_us)
        upstream.count(cells.SU_EJECTED)
        seconds = (given.until_us - given.from_us) / 1e6
        log.warning(
            "backend ejected", upstream=key, route=route.key, seconds=seconds, in_a_row=given.in_a_row, **finding.facts
        )
        self._await_end(key)

    def _await_end(self, key: str) -> None:
        if (timer := self._ends.get(key)) is not None:
            timer.cancel()
        left_us = self._upstreams[key].get(cells.SU_SKIP_UNTIL_US) - monotonic_us()
        self._ends[key] = asyncio.get_running_loop().call_later(max(left_us / 1e6, 0), self._end, key)

    def _end(self, key: str) -> None:
        """Its time is over, or it is not compared any more: slow start begins."""
        if (timer := self._ends.pop(key, None)) is not None:
            timer.cancel()
        upstream = self._upstreams[key]
        upstream.set(cells.SU_BACK_AT_US, monotonic_us())
        upstream.set(cells.SU_SKIP_UNTIL_US, 0)
        log.info("ejection over", upstream=key)


def _count(upstream: Upstream) -> Window:
    totals = upstream.totals()
    return Window(*(totals[cell] for cell in (cells.U_ATTEMPTS, cells.U_FAILURES, cells.U_ANSWERS, cells.U_ANSWER_US)))
