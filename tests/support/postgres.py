"""A real PostgreSQL on a port of its own, which can be stopped in its tracks, killed, and brought back.

One server for all tests of a process (the fixture `postgres`), a fresh database for each that asks
(`postgres_url`, or `PostgresServer.database()`): about 30 ms. The server refuses to run as root; then it runs as the
user `postgres` or `nobody`. What was committed outlives `kill`, but not a crash of the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.net import free_port

START_S = 30.0
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
USER = "kairos"
_DEBIAN = Path("/usr/lib/postgresql")
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
}


def _program(name: str) -> str:
    """In Debian only the newest version's folder has the server's programs."""
    found = sorted(_DEBIAN.glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3])) or [shutil.which(name)]
    assert found[-1] is not None, f"{name} is missing: make debian"
    return str(found[-1])


def _unprivileged() -> dict[str, Any]:
    """As whom a program is to be started."""
    if os.getuid():
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise AssertionError("no user that PostgreSQL could run as")


def _end_with_us() -> None:
    """No server outlives tests that were killed: it ends at once with the thread that started it."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


class PostgresServer:
    """Trusts everybody on loopback; the superuser is USER."""

    def __init__(self) -> None:
        self._as = _unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="kairos-postgres-"))
        if self._as:
            os.chown(self._folder, self._as["user"], self._as["group"])
        self._data = self._folder / "data"
        self._names = (f"test{n}" for n in itertools.count(1))
        self.port = free_port()
        self._run("initdb", "-D", self._data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        self.start()

    def _run(self, program: str, *arguments: object) -> None:
        command = [_program(program), *map(str, arguments)]
        done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, **self._as)
        assert done.returncode == 0, done.stderr or done.stdout

    def start(self) -> None:
        """Also again, after `kill` or `shut_down`."""
        settings = {**_SETTINGS, "port": str(self.port), "unix_socket_directories": str(self._folder)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [_program("postgres"), "-D", str(self._data), *options],
                cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=_end_with_us, **self._as,
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while not self._ready():
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.01)

    def _ready(self) -> bool:
        """The state stands on the last line of its file."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self._data / "postmaster.pid").read_text().split("\n")
            return len(lines) > 7 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready"
        return False

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new, empty one."""
        name = next(self._names)
        self.sql(f"CREATE DATABASE {name} STRATEGY wal_log")
        return self.url(name)

    def sql(self, statement: str, database: str = "postgres") -> str:
        """What psql prints of a statement, without heads; columns are set apart by |."""
        command = [_program("psql"), "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", self.url(database)]
        done = subprocess.run([*command, "-c", statement], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def kill(self) -> None:
        """As by a crash: no connection is told, nothing is put in order."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def shut_down(self) -> None:
        """As by an administrator: connections are ended with a word of farewell."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()

    def hang(self) -> None:
        """Neither answers nor accepts, but connections stay."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        """To the server and to each of its backends, which lead process groups of their own."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.go_on()
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgresServer of one's own, to be killed and hung, for the length of a with block."""
    made = PostgresServer()
    try:
        yield made
    finally:
        made.stop()
