"""Sockets for tests: raw clients that send exact bytes, and origins that answer from a script."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Self

from bench.processes import free_port as free_port

TIMEOUT_S = 25.0


class Peer:
    """One end of a TCP (or unix) connection, driven step by step by a test."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(TIMEOUT_S)
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send_slowly(self, data: bytes, piece: int = 1) -> None:
        """In pieces, each in a segment of its own as far as the kernel lets us."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), piece):
            self.sock.sendall(data[at : at + piece])

    def receive_until(self, mark: bytes) -> bytes:
        """Everything up to and including mark; what follows stays for the next call."""
        while mark not in self._buffer:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(f"closed before {mark!r}; got {self._buffer!r}")
            self._buffer += data
        at = self._buffer.index(mark) + len(mark)
        found, self._buffer = self._buffer[:at], self._buffer[at:]
        return found

    def receive_exactly(self, n: int) -> bytes:
        pieces, held = [self._buffer], len(self._buffer)
        while held < n:
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError(f"closed after {held} of {n} bytes")
            pieces.append(data)
            held += len(data)
        whole = b"".join(pieces)
        self._buffer = whole[n:]
        return whole[:n]

    def receive_all(self) -> bytes:
        """Everything until the other side closes; a reset counts as a close."""
        pieces, self._buffer = [self._buffer], b""
        with contextlib.suppress(ConnectionResetError):
            while data := self.sock.recv(1 << 18):
                pieces.append(data)
        return b"".join(pieces)

    def receive_head(self) -> bytes:
        return self.receive_until(b"\r\n\r\n")

    def receive_response(self) -> tuple[bytes, bytes]:
        """Head and body of one response that has a Content-Length, is chunked, or has no body (204, 304, 1xx)."""
        head = self.receive_head()
        lower = head.lower()
        if b"transfer-encoding: chunked" in lower:
            body = b""
            while True:
                size = int(self.receive_until(b"\r\n"), 16)
                if size == 0:
                    trailer = self.receive_until(b"\r\n")
                    while trailer != b"\r\n":
                        trailer = self.receive_until(b"\r\n")
                    return head, body
                body += self.receive_exactly(size)
                assert self.receive_exactly(2) == b"\r\n"
        if b"content-length: " in lower:
            return head, self.receive_exactly(int(lower.split(b"content-length: ")[1].split(b"\r\n")[0]))
        return head, b""

    @property
    def pending(self) -> bytes:
        """What has arrived and was not asked for yet."""
        return self._buffer

    def unread(self, data: bytes) -> None:
        """Put bytes back: the next receive gives them again."""
        self._buffer = data + self._buffer

    def closed(self) -> bool:
        """Whether the other side closes without sending more."""
        try:
            return self._buffer == b"" and self.sock.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def status_of(response: bytes) -> int:
    """Status code of response bytes."""
    return int(response.split(b" ", 2)[1])


def connect(port: int, host: str = "127.0.0.1") -> Peer:
    return Peer(socket.create_connection((host, port), timeout=TIMEOUT_S))


class ScriptedOrigin:
    """Listens; every connection accepted runs `script(peer)` in a thread of its own.

    What scripts raise is kept in `errors`, and fails the test that closes the origin.
    """

    def __init__(self, script: Callable[[Peer], None], family: int = socket.AF_INET, address: object = None) -> None:
        self.script = script
        self.errors: list[BaseException] = []
        self.connections = 0
        self.finished = 0
        """Connections whose script is through."""
        self._sock = socket.socket(family)
        self._sock.bind(address or ("127.0.0.1", 0))  # type: ignore[arg-type]
        self._sock.listen(128)
        self._wake, self._waker = socket.socketpair()
        self._threads: list[threading.Thread] = []
        self._peers: list[Peer] = []
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._sock, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while all(key.fileobj is not self._wake for key, _ in selector.select()):
                sock, _ = self._sock.accept()
                self.connections += 1
                peer = Peer(sock)
                self._peers.append(peer)
                thread = threading.Thread(target=self._run, args=(peer,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self, peer: Peer) -> None:
        try:
            self.script(peer)
        except (EOFError, ConnectionError, TimeoutError, OSError):
            pass  # the gateway hung up: what that means is for the test to say
        except BaseException as error:
            self.errors.append(error)
        finally:
            peer.close()
            self.finished += 1

    def close(self) -> None:
        """Once more does nothing."""
        if self._waker.fileno() < 0:
            return
        self._waker.send(b"x")
        self._acceptor.join(TIMEOUT_S)
        self._sock.close()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                peer.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        for end in (self._wake, self._waker):
            end.close()
        if self.errors:
            raise self.errors[0]


@contextlib.contextmanager
def origin(script: Callable[[Peer], None], **options: object) -> Iterator[ScriptedOrigin]:
    """A ScriptedOrigin for the length of a with block."""
    made = ScriptedOrigin(script, **options)  # type: ignore[arg-type]
    try:
        yield made
    finally:
        made.close()


def read_request(peer: Peer) -> tuple[bytes, bytes]:
    """Head and body of one request as the origin got it (raises EOFError when the connection ended instead)."""
    head = peer.receive_head()
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower or b"content-length: " in lower:
        peer.unread(head)
        return peer.receive_response()
    return head, b""


def echo(peer: Peer) -> None:
    """Answers every request with its head and body as they came, as text; keeps the connection."""
    while True:
        head, body = read_request(peer)
        reply = head + body
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(reply) + reply)


def dead_port() -> int:
    """A port where nobody listens, and nobody will while this process lives: it is taken."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    port = int(sock.getsockname()[1])
    sock.detach()
    return port
