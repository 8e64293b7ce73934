"""The WebSocket bytes that the echo origin and the ping-pong client of the benchmark exchange.

Rules: messages are all MESSAGE bytes long and unfragmented, so both sides cut the stream by length: the load has to
be cheap, it is the proxy that is measured. The handshake is a complete one (RFC 6455 section 4), frames are masked as
section 5.3 asks, and the client checks what comes back.
"""

from __future__ import annotations

import base64
import hashlib

MESSAGE = 128
PAYLOAD = bytes(range(MESSAGE))
KEY = b"a2Fpcm9zIGJlbmNobWFyaw=="
MASK = b"\x5a\xc3\x17\x88"

_BINARY_FIN = 0x82
_LENGTH_16 = 126
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def unmask(payload: bytes, mask: bytes) -> bytes:
    """XOR with the repeated mask; masking and unmasking are the same."""
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


_LENGTH = MESSAGE.to_bytes(2, "big")
REQUEST_HEAD = bytes((_BINARY_FIN, 0x80 | _LENGTH_16)) + _LENGTH + MASK
REQUEST = REQUEST_HEAD + unmask(PAYLOAD, MASK)
REPLY_HEAD = bytes((_BINARY_FIN, _LENGTH_16)) + _LENGTH
REPLY = REPLY_HEAD + PAYLOAD


def accept(key: bytes) -> bytes:
    """Sec-WebSocket-Accept for a key (RFC 6455 section 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def handshake(port: int, path: str) -> bytes:
    """The client's upgrade request."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY.decode()}",
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def switching(head: bytes) -> bytes:
    """The origin's answer to an upgrade request."""
    parts = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    fields = {name.lower(): value.strip() for name, _, value in parts}
    if fields.get(b"upgrade", b"").lower() != b"websocket":
        raise ValueError("not a WebSocket upgrade")
    lines = (b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade")
    return b"\r\n".join((*lines, b"Sec-WebSocket-Accept: " + accept(fields[b"sec-websocket-key"]), b"", b""))
