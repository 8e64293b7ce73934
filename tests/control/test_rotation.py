"""Rotation of log files: when, what the old ones are called, which of them stay, and that no line is lost."""

from __future__ import annotations

import gzip
import os
import time
from pathlib import Path

import pytest

from kairos._speedups import cells
from kairos.config.log import LogFile
from kairos.config.model import AccessLog as Spec
from kairos.control import logwriter, rotation
from kairos.control.logwriter import LogWriter
from kairos.control.rotation import Housekeeper, Rotation, compress, old_files, stamp, surplus, tidy
from kairos.scoreboard import Capacity, Scoreboard
from kairos.telemetry.accesslog import AccessLog

NOON = 1_795_780_800.0  # 2026-11-27T12:00:00Z
DAY = 86_400.0


def touch(folder: Path, *ended_at: float, suffix: str = "", text: str = "x") -> list[Path]:
    made = [folder / f"a.log.{stamp(moment)}{suffix}" for moment in ended_at]
    for path in made:
        path.write_text(text)
    return made


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- when -----------------------------------------------------------------------------------------------------------


def test_a_file_is_full_or_its_day_is_over(tmp_path):
    day = Rotation(str(tmp_path / "a.log"), LogFile(rotate_every=DAY), NOON)
    assert not day.due(10**12, NOON + DAY / 2 - 1)
    assert day.due(1, NOON + DAY / 2)
    assert not day.due(0, NOON + DAY / 2)  # an empty file begins its day now
    assert not day.due(1, NOON + DAY)
    size = Rotation(str(tmp_path / "a.log"), LogFile(max_bytes=5000), NOON)
    assert [size.due(n, NOON + 9 * DAY) for n in (0, 4999, 5000)] == [False, False, True]


def test_a_file_of_yesterday_is_rotated_by_the_process_that_finds_it(tmp_path):
    (tmp_path / "a.log").write_text("old\n")
    os.utime(tmp_path / "a.log", (NOON - DAY, NOON - DAY))
    found = Rotation(str(tmp_path / "a.log"), LogFile(rotate_every=DAY), NOON)
    assert found.due(4, NOON)
    found.rotate(NOON)
    assert names(tmp_path) == {"a.log.20261127T120000.000Z"}
    assert not found.due(4, NOON + 1)


def test_no_old_file_is_overwritten(tmp_path):
    path = tmp_path / "a.log"
    found = Rotation(str(path), LogFile(max_bytes=5000), NOON)
    touch(tmp_path, NOON)
    touch(tmp_path, NOON + 0.001, suffix=".gz")
    path.write_text("new")
    found.rotate(NOON)
    assert (tmp_path / f"a.log.{stamp(NOON + 0.002)}").read_text() == "new"


# --- which stay -----------------------------------------------------------------------------------------------------


def test_the_newest_stay_and_strangers_are_left_alone(tmp_path):
    touch(tmp_path, *(NOON - n * DAY for n in range(5)))
    strangers = ["a.log", "a.log.1", "a.log.1.gz", "a.log.20261127T120000.000Z.bak", "xa.log.20261127T120000.000Z"]
    for name in strangers:
        (tmp_path / name).write_text("x")
    tidy(str(tmp_path / "a.log"), LogFile(max_bytes=5000, max_files=2), NOON)
    assert names(tmp_path) == {*strangers, *(f"a.log.{stamp(NOON - n * DAY)}" for n in range(2))}


def test_old_files_go_by_age_or_all_stay(tmp_path):
    touch(tmp_path, NOON - 10, suffix=".gz")
    touch(tmp_path, NOON - DAY, NOON - 2 * DAY)
    files = old_files(str(tmp_path / "a.log"))
    assert [old.compressed for old in files] == [True, False, False]
    assert list(surplus(files, LogFile(max_files=None), NOON)) == []
    assert list(surplus(files, LogFile(max_files=0), NOON)) == files
    assert list(surplus(files, LogFile(max_age=1.5 * DAY), NOON)) == files[2:]


