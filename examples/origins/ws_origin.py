"""A WebSocket origin to try the gateway with: an echo, and chat rooms. RFC 6455 on asyncio streams.

  /ws               every message comes back to its sender
  /ws?room=tea      every message goes to everybody in the room, its sender included
  GET /             who this is, as JSON

python examples/origins/ws_origin.py --port 5913

Rules: clients must mask, messages end at MAX_MESSAGE bytes, fragments are joined, text must be UTF-8, pings are
answered. A client that breaks the protocol gets a close frame saying how.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import signal
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import parse_qsl

import uvloop

MAX_HEAD = 32 * 1024
MAX_MESSAGE = 1024 * 1024
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, GOING_AWAY, PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1000, 1001, 1002, 1007, 1009


class ProtocolError(Exception):
    """The client broke a rule; the code goes into the close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a client, unmasked."""

    final: bool
    opcode: int
    payload: bytes


@dataclass(slots=True)
class Rooms:
    """Who listens where."""

    members: dict[str, set[asyncio.StreamWriter]] = field(default_factory=lambda: defaultdict(set))

    def leave(self, room: str, writer: asyncio.StreamWriter) -> None:
        self.members[room].discard(writer)
        if not self.members[room]:
            del self.members[room]


def accept_key(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()).decode()


def encode(opcode: int, payload: bytes) -> bytes:
    """An unmasked, final frame: what servers send."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 1 << 16:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def closing(code: int, reason: str = "") -> bytes:
    return encode(CLOSE, code.to_bytes(2, "big") + reason.encode())


def unmask(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    repeated = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    first, second = await reader.readexactly(2)
    opcode, size = first & 0x0F, second & 0x7F
    if first & 0x70 or not second & 0x80:
        raise ProtocolError(PROTOCOL_ERROR, "reserved bits or no mask")
    if opcode >= CLOSE and (size > 125 or not first & 0x80):
        raise ProtocolError(PROTOCOL_ERROR, "control frames are short and whole")
    if size > 125:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8), "big")
    if size > MAX_MESSAGE:
        raise ProtocolError(TOO_BIG, f"messages end at {MAX_MESSAGE} bytes")
    mask = await reader.readexactly(4)
    return Frame(bool(first & 0x80), opcode, unmask(await reader.readexactly(size), mask))


async def next_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes] | None:
    """The next whole message as (TEXT or BINARY, payload); None once the client has closed."""
    kind, parts = CONTINUATION, bytearray()
    while True:
        frame = await read_frame(reader)
        if frame.opcode == CLOSE:
            writer.write(encode(CLOSE, frame.payload[:2]))
            return None
        if frame.opcode == PING:
            writer.write(encode(PONG, frame.payload))
        elif frame.opcode in (CONTINUATION, TEXT, BINARY):
            kind = joined_kind(kind, frame.opcode)
            parts += frame.payload
            if len(parts) > MAX_MESSAGE:
                raise ProtocolError(TOO_BIG, f"messages end at {MAX_MESSAGE} bytes")
            if frame.final:
                return kind, checked(kind, bytes(parts))
        elif frame.opcode != PONG:
            raise ProtocolError(PROTOCOL_ERROR, f"unknown opcode {frame.opcode}")


def joined_kind(begun: int, opcode: int) -> int:
    """The kind of a message of which another frame came: only the first frame names it (section 5.4)."""
    if (begun == CONTINUATION) == (opcode == CONTINUATION):
        raise ProtocolError(PROTOCOL_ERROR, "fragments out of order")
    return begun or opcode


def checked(kind: int, payload: bytes) -> bytes:
    if kind == TEXT:
        try:
            payload.decode()
        except UnicodeDecodeError:
            raise ProtocolError(INVALID_DATA, "text is not UTF-8") from None
    return payload


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rooms: Rooms, room: str) -> None:
    """Pass messages on until the client closes or leaves."""
    listeners = rooms.members[room] if room else {writer}
    listeners.add(writer)
    try:
        while (message := await next_message(reader, writer)) is not None:
            frame = encode(*message)
            for listener in listeners:
                listener.write(frame)
            await writer.drain()
    except ProtocolError as error:
        writer.write(closing(error.code, str(error)))
    finally:
        if room:
            rooms.leave(room, writer)


def parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    """Target and headers (names in lower case) of a request head."""
    start, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines if line)
    return start.split(" ")[1], {name.lower(): value.strip() for name, _, value in fields}


def upgrade(headers: dict[str, str]) -> bytes | None:
    """The 101 answer; None when the request is no WebSocket upgrade (section 4.2.1)."""
    key, version = headers.get("sec-websocket-key"), headers.get("sec-websocket-version")
    if headers.get("upgrade", "").lower() != "websocket" or key is None or version != "13":
        return None
    lines = ("HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade")
    return "\r\n".join((*lines, f"Sec-WebSocket-Accept: {accept_key(key)}", "", "")).encode()


def plain_answer(status: str, document: object) -> bytes:
    body = json.dumps(document).encode() + b"\n"
    lines = (f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "Connection: close", "", "")).encode() + body


async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rooms: Rooms) -> None:
    """One connection: its head, then either a plain answer or a WebSocket."""
    target, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
    path, _, query = target.partition("?")
    switching = upgrade(headers)
    if path != "/ws":
        status = "200 OK" if path == "/" else "404 Not Found"
        writer.write(plain_answer(status, {"origin": "websocket", "try": ["/ws", "/ws?room=tea"]}))
    elif switching is None:
        writer.write(plain_answer("426 Upgrade Required", {"error": "a WebSocket handshake is needed here"}))
    else:
        writer.write(switching)
        await talk(reader, writer, rooms, dict(parse_qsl(query)).get("room", ""))


async def connection(rooms: Rooms, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A client that leaves in the middle, or that speaks no HTTP, just ends."""
    try:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, IndexError):
            await converse(reader, writer, rooms)
    finally:
        writer.close()


async def serve(host: str, port: int) -> None:
    """Listen until SIGINT or SIGTERM."""
    rooms = Rooms()
    server = await asyncio.start_server(partial(connection, rooms), host, port, limit=MAX_HEAD)
    print(f"websocket: ws://{host}:{server.sockets[0].getsockname()[1]}/ws", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A WebSocket origin to try the gateway with.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5913, help="0 chooses a free one, which the first line shows")
    options = parser.parse_args()
    uvloop.run(serve(options.host, options.port))


if __name__ == "__main__":
    main()
