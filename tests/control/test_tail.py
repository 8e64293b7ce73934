"""The live tail: which lines a watcher gets, how many, and what it costs those who do not watch."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos._speedups import cells
from kairos.config.log import Log
from kairos.config.model import AccessLog as Spec
from kairos.control import tail
from kairos.control.events import TooManyWatchersError
from kairos.control.logwriter import LogWriter
from kairos.control.tail import (
    MAX_WATCHERS,
    QUEUE_LINES,
    ProgramFilter,
    Recent,
    RequestFilter,
    Tail,
    globs,
    program_matcher,
    request_matcher,
)
from kairos.scoreboard import Capacity, Scoreboard
from kairos.telemetry.accesslog import AccessLog, LogReader, SaidRing

REQUEST: dict[str, Any] = {
    "client": "192.0.2.7", "method": "GET", "host": "api.test", "target": "/users/42?token=secret&page=2",
    "status": 503, "request_id": "req-1", "route": "/users/{id}", "upstream": "http://10.0.0.1:80", "total_us": 12_345,
    "user_agent": 'curl/8 "quoted"', "flag": "UF",
}  # fmt: skip


def page() -> Scoreboard:
    return Scoreboard(Capacity(workers=2, routes=1, pairs=1, upstreams=1))


def line(**fields: Any) -> bytes:
    board = page()
    AccessLog(board, 0, Spec()).write_line(**(REQUEST | fields))
    return LogReader(board).drain(0)


LINE = line()


# --- filters --------------------------------------------------------------------------------------------------------

YES = [
    {},
    {"route": "/users/{id}"},
    {"method": ["post", "get"]},
    {"status": ["503"]},
    {"status": ["404", "5xx"]},
    {"host": "api.test"},
    {"path": "/users/42"},
    {"path": "/users/*"},
    {"path": "*/42"},
    {"path": "/*s/4*"},
    {"client": "192.0.2.7"},
    {"client": "192.0.2.0/24"},
    {"client": "192.0.2.9/24"},
    {"upstream": "http://10.0.0.1:80"},
    {"request_id": "req-1"},
    {"min_ms": 12.3},
    {"flagged": True},
    {"text": 'curl/8 "quoted"'},
    {"text": "page=2"},
    {"route": "/users/{id}", "status": ["5xx"], "client": "192.0.2.0/24", "min_ms": 1, "path": "/u*"},
]
NO = [
    {"route": "/users"},
    {"method": ["POST"]},
    {"status": ["200"]},
    {"status": ["4xx"]},
    {"path": "/users"},
    {"path": "/users/4"},
    {"path": "*/43"},
    {"client": "192.0.2.70"},
    {"client": "198.51.100.0/24"},
    {"client": "2001:db8::/32"},
    {"min_ms": 12.4},
    {"text": "secret"},  # struck out before anybody sees the line
    {"status": ["5xx"], "method": ["PUT"]},
]


@pytest.mark.parametrize("wanted", YES, ids=json.dumps)
def test_a_filter_lets_pass(wanted: dict[str, Any]) -> None:
    assert request_matcher(RequestFilter(**wanted))(LINE)


@pytest.mark.parametrize("wanted", NO, ids=json.dumps)
def test_a_filter_holds_back(wanted: dict[str, Any]) -> None:
    assert not request_matcher(RequestFilter(**wanted))(LINE)


@pytest.mark.parametrize("wanted", [{"status": ["5x"]}, {"status": ["five"]}, {"status": ["50"]}, {"client": "x"}])
def test_a_filter_that_means_nothing_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"status|address|network"):
        request_matcher(RequestFilter(**wanted))


def test_no_value_forges_another_member() -> None:
    forged = line(user_agent='x","route":"/admin","status":200,"flag":"x', status=404, flag="-")
    assert not request_matcher(RequestFilter(route="/admin"))(forged)
    assert not request_matcher(RequestFilter(status=["200"]))(forged)
    assert not request_matcher(RequestFilter(flagged=True))(forged)


@given(st.lists(st.sampled_from(["a", "b", "ab", "", "ba"]), min_size=1, max_size=5), st.text("ab", max_size=12))
def test_globs_are_what_slow_regular_expressions_say(pieces: list[str], text: str) -> None:
    import re

    expected = re.fullmatch(".*".join(map(re.escape, pieces)), text) is not None
    assert globs(pieces, text) == expected


def test_a_glob_takes_no_time_whatever_it_is() -> None:
    pieces = ("*a" * 500).split("*")
    began = time.thread_time()
    assert not globs([*pieces, "b", "b"], "a" * 8192)
    assert time.thread_time() - began < 1


def test_levels_and_components_of_the_program_log() -> None:
    said = b'{"time":"x","level":"warning","component":"health","event":"backend is unhealthy"}'
    assert program_matcher(ProgramFilter())(said)
    assert program_matcher(ProgramFilter(level="warning", component=["jwt", "health"]))(said)
    assert not program_matcher(ProgramFilter(level="error"))(said)
    assert not program_matcher(ProgramFilter(component=["jwt"]))(said)
    assert program_matcher(ProgramFilter(text="unhealthy"))(said)


# --- what is kept ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), max_size=40))
def test_the_newest_lines_are_kept_in_bounded_memory(batches: list[int]) -> None:
    recent, lines = Recent(100), []
    for number, count in enumerate(batches):
        made = [b"%d-%d" % (number, n) for n in range(count)]
        lines += made
        recent.add(b"".join(one + b"\n" for one in made))
        assert recent._size <= 100
        kept = recent.lines()
        assert kept == lines[len(lines) - len(kept) :]
        assert kept


# --- watching -------------------------------------------------------------------------------------------------------


class Watched:
    """A tail whose writer is turned by hand."""

    def __init__(self, tmp_path: Any, **spec: Any) -> None:
        self.board = page()
        self.spec = Spec(file=str(tmp_path / "a.log"), **spec)
        self.tail = Tail(self.board)
        self.writer = LogWriter(self.board, self.spec.file, self.spec, self.tail)
        self.tail.apply(complete=self.spec.complete)

    def logs(self) -> AccessLog:
        """As a worker has it: with the tail's while somebody watches."""
        asked = bool(self.board.page.get(cells.H_TAIL))
        own = AccessLog(self.board, 0, self.spec, tail=True) if asked else None
        if self.spec.format == "off":
            assert own is not None
            return own
        return AccessLog(self.board, 0, self.spec, also=own)

    def turn(self) -> None:
        self.writer._pass()