def test_compressed_files_hold_the_same_and_keep_mode_and_time(tmp_path):
    (old,) = touch(tmp_path, NOON - DAY, text="line\n" * 100_000)
    old.chmod(0o640)
    os.utime(old, (NOON, NOON))
    assert not tidy(str(tmp_path / "a.log"), LogFile(max_bytes=5000, compress=True), NOON)
    packed = Path(f"{old}.gz")
    assert names(tmp_path) == {packed.name}
    assert gzip.decompress(packed.read_bytes()) == b"line\n" * 100_000
    assert (packed.stat().st_mode & 0o777, packed.stat().st_mtime) == (0o640, NOON)


def test_a_file_that_somebody_may_still_append_to_is_not_compressed_yet(tmp_path):
    (old,) = touch(tmp_path, NOON - 1)
    assert tidy(str(tmp_path / "a.log"), LogFile(compress=True), NOON)
    assert names(tmp_path) == {old.name}
    assert not tidy(str(tmp_path / "a.log"), LogFile(compress=True), NOON + rotation.SETTLE_S)
    assert names(tmp_path) == {old.name + ".gz"}


def test_compression_that_is_stopped_or_killed_leaves_the_file(tmp_path):
    (old,) = touch(tmp_path, NOON - DAY, text="line\n")
    compress(str(old), lambda: True)
    assert names(tmp_path) == {old.name}
    Path(f"{old}.gz.new").write_bytes(b"half")
    Path(f"{old}.gz").write_bytes(b"an earlier one, whose source was not removed any more")
    tidy(str(tmp_path / "a.log"), LogFile(compress=True), NOON)
    assert names(tmp_path) == {old.name + ".gz"}
    assert gzip.decompress(Path(f"{old}.gz").read_bytes()) == b"line\n"


# --- the access log -------------------------------------------------------------------------------------------------


class Writing:
    """A log writer without its thread, and a worker's end of it."""

    def __init__(self, path: Path, **rotation_: object) -> None:
        self.board = Scoreboard(Capacity(workers=1, routes=1, pairs=1, upstreams=1))
        self.log = AccessLog(self.board, 0, Spec())
        self.path = path
        self.writer = LogWriter(self.board, str(path), Spec(file=str(path), **rotation_))

    def write(self, first: int, count: int = 1) -> None:
        for status in range(first, first + count):
            self.log.write_line(status=status)
        self.writer._pass()

    def statuses(self, path: Path) -> list[int]:
        return [int(line.split('"status":')[1][:3]) for line in path.read_text().splitlines()]

    def old(self) -> list[Path]:
        return [Path(old.path) for old in reversed(old_files(str(self.path)))]


def test_no_file_is_larger_than_it_may_be_and_no_line_is_cut_or_lost(tmp_path):
    writing = Writing(tmp_path / "a.log", max_bytes=4096)
    writing.write(100, 500)
    writing.write(600, 300)
    files = [*writing.old(), writing.path]
    assert len(files) > 10
    assert all(file.stat().st_size <= 4096 for file in files)
    assert min(file.stat().st_size for file in files[:-1]) > 3800
    assert [status for file in files for status in writing.statuses(file)] == list(range(100, 900))


def test_a_line_longer_than_a_file_may_be_has_one_of_its_own(tmp_path):
    writing = Writing(tmp_path / "a.log", max_bytes=4096)
    writing.log.write_line(status=200)
    writing.log.write_line(status=201, target="/" + "x" * 8000)
    writing.write(202)
    assert [writing.statuses(file) for file in (*writing.old(), writing.path)] == [[200], [201], [202]]


