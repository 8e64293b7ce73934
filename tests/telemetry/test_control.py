"""The control process, run for real: scraped over its socket, writing log files, told what to do by its channel."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import socket
import time
import traceback
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kairos._speedups import cells
from kairos.channel import (
    Abort,
    Ack,
    Commit,
    Decoder,
    Drain,
    Drained,
    Nack,
    Prepare,
    Ready,
    ReopenLogs,
    Stop,
    WorkerBoot,
    encode,
)
from kairos.config.admin import Admin
from kairos.config.log import Log
from kairos.config.model import AccessLog as Spec
from kairos.config.model import Backend, Config, Metrics, Route
from kairos.control.main import main
from kairos.scoreboard import Capacity, Scoreboard, Series
from kairos.telemetry.accesslog import AccessLog

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
PATIENCE = 25  # seconds a loaded machine may take for what normally takes 0.1


def config(file: str, rotation: dict[str, object] | None = None, **options) -> Config:
    route = Route(external_path="/a", internal_path="/a", methods=["GET"], backends=[Backend(host="http://app")])
    return Config(
        routers=[route],
        access_log=Spec(file=file, **(rotation or {})),
        log=Log(level="error"),
        admin=Admin(enabled=False),
        **options,
    )


class Control:
    """A control process seen from its supervisor, its workers and whoever scrapes it."""

    def __init__(
        self,
        directory: Path,
        file: str = "",
        stdout: int | None = None,
        board: Scoreboard | None = None,
        rotation: dict[str, object] | None = None,
    ):
        self.directory = directory
        self.config = config(file or str(directory / "access.log"), rotation)
        self.board = board or Scoreboard(Capacity(workers=2, routes=4, pairs=8, upstreams=4))
        self.series = Series(self.board).assign(self.config.routers)
        self.logs = [AccessLog(self.board, slot, Spec()) for slot in (0, 1)]
        self.socket_path = str(directory / "control.sock")
        listener = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket_path)
        listener.bind(self.socket_path)
        listener.listen()
        listener.setblocking(False)
        self.channel, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.decoder = Decoder()
        boot = WorkerBoot(
            kind="control", slot=-1, workers=2, revision=1, config=self.config, series=self.series,
            scoreboard=self.board, listeners=[listener], channel=theirs, activated=False,
            control_path=self.socket_path,
        )  # fmt: skip
        self.pid = os.fork()
        if self.pid == 0:
            self._become(boot, stdout)
        theirs.close()
        listener.close()
        assert self.hear() == Ready(self.pid)

    def _become(self, boot: WorkerBoot, stdout: int | None) -> None:
        code = 70
        try:
            self.channel.close()
            if stdout is not None:
                os.dup2(stdout, 1)
            main(boot)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def tell(self, message) -> None:
        self.channel.sendall(encode(message))

    def hear(self):
        self.channel.settimeout(PATIENCE)
        messages = []
        while not messages:
            data = self.channel.recv(65536)
            assert data, "the control process hung up"
            messages = self.decoder.receive(data)
        (message,) = messages
        return message

    def end(self) -> int:
        """Its exit code, once it exits."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code

    def close(self) -> None:
        self.channel.close()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.end()

    def lines(self, name: str = "access.log") -> list[int]:
        """Statuses of the lines that are complete in a log file."""
        path = self.directory / name
        written = path.read_bytes() if path.exists() else b""
        return [json.loads(line)["status"] for line in written.rpartition(b"\n")[0].splitlines()]


@pytest.fixture
def start(tmp_path):
    started = []

    def start(**options) -> Control:
        started.append(Control(tmp_path, **options))
        return started[-1]

    yield start
    for control in started:
        control.close()


def eventually(condition) -> None:
    """Wait until it holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.005)


def ask(control: Control, *requests: bytes) -> bytes:
    """What the control process answers on one connection until it closes it."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(control.socket_path)
        received = b""
        for request in requests:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                received += data
        return received


CLOSING = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def scrape(control: Control) -> dict[tuple[str, ...], float]:
    body = ask(control, CLOSING).partition(b"\r\n\r\n")[2].decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


# --- metrics ------------------------------------------------------------------------------------------------------