def watching(script: Any) -> Any:
    async def run() -> Any:
        return await script()

    return asyncio.run(run())


def statuses(lines: list[bytes]) -> list[int]:
    return [json.loads(one)["status"] for one in lines]


def test_watchers_get_the_lines_that_are_written_anyway(tmp_path: Any) -> None:
    watched = Watched(tmp_path)

    async def trace() -> None:
        watched.tail.start()
        all_, errors = (
            watched.tail.watch_requests(wanted) for wanted in (RequestFilter(), RequestFilter(status=["5xx"]))
        )
        assert not watched.tail.asks_workers
        log = watched.logs()
        for status in (200, 503, 404):
            log.write_line(status=status)
        watched.turn()
        assert statuses(await all_.take(5)) == [200, 503, 404]
        assert statuses(await errors.take(5)) == [503]
        all_.close()
        log.write_line(status=500)
        watched.turn()
        assert statuses(await errors.take(5)) == [500]
        assert await all_.take(0.01) == []
        assert statuses(watched.tail.requests.newest(RequestFilter(), 2)) == [404, 500]
        assert statuses(watched.tail.requests.newest(RequestFilter(status=["4xx"]), 9)) == [404]

    watching(trace)
    assert (tmp_path / "a.log").read_text().count("\n") == 4


@pytest.mark.parametrize("spec", [{"format": "off"}, {"format": "combined"}, {"sample": 0.0}], ids=json.dumps)
def test_workers_write_lines_for_watchers_only_while_there_are_any(tmp_path: Any, spec: dict[str, Any]) -> None:
    watched = Watched(tmp_path, **spec)

    async def trace() -> None:
        watched.tail.start()
        watcher = watched.tail.watch_requests(RequestFilter())
        assert watched.tail.asks_workers
        watched.logs().write_line(**(REQUEST | {"status": 200}))
        watched.turn()
        (seen,) = await watcher.take(5)
        assert json.loads(seen)["query"] == "token=***&page=2"
        watcher.close()
        assert not watched.tail.asks_workers

    watching(trace)


def test_what_a_worker_has_no_room_for_is_told(tmp_path: Any) -> None:
    watched = Watched(tmp_path, format="off")

    async def trace() -> int:
        watched.tail.start()
        watcher = watched.tail.watch_requests(RequestFilter(), rate=tail.MAX_RATE)
        watched.logs().write_line(times=20_000, **REQUEST)
        watched.turn()
        got = 0
        while got + watcher.dropped < 20_000:
            got += len(await watcher.take(5))
        assert watched.board.page.get(watched.board.worker_block(0) + cells.W_LOG_DROPPED) == 0
        return got

    assert 0 < watching(trace) <= QUEUE_LINES


