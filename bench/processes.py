"""Child processes of a benchmark run, the programs they need, and their end.

Rules: a child gets its own session, so that Ctrl-C reaches only the benchmark, which then ends its children itself,
by pid: SIGTERM first, SIGKILL for the whole tree of those that stay. Addresses are loopback, ports are free ones.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from bench import procfs

LOOPBACK = "127.0.0.1"
READY_WITHIN_S = 15.0
STOP_WITHIN_S = 5.0
PACKAGES = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "openssl": "openssl"}


class BenchError(Exception):
    """The run cannot go on; the text says what to do."""


def free_port() -> int:
    """A port nobody listened on a moment ago, for what binds it itself.

    Never one that the system gives away: what connects meanwhile, in any process, could get it in between.
    """
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def _ports() -> Iterator[int]:
    """Outside of the system's own, from a place of this process's own."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = [port for port in range(10_000, 65_536) if not first <= port <= last] or [*range(2000, 10_000)]
    start = os.getpid() * 379 % len(ports)
    yield from itertools.cycle(ports[start:] + ports[:start])


_PORTS = _ports()


def require(programs: Sequence[str]) -> None:
    """Make sure the programs are there; as root, Debian's packages are installed for those that are not."""
    missing = [name for name in programs if _which(name) is None]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *(PACKAGES[name] for name in missing)]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BenchError(f"not found: {', '.join(missing)}. Install them: {' '.join(command)}")
    print(f"installing {', '.join(missing)}: {' '.join(command)}", file=sys.stderr)
    subprocess.run(command, check=True, stdout=sys.stderr)


def program(name: str) -> str:
    """Full path of a program that `require` has seen."""
    found = _which(name)
    if found is None:
        raise BenchError(f"{name} is not installed")
    return found


def _which(name: str) -> str | None:
    """Debian keeps daemons in /usr/sbin, which an ordinary user's PATH lacks."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@contextmanager
def running(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child for as long as the block lasts; what it says goes to the log."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
    try:
        yield child
    finally:
        stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """End the child and everything below it."""
    members = list(procfs.tree(child.pid))
    child.terminate()
    try:
        child.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        _kill(members)
        child.wait()


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until_serving(child: subprocess.Popen[bytes], port: int, path: str, log: Path) -> None:
    """Return when a GET is answered with 200; what the child wrote is shown when it never is."""
    deadline = time.monotonic() + READY_WITHIN_S
    while child.poll() is None and time.monotonic() < deadline:
        if _answers(port, path):
            return
        time.sleep(0.05)
    state = f"ended with {child.returncode}" if child.returncode is not None else f"not serving {path}"
    raise BenchError(f"{child.args!r} {state}:\n{log.read_text(errors='replace')[-4000:]}")


def _answers(port: int, path: str) -> bool:
    connection = HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
