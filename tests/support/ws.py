"""WebSocket for tests, as bytes: the handshake and single frames (RFC 6455)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from tests.support.net import Peer, connect, status_of

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


@dataclass(frozen=True)
class Frame:
    """One frame, unmasked."""

    final: bool
    opcode: int
    payload: bytes


def handshake(path: str, *lines: str, key: bytes = KEY, version: str = "13", method: str = "GET") -> bytes:
    """A client's opening request; `lines` are further header lines."""
    head = [
        f"{method} {path} HTTP/1.1", "Host: test", "Connection: Upgrade", "Upgrade: websocket",
        f"Sec-WebSocket-Key: {key.decode()}", f"Sec-WebSocket-Version: {version}", *lines,
    ]  # fmt: skip
    return "\r\n".join([*head, "", ""]).encode()


def accept(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())


def header(head: bytes, name: bytes) -> bytes | None:
    """Value of a header field in head, None when it has none."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name.lower():
            return value.strip()
    return None


def switching(request_head: bytes, *lines: bytes) -> bytes:
    """The 101 that grants a request; `lines` are further header lines."""
    key = header(request_head, b"sec-websocket-key")
    assert key is not None
    head = [
        b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade",
        b"Sec-WebSocket-Accept: " + accept(key), *lines,
    ]  # fmt: skip
    return b"\r\n".join([*head, b"", b""])


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


def frame(payload: bytes, opcode: int = TEXT, *, final: bool = True, mask: bytes | None = b"\x11\x22\x33\x44") -> bytes:
    """One frame; masked as clients do unless mask is None."""
    size = len(payload)
    flag = 0x80 if mask else 0
    if size < 126:
        length = bytes([flag | size])
    elif size < 1 << 16:
        length = bytes([flag | 126]) + size.to_bytes(2, "big")
    else:
        length = bytes([flag | 127]) + size.to_bytes(8, "big")
    body = mask + _masked(payload, mask) if mask else payload
    return bytes([(0x80 if final else 0) | opcode]) + length + body


def read_frame(peer: Peer) -> Frame:
    """The next frame a peer gets (EOFError when the connection ends instead)."""
    first, second = peer.receive_exactly(2)
    size = second & 0x7F
    if size >= 126:
        size = int.from_bytes(peer.receive_exactly(2 if size == 126 else 8), "big")
    mask = peer.receive_exactly(4) if second & 0x80 else None
    payload = peer.receive_exactly(size)
    return Frame(bool(first & 0x80), first & 0x0F, _masked(payload, mask) if mask else payload)


def open_websocket(port: int, path: str, *lines: str) -> tuple[Peer, bytes]:
    """A connection whose handshake was granted, and the head that did so."""
    peer = connect(port)
    peer.send(handshake(path, *lines))
    head = peer.receive_head()
    assert status_of(head) == 101, head
    assert header(head, b"sec-websocket-accept") == accept(KEY), head
    return peer, head


def echo_frames(peer: Peer) -> None:
    """An origin's part after its 101: every frame comes back unmasked, a close frame ends it."""
    while True:
        got = read_frame(peer)
        peer.send(frame(got.payload, got.opcode, final=got.final, mask=None))
        if got.opcode == CLOSE:
            return