def test_a_day_ends_also_when_nothing_is_written(tmp_path, monkeypatch):
    writing = Writing(tmp_path / "a.log", rotate_every=DAY)
    writing.write(200)
    now = time.time()
    monkeypatch.setattr(logwriter.time, "time", lambda: now + DAY)
    writing.writer._look_at = 0.0
    writing.writer._pass()
    assert [writing.statuses(file) for file in (*writing.old(), writing.path)] == [[200], []]
    writing.writer._look_at = 0.0
    writing.writer._pass()
    assert len(writing.old()) == 1  # nothing to rotate in an empty file


def test_what_another_process_rotated_is_followed(tmp_path):
    writing = Writing(tmp_path / "a.log", max_bytes=4096)
    writing.write(200)
    (tmp_path / "a.log").rename(tmp_path / "a.log.1")
    (tmp_path / "a.log").write_text("")
    writing.writer._look_at = 0.0
    writing.writer._pass()
    writing.write(201)
    assert writing.statuses(tmp_path / "a.log.1") == [200]
    assert writing.statuses(tmp_path / "a.log") == [201]


def test_a_file_that_cannot_be_renamed_grows_on(tmp_path, monkeypatch):
    writing = Writing(tmp_path / "a.log", max_bytes=4096)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(rotation.os, "rename", refuse)
    writing.write(100, 300)
    assert writing.old() == []
    assert writing.statuses(writing.path) == list(range(100, 400))
    monkeypatch.undo()
    writing.writer._rotate_from = 0.0
    writing.write(400)
    assert writing.statuses(writing.path) == [400]


def test_beside_another_gateway_it_does_not_rotate(tmp_path):
    writing = Writing(tmp_path / "a.log", max_bytes=4096)
    writing.writer.may_rotate = False
    writing.write(100, 300)
    assert writing.old() == []
    writing.writer.may_rotate = True
    writing.write(400)
    assert len(writing.old()) == 1


def test_a_reload_changes_how_much_is_kept_at_once(tmp_path):
    writing = Writing(tmp_path / "a.log")
    writing.write(100, 300)
    assert writing.old() == []
    writing.writer.switch(str(writing.path), Spec(file=str(writing.path), max_bytes=4096))
    writing.write(400)
    assert len(writing.old()) == 1


def test_devices_are_not_rotated():
    writing = Writing(Path("/dev/null"), max_bytes=4096)
    writing.write(100, 300)
    assert writing.writer._rotation is None
    assert writing.board.page.get(cells.H_LOG_UNWRITTEN) == 0


# --- the program's log ----------------------------------------------------------------------------------------------


def until(condition) -> None:
    end = time.monotonic() + 25
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.005)


def test_the_housekeeper_rotates_what_all_processes_append_to(tmp_path, monkeypatch):
    monkeypatch.setattr(rotation, "LOOK_S", 0.01)
    monkeypatch.setattr(rotation, "SETTLE_S", 0.05)
    path = tmp_path / "a.log"
    path.write_text("x" * 5000)
    touch(tmp_path, NOON - 3 * DAY, NOON - 2 * DAY)
    spec = LogFile(max_bytes=4096, max_files=1, compress=True)
    keeper = Housekeeper()
    keeper.apply((str(path), spec), ("-", LogFile()))
    keeper.allow(allowed=True)
    until(lambda: len(old_files(str(path))) == 1 and old_files(str(path))[0].compressed)
    assert gzip.decompress(Path(old_files(str(path))[0].path).read_bytes()) == b"x" * 5000
    assert path.read_bytes() == b""
    keeper.stop(5)


def test_the_housekeeper_does_nothing_where_another_gateway_does(tmp_path):
    path = tmp_path / "a.log"
    path.write_text("x" * 5000)
    keeper = Housekeeper()
    keeper.apply((str(path), LogFile(max_bytes=4096)), ("-", LogFile()))
    assert not keeper._thread.is_alive()
    keeper.stop(5)
    assert path.exists()


@pytest.mark.parametrize("at", [NOON, NOON + 0.0004, 0.0])
def test_a_stamp_is_a_time(at):
    assert stamp(NOON) == "20261127T120000.000Z"
    assert len(stamp(at)) == len("20261127T120000.000Z")
