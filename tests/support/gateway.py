"""A real kairos-gateway process for tests, on a port of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.net import Peer, connect

START_S = 60.0
_READY = re.compile(r"ready on https?://127\.0\.0\.1:(\d+)")


class Gateway:
    """Supervisor, control and workers, as started by the command line; `launcher` is a command that starts it."""

    def __init__(
        self,
        config: dict[str, Any],
        *,
        workers: int = 1,
        env: dict[str, str] | None = None,
        launcher: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="kairos-test-"))
        self.config_path = self.folder / "config.json"
        self.state_dir = self.folder / "state"
        self.write(config)
        command = [sys.executable, "-m", "kairos.cli.gateway", "--config", str(self.config_path), "--host", "127.0.0.1"]
        self._command = [*launcher, *command, "--port", "0", "--workers", str(workers), "--log", "info", *arguments]
        self._env = os.environ | {"PYTHONUNBUFFERED": "1", "KAIROS_STATE_DIR": str(self.state_dir)} | (env or {})
        self._start()

    def _start(self, *arguments: str) -> None:
        self._log = (self.folder / "log").open("wb")
        self._stdout = (self.folder / "stdout").open("wb")
        self.process = subprocess.Popen(
            [*self._command, *arguments], stdout=self._stdout, stderr=self._log, env=self._env
        )
        self.port = self._wait_ready()

    def restart(self, *arguments: str) -> None:
        """Stop it and start it again in the same folder, with further arguments; the log begins anew."""
        self.stop()
        self._start(*arguments)

    def write(self, config: dict[str, Any]) -> None:
        """Replace the config file; `signal(SIGHUP)` makes the gateway read it, unless it is told to watch."""
        self.config_path.write_text(json.dumps(self.completed(config)))

    def completed(self, config: dict[str, Any]) -> dict[str, Any]:
        """With what a test need not say: where the access log is, and that only the test decides on reloads."""
        server = {"watch": False, **config.get("server", {})}
        access_log = config.get("access_log", {"file": "access.log"})
        if access_log.get("file", "-") != "-":
            access_log = {**access_log, "file": str(self.folder / access_log["file"])}
        return {"admin": {"enabled": False}, **config, "access_log": access_log, "server": server}

    def _wait_ready(self) -> int:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            found = _READY.search(self.log)
            if found:
                return int(found[1])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.stop()
        raise AssertionError(f"the gateway did not start:\n{self.log}")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def serving(self) -> int:
        """The supervisor in charge: after an upgrade another than `process`."""
        return int((self.state_dir / "lock").read_text().split()[0])

    def children(self) -> dict[str, int]:
        """Living children of the supervisor in charge by name: `kairos-worker0`, `kairos-control`."""
        pid = self.serving()
        found = {}
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):  # it has just ended
                found[Path(f"/proc/{child}/comm").read_text().strip()] = int(child)
        return found

    def wait_log(self, text: str, timeout: float = 25.0) -> None:
        """Until the application log holds text."""
        self.wait(lambda: text in self.log, f"{text!r} in the log", timeout)

    def access_lines(self) -> list[dict[str, Any]]:
        """The access log so far."""
        path = self.folder / "access.log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_access(self, count: int = 1, **members: Any) -> list[dict[str, Any]]:
        """Until `count` access-log lines have these members; those lines."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.access_lines() if members.items() <= line.items()]

        self.wait(lambda: len(found()) >= count, f"{count} access-log lines with {members}")
        return found()

    def wait(self, condition: Any, what: str, timeout: float = 25.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"no {what} within {timeout} s; log:\n{self.log}\naccess: {self.access_lines()}")
            time.sleep(0.02)

    def connect(self) -> Peer:
        return connect(self.port)

    def request(self, data: bytes) -> tuple[bytes, bytes]:
        """Send bytes on a new connection; head and body of the response."""
        with self.connect() as peer:
            peer.send(data)
            return peer.receive_response()

    def get(self, path: str, **headers: str) -> tuple[bytes, bytes]:
        """GET on a new connection; underscores in header names become hyphens."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        return self.request(f"GET {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n".encode())

    def metrics(self) -> str:
        return self.get("/metrics")[1].decode()

    def admin(
        self, method: str, path: str, body: bytes | dict[str, Any] = b"", kind: str = "application/json"
    ) -> tuple[int, Any]:
        """A command on the admin socket; status and answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.state_dir / "admin.sock"))
            peer = Peer(sock)
            about = f"Content-Type: {kind}\r\nContent-Length: {len(data)}\r\n"
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{about}Connection: close\r\n\r\n"
            peer.send(head.encode() + data)
            head_back, answer = peer.receive_response()
        return int(head_back.split()[1]), json.loads(answer)

    def child(self, name: str) -> int:
        """Pid of the child of that name; 0 while there is none."""
        return self.children().get(name, 0)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def _stop_heir(self) -> None:
        with contextlib.suppress(OSError, IndexError):  # none ever started, or it has just ended
            heir = self.serving()
            if heir == self.process.pid or not self._is_ours(heir):
                return
            os.kill(heir, signal.SIGTERM)
            deadline = time.monotonic() + 25
            while self._is_ours(heir):
                if time.monotonic() > deadline:
                    os.kill(heir, signal.SIGKILL)
                time.sleep(0.02)

    def _is_ours(self, pid: int) -> bool:
        """Whether it lives and was started with this configuration."""
        return str(self.config_path).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")

    def stop(self) -> int:
        """TERM, then KILL if it does not end; the exit code. The heir of an upgrade goes first."""
        self._stop_heir()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(25)
            except subprocess.TimeoutExpired:
                self.process.kill()
        code = self.process.wait()
        self._log.close()
        self._stdout.close()
        return code


@contextlib.contextmanager
def gateway(config: dict[str, Any], **options: Any) -> Iterator[Gateway]:
    """A Gateway for the length of a with block; no traceback may be left in its log."""
    made = Gateway(config, **options)
    try:
        yield made
    finally:
        made.stop()
    assert "Traceback" not in made.log, made.log


def route(external: str, origin_url: str, internal: str | None = None, **members: Any) -> dict[str, Any]:
    """A route to one backend, or to the several of a comma-separated list."""
    backends = [{"host": url.rpartition(":")[0], "port": int(url.rpartition(":")[2])} for url in origin_url.split(",")]
    return {
        "external_path": external,
        "internal_path": internal or external,
        "methods": ["GET", "POST", "PUT", "DELETE"],
        "backends": backends,
        **members,
    }
