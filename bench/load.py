"""The load: wrk for HTTP, openssl for handshakes, a ping-pong client for WebSocket, a holder of idle connections.

Rules: one load at a time, closed loop, from this machine. On two cores load, proxy and origin share the cores, so
rates and latencies say less than the CPU time a proxy spent, which does not depend on who else ran.
"""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import uvloop

from bench import wire
from bench.processes import LOOPBACK, BenchError, program

UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6, "h": 3600e6}
CONNECTIONS_PER_ADDRESS = 5_000


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of load got done."""

    completed: int
    rate: float
    """Per second."""
    p50_us: float
    p99_us: float
    errors: int
    """Socket errors, timeouts, answers that are not 2xx or 3xx, wrong echoes."""


def wrk_command(
    url: str, connections: int, seconds: int, headers: Sequence[str] = (), script: Path | None = None
) -> list[str]:
    command = [program("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
    for header in headers:
        command += ["-H", header]
    if script is not None:
        command += ["-s", str(script)]
    return [*command, url]


def run_wrk(command: Sequence[str]) -> Load:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"wrk failed ({done.returncode}): {done.stderr or done.stdout}")
    return parse_wrk(done.stdout)


def parse_wrk(text: str) -> Load:
    """From what `wrk --latency` prints."""
    return Load(
        completed=int(_one(r"^\s*(\d+) requests in ", text)),
        rate=float(_one(r"^Requests/sec:\s*([\d.]+)", text)),
        p50_us=_duration_us(_one(r"^\s*50%\s+(\S+)", text)),
        p99_us=_duration_us(_one(r"^\s*99%\s+(\S+)", text)),
        errors=_wrk_errors(text),
    )


def run_handshakes(port: int, version: str, seconds: int, path: str | None = None) -> Load:
    """One after the other, each on a new connection and in full; with a path each is followed by one request."""
    where, only = f"{LOOPBACK}:{port}", f"-tls{version.replace('.', '_')}"
    command = [program("openssl"), "s_time", "-connect", where, "-new", only, "-time", str(seconds)]
    command += ["-www", path] if path is not None else []
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"openssl failed ({done.returncode}): {done.stderr or done.stdout}")
    return parse_s_time(done.stdout)


def parse_s_time(text: str) -> Load:
    """From what `openssl s_time` prints; all it tells of latency is its mean."""
    found = re.search(r"^(\d+) connections in (\d+) real seconds", text, re.MULTILINE)
    if found is None:
        raise BenchError(f"openssl printed no count of connections:\n{text}")
    completed, real = int(found[1]), max(1, int(found[2]))
    if completed == 0:
        raise BenchError("no handshake came about")
    return Load(completed, completed / real, 1e6 * real / completed, 1e6 * real / completed, 0)


def _one(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    if found is None:
        raise BenchError(f"wrk printed no line like {pattern!r}:\n{text}")
    return found[1]


def _duration_us(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)([a-z]+)", text).groups()  # type: ignore[union-attr]
    return float(value) * UNITS_US[unit]


def _wrk_errors(text: str) -> int:
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    statuses = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return sum(int(count) for found in (sockets, statuses) if found for count in found.groups())


@dataclass(slots=True)
class Tally:
    """What the connections of one WebSocket run have counted together."""

    latencies_ns: list[int] = field(default_factory=list)
    errors: int = 0
    closing: bool = False


class PingPong(asyncio.Protocol):
    """One WebSocket connection that sends a message whenever the last one has come back."""

    def __init__(self, tally: Tally, handshake: bytes) -> None:
        self.tally = tally
        self.handshake = handshake
        self.received = b""
        self.open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.write(self.handshake)

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.open:
            self._on_head()
        elif len(self.received) >= len(wire.REPLY):
            self._on_reply()

    def connection_lost(self, error: Exception | None) -> None:
        self.tally.errors += not self.tally.closing

    def _on_head(self) -> None:
        head, found, rest = self.received.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 101") or wire.accept(wire.KEY) not in head or rest:
            self.transport.abort()
            return
        self.open = True
        self._send()

    def _on_reply(self) -> None:
        self.tally.latencies_ns.append(time.perf_counter_ns() - self.sent_at)
        self.tally.errors += self.received != wire.REPLY
        self._send()

    def _send(self) -> None:
        self.received = b""
        self.sent_at = time.perf_counter_ns()
        self.transport.write(wire.REQUEST)


def run_websocket(port: int, path: str, connections: int, seconds: float) -> Load:
    return uvloop.run(_ping_pong(port, path, connections, seconds))


async def _ping_pong(port: int, path: str, connections: int, seconds: float) -> Load:
    tally, loop, hello = Tally(), asyncio.get_running_loop(), wire.handshake(port, path)
    pairs = [await loop.create_connection(lambda: PingPong(tally, hello), LOOPBACK, port) for _ in range(connections)]
    await asyncio.sleep(seconds)
    tally.closing = True
    for transport, _ in pairs:
        transport.abort()
    return summary(tally, seconds)


def summary(tally: Tally, seconds: float) -> Load:
    if not tally.latencies_ns:
        raise BenchError(f"no message came back ({tally.errors} connections refused or lost)")
    ordered = sorted(tally.latencies_ns)
    count = len(ordered)
    p50, p99 = ordered[count // 2], ordered[min(count - 1, count * 99 // 100)]
    return Load(count, count / seconds, p50 / 1e3, p99 / 1e3, tally.errors)


@contextmanager
def idle_connections(port: int, path: str, count: int) -> Iterator[None]:
    """Hold kept-alive connections that have had one answer each. Source addresses change, for ports are finite."""
    held: list[socket.socket] = []
    try:
        held.extend(
            _kept_alive(port, path, f"127.0.0.{2 + index // CONNECTIONS_PER_ADDRESS}") for index in range(count)
        )
        yield
    finally:
        for connection in held:
            connection.close()


def _kept_alive(port: int, path: str, source: str) -> socket.socket:
    connection = socket.create_connection((LOOPBACK, port), timeout=10, source_address=(source, 0))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode())
    answer = connection.recv(65536)
    if not answer.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"an idle connection got {answer[:60]!r}")
    return connection
