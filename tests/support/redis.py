"""A real redis-server on a port of its own, which can be killed, brought back and stopped in its tracks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from tests.support.net import free_port

START_S = 10.0


class RedisServer:
    """Keeps nothing on disk: after a kill it is empty."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is missing: make debian"
        self._program = program
        self._folder = tempfile.mkdtemp(prefix="kairos-redis-")
        self.port = free_port()
        self.start()

    def start(self) -> None:
        arguments = ["--port", str(self.port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        self.process = subprocess.Popen(
            [self._program, *arguments, "--dir", self._folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert time.monotonic() < deadline, "redis-server did not start"
            time.sleep(0.01)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(64).startswith(b"+PONG")
        return False

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        """A client of its own for a test; close it."""
        import redis

        return redis.Redis(port=self.port, decode_responses=True)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def hang(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A RedisServer for the length of a with block."""
    made = RedisServer()
    try:
        yield made
    finally:
        made.stop()
