"""Origins whose requests wait for the test to answer them, and one that takes no connection until it is told to."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Iterator

from tests.support.net import Peer, ScriptedOrigin, origin, read_request

WAIT_S = 25.0


def answer(body: bytes, status: int = 200, *lines: bytes) -> bytes:
    """A response with this body."""
    head = b"".join(line + b"\r\n" for line in lines)
    return b"HTTP/1.1 %d Said\r\n%sContent-Length: %d\r\n\r\n%s" % (status, head, len(body), body)


class Asked:
    """A request as an origin got it; it waits there until the test answers or leaves it."""

    def __init__(self, peer: Peer, head: bytes, body: bytes) -> None:
        self.peer = peer
        self.head = head
        self.body = body
        self.over = threading.Event()
        self.under_way = True

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    def answer(self, body: bytes = b"ok", status: int = 200, *lines: bytes) -> None:
        """Answer; the connection takes another request."""
        self.under_way = False
        self.peer.send(answer(body, status, *lines))
        self.over.set()

    def hang_up(self) -> None:
        """Close instead."""
        self.under_way = False
        self.peer.sock.shutdown(socket.SHUT_RDWR)
        self.over.set()

    def dropped(self) -> bool:
        """Whether the gateway gives the request up: it closes the connection without having sent more."""
        try:
            found = self.peer.closed()
        except TimeoutError:
            return False
        except OSError:  # the origin itself saw the end first
            found = True
        self.over.set()
        return found


class HeldOrigin:
    """Keeps every request until the test is done with it, and counts how many it has at once."""

    def __init__(self) -> None:
        self.listening: ScriptedOrigin
        self.most = 0
        self._waiting: queue.Queue[Asked] = queue.Queue()
        self._all: list[Asked] = []
        self._lock = threading.Lock()

    def __call__(self, peer: Peer) -> None:
        while True:
            asked = Asked(peer, *read_request(peer))
            with self._lock:
                self._all.append(asked)
                self.most = max(self.most, sum(one.under_way for one in self._all))
            self._waiting.put(asked)
            assert asked.over.wait(WAIT_S)
            asked.under_way = False

    @property
    def url(self) -> str:
        return self.listening.url

    @property
    def count(self) -> int:
        """Requests so far."""
        return len(self._all)

    def received(self) -> Asked:
        """The next request."""
        return self._waiting.get(timeout=WAIT_S)

    def let_go(self) -> None:
        """Leave what still waits."""
        for asked in self._all:
            asked.over.set()


@contextlib.contextmanager
def held_origins(count: int) -> Iterator[list[HeldOrigin]]:
    """So many of them."""
    made = [HeldOrigin() for _ in range(count)]
    with contextlib.ExitStack() as stack:
        for one in made:
            one.listening = stack.enter_context(origin(one))
            stack.callback(one.let_go)
        yield made


class Deaf:
    """A listener whose queue is full: whoever connects hears nothing until hear(), then `script` serves them."""

    def __init__(self, script: Callable[[Peer], object]) -> None:
        self.script = script
        self._sock = socket.socket()
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(0)
        self._fillers = [socket.socket() for _ in range(2)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(self._sock.getsockname())
        self._peers: list[Peer] = []
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._sock.getsockname()[1]}"

    def hear(self) -> None:
        """Accept from now on; the kernel tries those who wait again within about a second."""
        for filler in self._fillers:
            filler.close()
        self._run(self._accept)

    def _run(self, work: Callable[..., None], *arguments: Peer) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                self._peers.append(Peer(self._sock.accept()[0]))
                self._run(self._serve, self._peers[-1])

    def _serve(self, peer: Peer) -> None:
        with contextlib.suppress(OSError, EOFError):
            self.script(peer)
        peer.close()

    def close(self) -> None:
        for filler in self._fillers:
            filler.close()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT_S)


@contextlib.contextmanager
def deaf(script: Callable[[Peer], object]) -> Iterator[Deaf]:
    """A Deaf for the length of a with block."""
    made = Deaf(script)
    try:
        yield made
    finally:
        made.close()
