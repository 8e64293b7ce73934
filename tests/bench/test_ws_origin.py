"""The example WebSocket origin, spoken to frame by frame."""

import os
import socket
from http.client import HTTPConnection

import pytest

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


class Client:
    """A WebSocket client that can also misbehave."""

    def __init__(self, port, target="/ws"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=25)
        self.file = self.socket.makefile("rb")
        head = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        key = "dGhlIHNhbXBsZSBub25jZQ=="  # the one of RFC 6455 section 1.3
        self.socket.sendall(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        self.head = b"".join(iter(self.file.readline, b"\r\n"))

    def __enter__(self):
        return self

    def __exit__(self, *details):
        self.file.close()
        self.socket.close()

    def send(self, opcode, payload, final=True, masked=True):
        size = len(payload)
        if size < 126:
            length = bytes([size])
        else:
            length = b"\x7e" + size.to_bytes(2, "big") if size < 65536 else b"\x7f" + size.to_bytes(8, "big")
        mask = os.urandom(4) if masked else b""
        body = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if masked else payload
        head = bytes([final << 7 | opcode, masked << 7 | length[0]])
        self.socket.sendall(head + length[1:] + mask + body)

    def receive(self):
        first, size = self.file.read(2)
        if size > 125:
            size = int.from_bytes(self.file.read(2 if size == 126 else 8), "big")
        return first & 15, self.file.read(size)

    def closed_with(self):
        opcode, payload = self.receive()
        assert (opcode, self.file.read()) == (CLOSE, b"")
        return int.from_bytes(payload[:2], "big")


def test_the_handshake_answers_the_key(ws_origin):
    with Client(ws_origin) as client:
        assert client.head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in client.head


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 300_000])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_of_every_length_come_back(ws_origin, size, opcode):
    with Client(ws_origin) as client:
        client.send(opcode, b"k" * size)
        assert client.receive() == (opcode, b"k" * size)


def test_fragments_are_joined_and_a_ping_between_them_is_answered(ws_origin):
    with Client(ws_origin) as client:
        client.send(TEXT, b"one ", final=False)
        client.send(PING, b"?")
        client.send(0, b"two")
        assert [client.receive(), client.receive()] == [(PONG, b"?"), (TEXT, b"one two")]


def test_a_room_hears_everybody_in_it_and_nobody_else(ws_origin):
    with Client(ws_origin, "/ws?room=tea") as ann, Client(ws_origin, "/ws?room=tea") as bob, Client(ws_origin) as eve:
        bob.send(TEXT, b"I am here")
        assert bob.receive() == (TEXT, b"I am here")
        ann.send(TEXT, b"hello")
        eve.send(TEXT, b"alone")
        assert bob.receive() == (TEXT, b"hello")
        assert eve.receive() == (TEXT, b"alone")


def test_a_close_is_answered_with_its_code(ws_origin):
    with Client(ws_origin) as client:
        client.send(CLOSE, (1000).to_bytes(2, "big") + b"bye")
        assert client.closed_with() == 1000


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"opcode": TEXT, "payload": b"x", "masked": False}, 1002),
        ({"opcode": TEXT, "payload": b"\xff"}, 1007),
        ({"opcode": 3, "payload": b""}, 1002),
        ({"opcode": 0, "payload": b"nothing to continue"}, 1002),
        ({"opcode": PING, "payload": b"x" * 126}, 1002),
        ({"opcode": PING, "payload": b"", "final": False}, 1002),
    ],
)
def test_a_broken_rule_is_answered_with_its_close_code(ws_origin, sent, code):
    with Client(ws_origin) as client:
        client.send(**sent)
        assert client.closed_with() == code


def test_a_message_above_the_limit_closes_with_1009(ws_origin):
    with Client(ws_origin) as client:
        client.socket.sendall(b"\x82\xff" + (1024 * 1024 + 1).to_bytes(8, "big"))
        assert client.closed_with() == 1009


@pytest.mark.parametrize(("target", "status"), [("/", 200), ("/ws", 426), ("/other", 404)])
def test_plain_requests_get_plain_answers(ws_origin, target, status):
    connection = HTTPConnection("127.0.0.1", ws_origin, timeout=25)
    connection.request("GET", target)
    assert connection.getresponse().status == status
    connection.close()
