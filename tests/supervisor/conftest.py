"""A gateway in a process of its own, for tests that kill and signal it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("tiny_gateway.py")
ROOT = PROGRAM.parents[2]
DEADLINE = 25.0


def until(condition, what="the condition"):
    """Poll until the condition answers something true, and give that back."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come within {DEADLINE:g} s")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


class TinyGateway:
    """`tiny_gateway.py` with a configuration file that the test can change."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = folder / "kairos.json"
        self.log = folder / "log"
        self.program = [sys.executable, str(PROGRAM)]
        self.process = None
        self.port = None

    def write(self, *paths, **server):
        """Routes `paths`; keyword arguments go to the server section."""
        server = {"host": "127.0.0.1", "port": 0, "workers": 2, **server}
        routes = [
            {
                "external_path": path,
                "internal_path": path,
                "methods": ["GET"],
                "backends": [{"host": "http://127.0.0.1", "port": 9}],
            }
            for path in paths or ("/a",)
        ]
        self.config.write_text(json.dumps({"version": 1, "server": server, "routers": routes}))

    def activate(self, listening):
        """Start with a given socket, as systemd does it: descriptor 3, and the pid known only after the fork."""
        script = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3);"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1');"
            "os.execv(sys.argv[2], sys.argv[2:])"
        )
        fd = listening.fileno()
        return self.start(launcher=(sys.executable, "-c", script, str(fd)), pass_fds=(fd,))

    def install(self, first="", interpreter=sys.executable):
        """Be started by a script from here on, or replace that one by a new version, which does something `first`."""
        script, new = self.folder / "kairos-gateway", self.folder / "new"
        main = "import sys\nfrom tests.supervisor.tiny_gateway import main\nsys.exit(main())"
        new.write_text(f"#!{interpreter}\n{first}\n{main}\n")
        new.chmod(0o755)
        new.rename(script)
        self.program = [str(script)]

    def start(self, env=None, launcher=(), pass_fds=(), preexec_fn=None, wait=True):
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*launcher, *self.program, str(self.config)],
                stderr=log,
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
                pass_fds=pass_fds,
                preexec_fn=preexec_fn,
            )
        if wait:
            port = re.search(r"is ready on http://127.0.0.1:(\d+)", self.logged("is ready on"))
            self.port = int(port[1]) if port else None
        return self

    def lines(self):
        return self.log.read_text()

    def logged(self, *words):
        """A line of the log with all these words in it, as soon as it is there."""

        def found():
            return next((line for line in self.lines().splitlines() if all(word in line for word in words)), None)

        return until(found, f"{words} in {self.log}")

    def signal(self, signum):
        self.process.send_signal(signum)

    def upgraded(self):
        """Once a new supervisor has taken over: its pid. `process` stays the first one."""
        before = self.serving()
        os.kill(before, signal.SIGUSR2)
        return until(lambda: (now := self.serving()) != before and now, "a new gateway")

    def serving(self):
        """The supervisor of whoever answers."""
        return int(self.ask("gateway"))

    def gone(self, pid):
        """Once a supervisor has ended."""
        until(lambda: self.process.poll() is not None if pid == self.process.pid else not alive(pid), f"end of {pid}")

    def ended(self):
        """The exit code, once it has ended."""
        return self.process.wait(DEADLINE)

    @contextlib.contextmanager
    def connected(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE) as connection:
            yield connection

    def ask(self, question):
        with self.connected() as connection:
            return ask(connection, question)

    def workers(self):
        """Pids of the living children by name."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        names = {}
        for pid in children:
            with contextlib.suppress(OSError):
                names[Path(f"/proc/{pid}/comm").read_text().strip()] = int(pid)
        return names

    def processes(self):
        """Pids of everything that was started with this configuration, heirs of an upgrade included."""
        return processes_with(str(self.config))

    def kill(self):
        if self.process is None:
            return
        while pids := self.processes():  # more may have come while they were looked for
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait(DEADLINE)


def processes_with(argument):
    """Living processes with this argument on their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if argument.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def ask(connection, question):
    connection.sendall(question.encode() + b"\n")
    return connection.makefile("r").readline().strip()


@pytest.fixture
def gateway(tmp_path):
    gateway = TinyGateway(tmp_path)
    gateway.write()
    yield gateway
    gateway.kill()