def test_a_scrape_shows_what_workers_counted(start):
    control = start()
    pair = control.board.pair_block(1, control.series.pair("/a", "http://app:80"))
    control.board.page.add(pair + cells.METHOD_GET * cells.CLASSES + cells.CLASS_2XX, 41)
    assert scrape(control)["kairos_http_requests_total", "2xx", "GET", "/a", "http://app:80"] == 41


def test_a_connection_serves_several_requests_and_formats(start):
    openmetrics = b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n"
    answers = ask(start(), openmetrics, CLOSING)
    assert answers.count(b"HTTP/1.1 200 OK\r\n") == 2
    assert b"Content-Type: application/openmetrics-text; version=1.0.0" in answers
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in answers


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", b"405"),
        (b"GET /metrics HTTP/1.1\r\nHost : x\r\n\r\n", b"400"),
        (b"\x16\x03\x01 nonsense\r\n\r\n", b"400"),
    ],
)
def test_anything_else_is_refused(start, request_, status):
    assert ask(start(), request_).startswith(b"HTTP/1.1 " + status)


def test_an_endless_head_is_cut_off(start):
    assert ask(start(), b"GET /metrics HTTP/1.1\r\n" + b"X-A: " + b"a" * 100_000) == b""


def test_a_head_may_come_byte_by_byte(start):
    assert ask(start(), *(CLOSING[i : i + 1] for i in range(len(CLOSING)))).startswith(b"HTTP/1.1 200 OK")


# --- access log ---------------------------------------------------------------------------------------------------


def test_lines_of_all_workers_reach_the_file(start):
    control = start()
    for i in range(50):
        control.logs[i % 2].write_line(status=200 + i)
    eventually(lambda: sorted(control.lines()) == list(range(200, 250)))
    assert control.lines()[:25] == list(range(200, 250, 2))  # each worker's in order


def test_a_renamed_file_is_left_for_a_new_one_when_told(start, tmp_path):
    control = start()
    control.logs[0].write_line(status=200)
    eventually(lambda: control.lines() == [200])
    (tmp_path / "access.log").rename(tmp_path / "access.log.1")
    control.logs[0].write_line(status=201)
    eventually(lambda: control.lines("access.log.1") == [200, 201])
    control.tell(ReopenLogs())
    eventually((tmp_path / "access.log").exists)
    control.logs[0].write_line(status=202)
    eventually(lambda: control.lines() == [202])
    assert control.lines("access.log.1") == [200, 201]


def test_a_full_disk_stops_nothing_and_its_lines_are_written_elsewhere(start, tmp_path):
    control = start(file="/dev/full")
    control.logs[0].write_line(status=200)
    control.logs[1].write_line(status=201)
    assert ("kairos_workers",) in scrape(control)
    new = config(str(tmp_path / "access.log"))
    control.tell(Prepare(2, new, control.series))
    assert control.hear() == Ack(2)
    control.tell(Commit(2))
    eventually(lambda: control.lines() == [200, 201])


def test_a_line_cut_by_a_full_disk_is_completed_when_there_is_room_again(start, tmp_path):
    control = start()
    allow(control, 1000)
    control.logs[0].write_line(times=20, status=200)
    eventually(lambda: size_of(tmp_path / "access.log") == 1000)
    allow(control, resource.RLIM_INFINITY)
    eventually(lambda: control.lines() == [200] * 20)


