"""The tunnels' thread over real sockets: what goes in at one end comes out at the other, whole and in order."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvloop

from kairos.proxy.pump import Pump


class Joined:
    """Two connections joined by a pump: the far ends, and how the tunnel ended."""

    def __init__(self, pump: Pump) -> None:
        self.left, near_left = _pair()
        self.right, near_right = _pair()
        self.near = near_left, near_right
        self.sent: tuple[int, int] | None = None
        self.over = threading.Event()
        self.number = pump.join(near_left.fileno(), near_right.fileno(), self._ended)

    def _ended(self, to_left: int, to_right: int) -> None:
        self.sent = to_left, to_right
        for sock in self.near:
            sock.close()
        self.over.set()


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname(), timeout=25)
        near, _ = server.accept()
    near.setblocking(False)
    return far, near


class Stage:
    """A loop in a thread, with a pump."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.pump = Pump(self.loop)
        self.thread.start()

    def join(self) -> Joined:
        async def make() -> Joined:
            return Joined(self.pump)

        return asyncio.run_coroutine_threadsafe(make(), self.loop).result(25)

    def end(self, joined: Joined) -> None:
        self.loop.call_soon_threadsafe(self.pump.end_joined, joined.number)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(25)
        self.loop.close()


@contextmanager
def stage() -> Iterator[Stage]:
    made = Stage()
    try:
        yield made
    finally:
        made.close()


def receive(sock: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n and (piece := sock.recv(min(1 << 20, n - len(data)))):
        data += piece
    return data


def test_bytes_go_both_ways_and_the_end_of_one_side_ends_the_other() -> None:
    with stage() as here:
        joined = here.join()
        joined.left.sendall(b"ping")
        assert receive(joined.right, 4) == b"ping"
        joined.right.sendall(b"pong!")
        assert receive(joined.left, 5) == b"pong!"
        joined.left.close()
        assert joined.right.recv(1) == b""
        assert joined.over.wait(25)
        assert joined.sent == (5, 4)
        assert here.pump.count == 0
        joined.right.close()


def test_the_last_bytes_of_a_side_that_leaves_arrive() -> None:
    payload = os.urandom(3_000_000)
    with stage() as here:
        joined = here.join()
        sender = threading.Thread(target=lambda: (joined.left.sendall(payload), joined.left.close()))
        sender.start()
        assert receive(joined.right, len(payload) + 1) == payload
        sender.join()
        assert joined.over.wait(25)
        assert joined.sent == (0, len(payload))
        joined.right.close()


def test_a_side_that_does_not_read_holds_the_other_up_and_loses_nothing() -> None:
    payload = os.urandom(24_000_000)
    with stage() as here:
        joined = here.join()
        joined.left.settimeout(0.5)
        held_up = 0
        try:
            while held_up < len(payload):
                held_up += joined.left.send(payload[held_up : held_up + 65536])
        except TimeoutError:
            pass
        assert held_up < len(payload)  # the kernel's buffers and one rest, not more
        joined.left.settimeout(25)
        rest = threading.Thread(target=joined.left.sendall, args=(payload[held_up:],))
        rest.start()
        assert receive(joined.right, len(payload)) == payload
        rest.join()
        joined.left.close()
        assert joined.over.wait(25)
        joined.right.close()


def test_both_directions_at_once() -> None:
    there, back = os.urandom(4_000_000), os.urandom(4_000_000)
    with stage() as here:
        joined = here.join()
        senders = [
            threading.Thread(target=joined.left.sendall, args=(there,)),
            threading.Thread(target=joined.right.sendall, args=(back,)),
        ]
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(receive(joined.left, len(back))))
        for thread in [*senders, reader]:
            thread.start()
        assert receive(joined.right, len(there)) == there
        for thread in [*senders, reader]:
            thread.join()
        assert got == [back]
        here.end(joined)
        assert joined.over.wait(25)
        joined.left.close()
        joined.right.close()


def test_a_tunnel_can_be_broken_off() -> None:
    with stage() as here:
        joined = here.join()
        here.end(joined)
        assert joined.left.recv(1) == b""
        assert joined.right.recv(1) == b""
        assert joined.over.wait(25)
        joined.left.close()
        joined.right.close()


def test_a_reset_ends_only_its_own_tunnel() -> None:
    with stage() as here:
        broken, whole = here.join(), here.join()
        broken.left.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        broken.left.close()
        assert broken.over.wait(25)
        whole.left.sendall(b"still here")
        assert receive(whole.right, 10) == b"still here"
        for sock in (broken.right, whole.left, whole.right):
            sock.close()
        assert whole.over.wait(25)


def test_many_tunnels_end_together() -> None:
    with stage() as here:
        tunnels = [here.join() for _ in range(100)]
        for number, joined in enumerate(tunnels):
            joined.left.sendall(b"%d" % number)
        for number, joined in enumerate(tunnels):
            assert receive(joined.right, len(b"%d" % number)) == b"%d" % number
        for joined in tunnels:
            joined.left.close()
        assert all(joined.over.wait(25) for joined in tunnels)
        assert here.pump.count == 0
        for joined in tunnels:
            joined.right.close()
