"""Memory stays bounded when either side does not read, and slow readers get everything."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.conftest import Stage, staged
from tests.support.net import Peer, read_request, status_of

BODY = 200_000_000
PIECE = b"x" * 1_000_000
GROWTH = 16_000_000  # bytes a worker may grow by; sockets' own buffers are the kernel's


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text()


def worker_of(stage: Stage) -> int:
    """Pid of the gateway's one worker."""
    [pid] = [pid for pid in children(stage.gateway.process.pid) if name_of(pid).startswith("kairos-worker")]
    return pid


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def push(peer: Peer, total: int, stall: float = 0.5) -> int:
    """Send until all is sent, or the other side took nothing for `stall` seconds; how much went out."""
    sent = 0
    peer.sock.setblocking(False)
    while sent < total and select.select([], [peer.sock], [], stall)[1]:
        sent += peer.sock.send(PIECE[: total - sent])
    peer.sock.settimeout(25)
    return sent


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_client_that_does_not_read_stops_the_origin(stage: Stage, chunked: bool) -> None:
    def pour(peer: Peer) -> None:
        if chunked:
            peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % BODY)
        else:
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY)
        poured.append(push(peer, BODY))
        stalled.set()
        leave.wait(25)
        raise EOFError

    poured: list[int] = []
    stalled, leave = threading.Event(), threading.Event()
    worker = worker_of(stage)
    before = resident(worker)
    scene = stage.play(pour)
    with stage.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.send(scene.head())
        assert stalled.wait(25)
        assert poured[0] < BODY / 4
        assert resident(worker) - before < GROWTH
    leave.set()
    stage.gateway.wait_access(path=scene.path, status=499)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_an_origin_that_does_not_read_stops_the_client(chunked: bool) -> None:
    def refuse(peer: Peer) -> None:
        leave.wait(25)
        raise EOFError

    leave = threading.Event()
    with staged(body_bytes=0) as stage:
        worker = worker_of(stage)
        before = resident(worker)
        scene = stage.play(refuse, whole=False)
        with stage.connect() as client:
            if chunked:
                client.send(scene.head("POST", "Transfer-Encoding: chunked") + b"%x\r\n" % BODY)
            else:
                client.send(scene.head("POST", f"Content-Length: {BODY}"))
            assert push(client, BODY) < BODY / 4
            assert resident(worker) - before < GROWTH
        leave.set()


def test_a_large_body_is_not_held_on_its_way() -> None:
    def swallow(peer: Peer) -> None:
        left = 50_000_000
        while left:
            left -= len(peer.receive_exactly(min(left, 1 << 20)))
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(50):
            peer.send(PIECE)

    with staged(body_bytes=0) as stage:
        worker = worker_of(stage)
        before = resident(worker)
        scene = stage.play(swallow, whole=False)
        with stage.connect() as client:
            client.send(scene.head("POST", "Content-Length: 50000000"))
            for _ in range(50):
                client.send(PIECE)
            client.receive_head()
            left = 50_000_000
            while left:
                left -= len(client.receive_exactly(min(left, 1 << 20)))
        assert resident(worker) - before < GROWTH


@pytest.fixture(scope="module")
def unlimited() -> Iterator[Stage]:
    with staged({"limits": {"requests_per_connection": 10_000_000}}) as made:
        yield made


@pytest.mark.parametrize("kind", ["upstream", "local"])
def test_who_does_not_read_gets_no_answers_to_what_it_sends_ahead(unlimited: Stage, kind: str) -> None:
    stage = unlimited
    scene = stage.play(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + PIECE)
    request = scene.head() if kind == "upstream" else scene.head("OPTIONS")
    worker = worker_of(stage)
    before = resident(worker)
    with stage.connect() as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sock.setblocking(False)
        block = request * (200 if kind == "upstream" else 20_000)
        sent = client.sock.send(block)
        while sent < 60_000_000 and select.select([], [client.sock], [], 0.5)[1]:
            sent += client.sock.send(block[sent % len(block) :])
        client.sock.settimeout(25)
        assert resident(worker) - before < GROWTH
        answers = 5 if kind == "upstream" else 2000
        for _ in range(answers):  # and it goes on where it stopped once the client reads
            assert status_of(client.receive_response()[0]) in (200, 204)


def test_a_slow_reader_gets_the_whole_response_though_it_asked_to_close() -> None:
    size = 8_000_000
    with staged({"timeouts": {"write_idle": 1}}) as stage:
        scene = stage.play(
            lambda peer: peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        )
        with stage.connect() as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
            client.send(scene.head("GET", "Connection: close"))
            client.receive_head()
            got = 0
            started = time.monotonic()
            while time.monotonic() < started + 3:  # far slower than it comes, but never quite still
                got += len(client.receive_exactly(30_000))
                time.sleep(0.02)
            assert got + len(client.receive_all()) == size


def test_a_client_that_stops_reading_is_cut_in_the_end() -> None:
    with staged({"timeouts": {"write_idle": 0.5}}) as stage:
        scene = stage.play(
            lambda peer: (peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY), push(peer, BODY, 5))
        )
        with stage.connect() as client:
            client.send(scene.head())
            stage.gateway.wait_access(path=scene.path, status=499)


def test_an_upload_waits_for_a_busy_origin_longer_than_clients_may_dawdle() -> None:
    def read_late(peer: Peer) -> None:
        time.sleep(1.5)
        peer.unread(heads.pop())
        assert len(read_request(peer)[1]) == 20_000_000
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    heads: list[bytes] = []
    with staged({"timeouts": {"body_idle": 0.5}}, body_bytes=0) as stage:
        scene = stage.play(lambda peer: (heads.append(scene.received()[0]), read_late(peer)), whole=False)
        with stage.connect() as client:
            client.send(scene.head("POST", "Content-Length: 20000000"))
            for _ in range(20):
                client.send(PIECE)
            assert client.receive_response()[1] == b"ok"


def test_an_origin_that_never_reads_is_the_one_to_blame() -> None:
    def ignore(peer: Peer) -> None:
        leave.wait(25)
        raise EOFError

    leave = threading.Event()
    with staged({"timeouts": {"body_idle": 0.5}}, body_bytes=0, timeouts={"first_byte": 1.5}) as stage:
        scene = stage.play(ignore, whole=False)
        with stage.connect() as client:
            client.send(scene.head("POST", f"Content-Length: {BODY}"))
            push(client, BODY)
            assert status_of(client.receive_response()[0]) == 504
        leave.set()
