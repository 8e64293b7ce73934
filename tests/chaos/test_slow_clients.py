"""Clients that drip their requests or do not read their answers, beside others, who notice nothing of it."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Iterator

from bench.procfs import tree_memory
from tests.chaos.clients import Load, wait_for
from tests.chaos.conftest import Site
from tests.robust.conftest import memory_is_real
from tests.support.gateway import route
from tests.support.net import Peer, connect

CROWD = 200
MEMORY_KIB = 256 * CROWD
"""What the gateway may need for the crowd: a read of 256 KiB waits for each that does not take it, and not a second."""
HEAD = b"GET /slow?id=slow&size=%d HTTP/1.1\r\nHost: slow.test\r\n"


class Crowd:
    """Slow clients, half of each kind, that drip or sip a little every tenth of a second."""

    def __init__(self, port: int, count: int) -> None:
        self.over = threading.Event()
        self.drippers = [self._dripper(port) for _ in range(count // 2)]
        self.sippers = [self._sipper(port) for _ in range(count // 2)]
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _dripper(self, port: int) -> Peer:
        peer = connect(port)
        peer.send(HEAD % 0)
        return peer

    def _sipper(self, port: int) -> Peer:
        """Asks for more than the kernel's buffers hold."""
        peer = Peer(socket.socket())
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sock.connect(("127.0.0.1", port))
        peer.send(HEAD % (20 << 20) + b"\r\n")
        return peer

    def _run(self) -> None:
        while not self.over.wait(0.1):
            for peer in self.drippers:
                with contextlib.suppress(ConnectionError):  # the gateway has had enough
                    peer.send(b"X")
            for peer in self.sippers:
                with contextlib.suppress(ConnectionError):
                    peer.sock.recv(64)

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        for peer in self.drippers + self.sippers:
            peer.close()


@contextlib.contextmanager
def crowd(port: int, count: int = CROWD) -> Iterator[Crowd]:
    made = Crowd(port, count)
    try:
        yield made
    finally:
        made.close()


def typical_latency(load: Load, seconds: float) -> float:
    """The median over all clients during that time."""
    before = [len(client.latencies) for client in load.clients]
    time.sleep(seconds)
    return statistics.median(
        latency for client, start in zip(load.clients, before, strict=True) for latency in client.latencies[start:]
    )


@memory_is_real
def test_slow_clients_cost_others_nothing_and_little_memory(site: Site) -> None:
    site.start_origins(1)
    routers = [site.route()]
    site.start_origins(1)
    site.start_gateway({"routers": [*routers, route("/slow", site.origins[1].url)]}, workers=2)
    seconds = site.times(2)
    with site.load() as load:
        load.goes_on(500)
        alone = typical_latency(load, seconds)
        memory = tree_memory(site.gateway.process.pid).pss
        with crowd(site.gateway.port):
            wait_for(lambda: site.origins[1].executions().total() == CROWD // 2, "requests of the slow readers")
            beside = typical_latency(load, seconds)
            grown = tree_memory(site.gateway.process.pid).pss - memory
        load.goes_on(500)
    site.judge(load)
    site.note(f"median latency {alone * 1e3:.2f} ms alone, {beside * 1e3:.2f} ms beside; {grown} KiB more")
    assert beside < 2 * alone + 0.01
    assert grown < MEMORY_KIB
