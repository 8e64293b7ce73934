"""Real redis-servers on ports of their own, which can be killed, brought back and stopped in their tracks: one, a
master and its replica under a Sentinel, or a cluster.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support.net import free_port

START_S = 25.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for it."""
    deadline = time.monotonic() + START_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.01)


class RedisServer:
    """Keeps nothing on disk: after a kill it is empty."""

    def __init__(self, *options: str, tls: ssl.SSLContext | None = None) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is missing: make debian"
        self._program = program
        self._options = options
        self._tls = tls
        self.folder = tempfile.mkdtemp(prefix="kairos-redis-")
        self.port = free_port()
        self.start()

    def start(self) -> None:
        port = ["--port", "0", "--tls-port"] if self._tls else ["--port"]
        arguments = [*port, str(self.port), "--save", "", "--appendonly", "no", "--bind", "127.0.0.1"]
        self._run([*self._first(), *arguments, "--dir", self.folder, *self._options])

    def _first(self) -> list[str]:
        return []

    def _run(self, arguments: list[str]) -> None:
        self.process = subprocess.Popen(
            [self._program, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._answers, "redis-server that starts")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), self._connected() as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        return False

    def _connected(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), 1)
        return self._tls.wrap_socket(sock, server_hostname="127.0.0.1") if self._tls else sock

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis{'s' if self._tls else ''}://{self.address}/0"

    def client(self, **options: Any) -> Any:
        """A client of its own for a test; close it."""
        import redis

        return redis.Redis(port=self.port, decode_responses=True, **options)

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
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def redis_server(*options: str, tls: ssl.SSLContext | None = None) -> Iterator[RedisServer]:
    """A RedisServer for the length of a with block."""
    made = RedisServer(*options, tls=tls)
    try:
        yield made
    finally:
        made.stop()


# ---- under a Sentinel


class Sentinel(RedisServer):
    """Watches a master called mymaster, alone: its own verdict is enough."""

    def __init__(self, master: RedisServer, *settings: str) -> None:
        self._settings = (
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1",
            "sentinel down-after-milliseconds mymaster 300",
            "sentinel failover-timeout mymaster 1000",
            *settings,
        )
        super().__init__()

    def hurry(self, **options: Any) -> None:
        """Look often, where it would look every second or ten."""
        periods = [
            "INFO-PERIOD",
            "PING-PERIOD",
            "PUBLISH-PERIOD",
            "ASK-PERIOD",
            "ELECTION-TIMEOUT",
            "SLAVE-RECONF-TIMEOUT",
        ]
        with contextlib.closing(self.client(**options)) as client:
            client.execute_command("SENTINEL DEBUG", *[word for name in periods for word in (name, 100)])

    def _first(self) -> list[str]:
        path = Path(self.folder, "sentinel.conf")
        path.write_text("\n".join(self._settings))
        return [str(path), "--sentinel"]

    def master(self, **options: Any) -> int:
        """The port of whom it takes for the master."""
        with contextlib.closing(self.client(**options)) as client:
            return int(client.sentinel_get_master_addr_by_name("mymaster")[1])

    def knows_a_replica(self, **options: Any) -> bool:
        with contextlib.closing(self.client(**options)) as client:
            return any(not row["is_disconnected"] for row in client.sentinel_slaves("mymaster"))


# ---- a cluster


@contextlib.contextmanager
def redis_cluster(nodes: int = 3) -> Iterator[list[RedisServer]]:
    """Nodes of a cluster, each with its part of the slots."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(redis_server(*_member())) for _ in range(nodes)]
        addresses = [server.address for server in servers]
        subprocess.run(
            ["redis-cli", "--cluster", "create", *addresses, "--cluster-yes"],
            check=True, capture_output=True, timeout=30,
        )  # fmt: skip
        until(lambda: all(map(_is_whole, servers)), "cluster that is whole")
        yield servers


@contextlib.contextmanager
def cluster_replica(members: list[RedisServer], master: RedisServer) -> Iterator[RedisServer]:
    """One more node, with what a master of the cluster has; all of them know it."""
    with redis_server(*_member()) as made, contextlib.closing(made.client()) as client:
        with contextlib.closing(master.client()) as its:
            bus = its.config_get("cluster-port")["cluster-port"]
            client.execute_command("CLUSTER MEET", "127.0.0.1", master.port, bus)
            until(lambda: len(_nodes(made)) == len(members) + 1, "node that knows the cluster")
            client.execute_command("CLUSTER REPLICATE", its.execute_command("CLUSTER MYID"))
        until(lambda: client.info("replication").get("master_link_status") == "up", "replica that has it all")
        until(lambda: all("slave" in _nodes(one)[made.address]["flags"] for one in members), "replica that all know")
        yield made


def _nodes(server: RedisServer) -> dict[str, Any]:
    """By their addresses."""
    with contextlib.closing(server.client()) as client:
        found: dict[str, Any] = client.execute_command("CLUSTER NODES")
        return {address.partition("@")[0]: node for address, node in found.items()}


def _member() -> list[str]:
    bus = str(free_port())
    cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-port", bus]
    return [*cluster, "--repl-diskless-sync-delay", "0"]


def _is_whole(server: RedisServer) -> bool:
    with contextlib.closing(server.client()) as client:
        return bool(client.execute_command("CLUSTER INFO")["cluster_state"] == "ok")
