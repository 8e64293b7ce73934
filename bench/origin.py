"""The origin every proxy stands in front of: much cheaper than any of them, and the same for all.

HTTP is answered by one nginx process: `return` for small answers, sendfile from the page cache for bodies, uploads
are discarded. It listens on two ports, so that a proxy has two servers to balance between. WebSocket echo is a uvloop
process (`python -m bench.origin PORT`), since nginx cannot answer one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from bench import wire
from bench.processes import LOOPBACK, free_port, program, running, wait_until_serving

FILES = {"16k": 16 * 1024, "1m": 1024 * 1024}
RICH_RESPONSE = {
    "Cache-Control": "private, max-age=0, must-revalidate",
    "ETag": '"5f2c-61a8d3c0b7e40"',
    "Vary": "Accept-Encoding, Origin",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "strict-origin-when-cross-origin",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:",
    "X-RateLimit-Remaining": "4999",
    "Server-Timing": "db;dur=1.2, app;dur=3.4",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the origin listens."""

    ports: tuple[int, int]
    websocket_port: int


def nginx_config(ports: tuple[int, int], home: Path) -> str:
    """The origin's own nginx.conf."""
    listen = "\n".join(f"listen {LOOPBACK}:{port} backlog=4096 reuseport;" for port in ports)
    headers = "\n".join(
        f"""add_header {name} "{value.replace('"', chr(92) + '"')}";""" for name, value in RICH_RESPONSE.items()
    )
    return f"""
daemon off;
worker_processes 1;
pid {home}/origin.pid;
error_log stderr warn;
user root;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  default_type text/plain;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_max_body_size 0;
  client_body_temp_path {home}/origin_body;
  proxy_temp_path {home}/origin_proxy;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=16 inactive=600s;
  open_file_cache_valid 600s;
  server {{
    {listen}
    location /plain/ {{ return 200 "hello\\n"; }}
    location /rich/ {{
      {headers}
      return 200 "{{\\"id\\": 1, \\"name\\": \\"hello\\"}}\\n";
    }}
    location /files/ {{ root {home}; }}
    location /upload {{ return 200 "taken\\n"; }}
  }}
}}
"""


@contextmanager
def started(home: Path) -> Iterator[Origin]:
    """Run the origin for as long as the block lasts."""
    origin = Origin(ports=(free_port(), free_port()), websocket_port=free_port())
    _write_files(home / "files")
    config = home / "origin.conf"
    config.write_text(nginx_config(origin.ports, home))
    with ExitStack() as stack:
        log = home / "origin.log"
        http = stack.enter_context(running([program("nginx"), "-e", "stderr", "-c", str(config)], log))
        command = [sys.executable, "-m", "bench.origin", str(origin.websocket_port)]
        echo = stack.enter_context(running(command, log))
        wait_until_serving(http, origin.ports[1], "/plain/1", log)
        wait_until_serving(echo, origin.websocket_port, "/", log)
        yield origin


def _write_files(folder: Path) -> None:
    folder.mkdir()
    for name, size in FILES.items():
        (folder / name).write_bytes((b"0123456789abcdef" * (size // 16))[:size])


class Echo(asyncio.Protocol):
    """One WebSocket connection: the handshake, then each message back."""

    def __init__(self) -> None:
        self.received = b""
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.open and b"\r\n\r\n" in self.received:
            self._answer_head()
        while self.open and len(self.received) >= len(wire.REQUEST):
            self._echo(self.received[: len(wire.REQUEST)])
            self.received = self.received[len(wire.REQUEST) :]

    def _answer_head(self) -> None:
        """A plain GET is how the benchmark asks whether this process is up."""
        head, _, self.received = self.received.partition(b"\r\n\r\n")
        if b"sec-websocket-key:" not in head.lower():
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self.transport.close()
            return
        self.transport.write(wire.switching(head))
        self.open = True

    def _echo(self, frame: bytes) -> None:
        if frame[:4] != wire.REQUEST_HEAD[:4]:
            self.transport.abort()
            return
        self.transport.write(wire.REPLY_HEAD + wire.unmask(frame[8:], frame[4:8]))


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Echo, LOOPBACK, port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