def test_a_line_cut_by_a_full_disk_is_whole_in_the_next_file(start, tmp_path):
    control = start()
    allow(control, 1000)
    control.logs[0].write_line(times=20, status=200)
    eventually(lambda: size_of(tmp_path / "access.log") == 1000)
    (tmp_path / "access.log").rename(tmp_path / "access.log.1")
    control.tell(ReopenLogs())
    eventually((tmp_path / "access.log").exists)
    allow(control, resource.RLIM_INFINITY)
    left = (tmp_path / "access.log.1").read_bytes()
    assert not left.endswith(b"\n")
    eventually(lambda: len(control.lines()) + left.count(b"\n") == 20)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def allow(control: Control, size: int) -> None:
    """The most bytes a file of the control process may have: beyond them writes are short, then fail."""
    resource.prlimit(control.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_lines_that_a_full_disk_refused_to_the_end_are_counted(start):
    control = start(file="/dev/full")
    for log in control.logs:
        log.write_line(times=10, status=200)
    control.tell(Drain(1.0))
    assert control.hear() == Drained()
    assert control.end() == 0
    assert control.board.page.get(cells.H_LOG_UNWRITTEN) == 20


def test_standard_output_that_nobody_reads_holds_up_nothing(start):
    reading, writing = os.pipe()
    control = start(file="-", stdout=writing)
    os.close(writing)
    control.logs[0].write_line(times=5000, status=200)  # more than a pipe holds
    eventually(lambda: select.select([reading], [], [], 0)[0])
    assert ("kairos_workers",) in scrape(control)
    control.tell(Stop())
    assert control.hear() == Drained()
    assert control.end() == 0
    os.close(reading)
    assert 0 < control.board.page.get(cells.H_LOG_UNWRITTEN) <= 5000


def test_a_closed_pipe_is_no_end(start):
    reading, writing = os.pipe()
    os.close(reading)
    control = start(file="-", stdout=writing)
    os.close(writing)
    control.logs[0].write_line(status=200)
    eventually(lambda: control.board.page.get(control.board.log_ring(0) + cells.LOG_TAIL) > 0)
    assert ("kairos_workers",) in scrape(control)


def test_the_next_control_process_goes_on_where_a_killed_one_stopped(start):
    first = start()
    first.logs[0].write_line(status=200)
    eventually(lambda: first.lines() == [200])
    first.close()
    first.logs[0].write_line(status=201)
    second = start(board=first.board)
    eventually(lambda: second.lines() == [200, 201])


# --- messages -----------------------------------------------------------------------------------------------------


def test_a_log_file_that_cannot_be_opened_is_refused_and_nothing_changes(start, tmp_path):
    control = start()
    control.tell(Prepare(2, config(str(tmp_path / "no" / "such" / "log")), control.series))
    answer = control.hear()
    assert isinstance(answer, Nack)
    assert answer.revision == 2
    assert "access_log.file: cannot open" in answer.problems[0]
    control.tell(Commit(2))
    control.logs[0].write_line(status=200)
    eventually(lambda: control.lines() == [200])


def test_a_commit_switches_file_series_and_labels(start, tmp_path):
    control = start()
    control.logs[0].write_line(status=200)
    eventually(lambda: control.lines() == [200])
    pair = control.board.pair_block(0, control.series.pair("/a"))
    control.board.page.add(pair + cells.CLASS_2XX, 1)
    control.tell(Prepare(2, config(str(tmp_path / "new.log"), metrics=Metrics(per_route=False)), control.series))
    assert control.hear() == Ack(2)
    assert ("kairos_http_requests_total", "2xx", "GET", "/a", "none") in scrape(control)
    control.tell(Commit(2))
    control.logs[0].write_line(status=201)
    eventually(lambda: control.lines("new.log") == [201])
    assert control.lines() == [200]
    assert ("kairos_http_requests_total", "2xx", "GET", "all", "none") in scrape(control)


def test_an_aborted_revision_is_forgotten(start, tmp_path):
    control = start()
    control.tell(Prepare(2, config(str(tmp_path / "new.log")), control.series))
    assert control.hear() == Ack(2)
    control.tell(Abort(2))
    control.tell(Commit(2))
    control.logs[0].write_line(status=200)
    eventually(lambda: control.lines() == [200])


@pytest.mark.parametrize("ending", [Drain(5.0), Stop()])
def test_the_last_lines_are_written_before_it_exits(start, ending):
    control = start()
    control.logs[1].write_line(times=2000, status=200)
    control.tell(ending)
    assert control.hear() == Drained()
    assert control.end() == 0
    assert control.lines() == [200] * 2000
    assert control.board.page.get(cells.H_LOG_UNWRITTEN) == 0


def test_without_its_supervisor_it_writes_until_the_workers_are_gone(start):
    control = start()
    reading, writing = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(writing)
        control.channel.close()
        os.read(reading, 1)
        control.logs[0].write_line(status=201)
        os._exit(0)
    control.board.page.set(control.board.worker_block(0) + cells.W_PID, worker)
    control.logs[0].write_line(status=200)
    control.channel.close()
    eventually(lambda: control.lines() == [200])
    os.close(writing)
    os.waitpid(worker, 0)
    assert control.end() == 0
    assert control.lines() == [200, 201]