def test_a_watcher_that_is_slow_or_asks_for_little_loses_lines_and_knows_how_many(tmp_path: Any) -> None:
    watched = Watched(tmp_path)

    async def trace() -> None:
        watched.tail.start()
        fast, slow = (watched.tail.watch_requests(RequestFilter(), rate=rate) for rate in (2000.0, 5.0))
        watched.logs().write_line(times=1500, status=200)
        watched.turn()
        assert len(await fast.take(5)) <= QUEUE_LINES
        assert fast.dropped >= 500
        got = len(await slow.take(5))
        assert 5 <= got < 100
        assert slow.dropped == 1500 - got

    watching(trace)


def test_a_sample_is_a_share(tmp_path: Any) -> None:
    watched = Watched(tmp_path)

    async def trace() -> int:
        watched.tail.start()
        watcher = watched.tail.watch_requests(RequestFilter(), rate=2000.0, sample=0.1)
        watched.logs().write_line(times=1000, status=200)
        watched.turn()
        return len(await watcher.take(5))

    assert 30 < watching(trace) < 250


def test_choosing_lines_may_not_take_the_loop(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "SHARE", 0.0)
    watched = Watched(tmp_path)

    async def trace() -> None:
        watched.tail.start()
        watcher = watched.tail.watch_requests(RequestFilter())
        watched.logs().write_line(times=500, status=200)
        watched.turn()
        assert await watcher.take(0.05) == []
        assert watcher.dropped == 500

    watching(trace)


def test_there_is_room_for_so_many(tmp_path: Any) -> None:
    watched = Watched(tmp_path)

    async def trace() -> None:
        watched.tail.start()
        made = [watched.tail.watch_requests(RequestFilter()) for _ in range(MAX_WATCHERS - 1)]
        made.append(watched.tail.watch_program(ProgramFilter()))
        with pytest.raises(TooManyWatchersError, match="16"):
            watched.tail.watch_requests(RequestFilter())
        made[0].close()
        made[0].close()
        watched.tail.watch_program(ProgramFilter())
        for rate, sample in ((0, 1), (1e9, 1), (1, 0), (1, 2)):
            made[1].close()
            with pytest.raises(ValueError, match="rate"):
                watched.tail.watch_requests(RequestFilter(), rate=rate, sample=sample)

    watching(trace)


def test_the_next_control_process_tells_workers_that_nobody_watches() -> None:
    board = page()
    board.page.set(cells.H_TAIL, 1)
    Tail(board)
    assert board.page.get(cells.H_TAIL) == 0


def test_what_all_processes_say_can_be_watched(tmp_path: Any) -> None:
    watched = Watched(tmp_path)

    async def trace() -> None:
        watched.tail.start()
        watcher = watched.tail.watch_program(ProgramFilter(level="warning"))
        for slot, level in ((-1, "warning"), (0, "info"), (1, "error")):
            said = json.dumps({"level": level, "slot": slot}, separators=(",", ":")).encode() + b"\n"
            assert SaidRing(watched.board, slot).write(said)
        watched.turn()
        assert [json.loads(one)["slot"] for one in await watcher.take(5)] == [-1, 1]
        assert len(watched.tail.program.newest(ProgramFilter(), 10)) == 3

    watching(trace)


def test_a_full_ring_drops_what_is_said() -> None:
    ring = SaidRing(page(), 0)
    assert sum(ring.write(b"x" * 999 + b"\n") for _ in range(100)) == cells.SAID_BYTES // 1000


def test_lines_of_any_format_are_shown_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    from kairos.telemetry import log

    shown: list[bytes] = []
    log.show_lines(shown.append)
    try:
        for format_ in ("text", "json"):
            log.configure(Log(format=format_))
            try:
                raise KeyError("x")
            except KeyError:
                log.get_logger("cache").exception("broken", size={1})
    finally:
        log._shown = None
        import structlog

        structlog.reset_defaults()
        log.write_levels(Log(level="debug"))
    text, as_json = [json.loads(one) for one in shown]
    assert (text["event"], text["component"], text["size"]) == ("broken", "cache", "{1}")
    assert "KeyError" in text["exception"]
    assert as_json["exception"].startswith("Traceback")
