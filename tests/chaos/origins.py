"""Origins that count: real processes which write every request they carry out to a file before they answer it.

The file outlives kill -9, so what an origin did is known whatever became of it. Run as a program, this file is the
origin; imported, it is the handle a test holds. It answers `/work?id=7&size=100&wait=5` after 5 ms with 100 bytes made
of the identifier, so that an answer shows whose it is from its first byte to its last.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import uvloop


@functools.lru_cache(maxsize=4)
def content(id_: str, size: int) -> bytes:
    """The answer to request id_: size bytes, at least the identifier once."""
    unit = id_.encode() + b" "
    return (unit * (size // len(unit) + 1))[: max(size, len(unit))]


class Worker(asyncio.Protocol):
    """One connection: requests one after the other, with Content-Length or without a body."""

    def __init__(self, record: int) -> None:
        self.record = record
        self.received = b""
        self.busy = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.next()

    def next(self) -> None:
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if self.busy or not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
        if len(rest) < length:
            return
        self.received = rest[length:]
        self.busy = True
        self.carry_out(head.partition(b"\r\n")[0].decode())

    def carry_out(self, start_line: str) -> None:
        method, target, _ = start_line.split(" ")
        asked = {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
        os.write(self.record, f"{method} {asked['id']}\n".encode())
        delay = int(asked.get("wait", "0"))
        if delay:
            asyncio.get_running_loop().call_later(delay / 1000, self.answer, asked)
        else:
            self.answer(asked)

    def answer(self, asked: dict[str, str]) -> None:
        if self.transport.is_closing():  # whoever asked is gone
            return
        body = content(asked["id"], int(asked.get("size", "0")))
        self.transport.writelines([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body), body])
        self.busy = False
        self.next()


async def serve(host: str, port: int, record: str) -> None:
    file = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    server = await listen(lambda: Worker(file), host, port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def listen(factory: Callable[[], Worker], host: str, port: int) -> asyncio.Server:
    """On the port, or on one that outgoing connections are not given (ip_local_port_range): while this origin is dead
    the gateway goes on trying, and such an attempt could end up connected to itself.
    """
    loop = asyncio.get_running_loop()
    while True:
        try:
            return await loop.create_server(factory, host, port or random.randrange(15_000, 30_000), backlog=1024)
        except OSError as error:
            if port or error.errno != errno.EADDRINUSE:
                raise


class Origin:
    """An origin in a process of its own, which can be killed and comes back on the same port."""

    def __init__(self, record: Path, host: str = "127.0.0.1", port: int = 0) -> None:
        self.record = record
        self.host = host
        self.port = port
        self.start()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        command = [sys.executable, __file__, self.host, str(self.port), str(self.record)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        """As kill -9 does it; returns when nothing is left of it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def busy(self) -> int:
        """Grows with each request."""
        return self.record.stat().st_size if self.record.exists() else 0

    def executions(self) -> Counter[tuple[str, str]]:
        """How often it carried out each (method, identifier)."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        return Counter((method, id_) for method, id_ in (line.split(" ") for line in lines))


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
