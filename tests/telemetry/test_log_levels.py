"""Levels of the program's log: a cell a component, seen by every process at once; a file that several append to."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from kairos._speedups import cells
from kairos.config.log import COMPONENTS, Log
from kairos.control.loglevels import LevelChange, LogLevels
from kairos.scoreboard import Capacity, Scoreboard
from kairos.telemetry import log

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def board() -> Scoreboard:
    """A page that this process goes by."""
    made = Scoreboard(Capacity(workers=1, routes=1, pairs=1, upstreams=1))
    log.share_levels(made.page, made.levels)
    log.write_levels(Log())
    return made


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_there_are_cells_for_all_components() -> None:
    assert len(COMPONENTS) < cells.LEVEL_COMPONENTS
    assert len(set(COMPONENTS)) == len(COMPONENTS)


def test_a_level_holds_for_its_component_in_every_process(board, tmp_path):
    log.configure(Log(file=str(tmp_path / "log")))
    health, proxy = log.get_logger("health"), log.get_logger("proxy")
    before = [health.logs(log.DEBUG), proxy.logs(log.DEBUG)]
    child = os.fork()
    if child == 0:
        while not health.logs(log.DEBUG):
            time.sleep(0.001)
        health.debug("heard")
        proxy.debug("not heard")
        os._exit(0)
    board.page.set(board.levels + cells.LEVEL_NOW + log.component_index("health"), log.DEBUG)
    os.waitpid(child, 0)
    assert before == [False, False]
    assert [(line["event"], line["pid"]) for line in lines(tmp_path / "log")] == [("heard", child)]


def test_the_configuration_says_where_components_differ(board):
    log.write_levels(Log(level="warning", levels={"health": "debug", "jwt": "error"}))
    expected = {"health": 10, "jwt": 40, "proxy": 30, "a library of a plugin": 30}
    levels = {name: next(n for n in log.LEVELS.values() if log.get_logger(name).logs(n)) for name in expected}
    assert levels == expected


def in_loop(script):
    async def run() -> Any:
        return script()

    return asyncio.run(run())


def test_an_operator_sets_levels_and_they_go_back(board):
    levels = LogLevels(board)
    changes: list[Any] = []
    levels.on_change = lambda *change: changes.append(change)

    async def trace() -> None:
        levels.apply(Log(levels={"jwt": "error"}))
        before = time.time()
        shown = {status.component: status for status in levels.set(LevelChange({"jwt": "debug", "*": "warning"}, 0.05))}
        assert (shown["jwt"].level, shown["jwt"].configured) == ("debug", "error")
        assert (shown["proxy"].level, shown["others"].level) == ("warning", "warning")
        assert before + 0.049 < shown["jwt"].until < time.time() + 0.051
        while len(changes) < 2:
            await asyncio.sleep(0.005)
        assert {status.level for status in levels.list()} == {"info", "error"}
        assert not any(status.until for status in levels.list())
        levels.close()

    asyncio.run(trace())
    assert changes[0] == ({"jwt": "debug", "*": "warning"}, 0.05)
    assert changes[1][0]["jwt"] == "error"


def test_a_reload_and_the_next_control_process_leave_what_was_set(board):
    def trace() -> list[str]:
        first = LogLevels(board)
        first.apply(Log())
        first.set(LevelChange({"cache": "debug"}))
        first.apply(Log(level="error"))
        second = LogLevels(board)
        second.apply(Log(level="error"))
        found = {status.component: status.level for status in second.list()}
        back = {status.component: status.level for status in second.set(LevelChange({"cache": None}))}
        return [found["cache"], found["proxy"], back["cache"]]

    assert in_loop(trace) == ["debug", "error", "error"]
    assert board.page.get(board.levels + cells.LEVEL_UNTIL_US + log.component_index("cache")) == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (LevelChange({"helth": "debug"}), "no component 'helth'"),
        (LevelChange({"health": "debug"}, 0), "duration"),
        (LevelChange({"health": "debug"}, 1e9), "duration"),
        (LevelChange({}), "no level"),
    ],
    ids=["component", "nothing", "forever", "empty"],
)
def test_what_cannot_be_set_changes_nothing(board, change, why):
    levels = LogLevels(board)
    with pytest.raises(ValueError, match=why):
        in_loop(lambda: levels.set(change))
    assert {status.level for status in levels.list()} == {"info"}


# --- files ----------------------------------------------------------------------------------------------------------


def test_lines_have_the_fields_that_are_documented_first(board, tmp_path):
    log.configure(Log(file=str(tmp_path / "log")), node="edge-1")
    log.get_logger("cache").info("stored", size=3)
    (line,) = lines(tmp_path / "log")
    assert tuple(line) == (*log.FIELDS, "size")
    assert (line["component"], line["level"], line["event"], line["node"]) == ("cache", "info", "stored", "edge-1")


def test_a_file_has_text_by_choice_and_no_colours(board, tmp_path):
    log.configure(Log(file=str(tmp_path / "log"), format="text"))
    log.get_logger("cache").info("stored", size=3)
    text = (tmp_path / "log").read_text()
    assert "stored" in text
    assert "size=3" in text
    assert "\x1b[" not in text


def appender(path: Path, done: Path) -> int:
    """A process that appends numbered lines until `done` is there; says there how many."""
    child = os.fork()
    if child == 0:
        write, n = log.FileLines(str(path)), 0
        while not done.exists():
            write(json.dumps({"n": n, "pid": os.getpid(), "pad": "x" * 300}))
            n += 1
        done.with_name(str(os.getpid())).write_text(str(n))
        os._exit(0)
    return child


def test_processes_append_whole_lines_while_the_file_is_rotated_under_them(board, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "LOOK_S", 0.0)
    (tmp_path / "logs").mkdir()
    path = tmp_path / "logs" / "log"
    children = [appender(path, tmp_path / "done") for _ in range(3)]
    for rotated in range(5):
        while not path.exists() or path.stat().st_size < 5000:
            time.sleep(0.0005)
        path.rename(f"{path}.{rotated}")
    (tmp_path / "done").touch()
    for child in children:
        os.waitpid(child, 0)
    found = [json.loads(line) for file in path.parent.iterdir() for line in file.read_text().splitlines()]
    expected = [(child, n) for child in children for n in range(int((tmp_path / str(child)).read_text()))]
    assert sorted((line["pid"], line["n"]) for line in found) == sorted(expected)


def test_what_a_file_does_not_take_goes_to_standard_error(tmp_path, capfd):
    write = log.FileLines("/dev/full")
    write("first")
    gone = log.FileLines(str(tmp_path / "no" / "such" / "log"))
    gone("second")
    assert capfd.readouterr().err == "first\nsecond\n"


def test_threads_may_write_too(tmp_path):
    write = log.FileLines(str(tmp_path / "log"))
    threads = [threading.Thread(target=lambda: [write("x" * 500) for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "log").read_text().splitlines() == ["x" * 500] * 800


def test_a_library_speaks_as_a_component(board, tmp_path):
    log.configure(Log(file=str(tmp_path / "log")))
    log.adopt("some.library", "api")
    library = logging.getLogger("some.library.part")
    library.info("a statement and its values")
    library.warning("slow %s", "query")
    try:
        raise KeyError("x")
    except KeyError:
        library.exception("broken")
    slow, broken = lines(tmp_path / "log")
    assert (slow["component"], slow["level"], slow["event"]) == ("api", "warning", "slow query")
    assert slow["library"] == "some.library.part"
    assert "KeyError" in broken["exception"]
