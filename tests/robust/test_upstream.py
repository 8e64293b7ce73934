"""What a broken or hostile origin sends: 502 and nothing of it goes on, or a response that is visibly cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.robust.conftest import assert_error
from tests.support.gateway import Gateway, gateway, route
from tests.support.net import TIMEOUT_S, Peer, ScriptedOrigin, origin, read_request, status_of

OK = b"HTTP/1.1 200 OK\r\n"
HONEST = OK + b"Content-Length: 6\r\n\r\nhonest"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"

MALFORMED = {
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunked": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "length +5": OK + b"Content-Length: +5\r\n\r\nhello",
    "length 5, 5": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "length empty": OK + b"Content-Length:\r\n\r\nhello",
    "length of 20 digits": OK + b"Content-Length: 00000000000000000005\r\n\r\nhello",
    "encoding unknown": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "encoding twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "encoding in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF in a head": OK + b"X: a\nSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
    "bare LF everywhere": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "bare CR": OK + b"X: a\rSet-Cookie: evil=1\r\nContent-Length: 0\r\n\r\n",
    "NUL": OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n",
    "obs-fold": OK + b"X: a\r\n b\r\nContent-Length: 0\r\n\r\n",
    "space before colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "no colon": OK + b"evil\r\n\r\n",
    "HTTP/0.9": b"<html>evil</html>\r\n\r\n",
    "HTTP/2.0": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "status 099": b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n",
    "control in the reason": b"HTTP/1.1 200 O\x1bK\r\nContent-Length: 0\r\n\r\n",
    "101 unasked": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "1xx flood": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 9 + HONEST,
    "100 flood": b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + HONEST,
    "head of 33 KiB": OK + b"X: " + b"a" * 8000 + b"\r\n" + (b"Y: " + b"a" * 8000 + b"\r\n") * 4,
    "line of 9 KiB": OK + b"X: " + b"a" * 9000 + b"\r\nContent-Length: 0\r\n\r\n",
    "101 fields": OK + b"X: a\r\n" * 101 + b"\r\n",
    "Connection names 65 fields": OK
    + b"Connection: " + b", ".join(b"n%d" % i for i in range(65)) + b"\r\nContent-Length: 0\r\n\r\n",
}  # fmt: skip


class Answering:
    """An origin whose next answer a test sets: cut in pieces, or with a rest that comes when the test says so."""

    def __init__(self) -> None:
        self.answer = HONEST
        self.piece = 0
        self.rest = b""
        self.go_on = threading.Event()

    def __call__(self, peer: Peer) -> None:
        while True:
            read_request(peer)
            answer, piece, rest = self.answer, self.piece, self.rest
            if piece:
                peer.send_slowly(answer, piece)
            else:
                peer.send(answer)
            if rest:
                self.go_on.wait(TIMEOUT_S)
                peer.send(rest)


class Setup:
    def __init__(self, gate: Gateway, server: ScriptedOrigin, script: Answering) -> None:
        self.gateway, self.origin, self.script = gate, server, script

    def honest(self) -> None:
        """Whatever happened, the next requests get their own answers."""
        self.script.answer, self.script.piece, self.script.rest = HONEST, 0, b""
        with self.gateway.connect() as peer:
            for _ in range(2):
                peer.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
                head, body = peer.receive_response()
                assert (status_of(head), body) == (200, b"honest")


@pytest.fixture(scope="module")
def shared() -> Iterator[Setup]:
    script = Answering()
    methods = ["GET", "HEAD", "POST"]
    with origin(script) as server, gateway({"routers": [route("/a", server.url, methods=methods)]}) as gate:
        yield Setup(gate, server, script)


@pytest.fixture
def setup(shared: Setup) -> Setup:
    shared.honest()
    return shared


GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("piece", [0, 40, 1], ids=["whole", "pieces", "bytes"])
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_head_is_a_502_and_nothing_of_it_goes_on(setup: Setup, name: str, piece: int) -> None:
    setup.script.answer, setup.script.piece = MALFORMED[name], piece
    with setup.gateway.connect() as peer:
        peer.send(GET)
        head, body = peer.receive_response()
        while status_of(head) == 103:
            head, body = peer.receive_response()
        assert_error(head + body, 502, "upstream_protocol")
        assert b"evil" not in head + body
    setup.honest()


BROKEN_BODIES = {
    "size 0x5": b"0x5\r\nevil!\r\n0\r\n\r\n",
    "size overflows": b"fffffffffffffffff\r\nevil!\r\n0\r\n\r\n",
    "size ends with LF": b"5\nevil!\r\n0\r\n\r\n",
    "extension with LF": b"5;a\nb\r\nevil!\r\n0\r\n\r\n",
    "extension with CR": b"5;a\rb\r\nevil!\r\n0\r\n\r\n",
    "data too long": b"2\r\nabevil!\r\n0\r\n\r\n",
    "no CRLF after the data": b"2\r\nab5\r\nevil!\r\n0\r\n\r\n",
    "trailer without colon": b"2\r\nab\r\n0\r\nevil\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_a_broken_chunk_beside_its_head_is_a_502(setup: Setup, name: str) -> None:
    setup.script.answer = CHUNKED + BROKEN_BODIES[name]
    with setup.gateway.connect() as peer:
        peer.send(GET)
        head, body = peer.receive_response()
        assert_error(head + body, 502, "upstream_protocol")
        peer.send(GET)
        assert status_of(peer.receive_response()[0]) == 502, "the connection to the client is still good"
    setup.honest()


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_a_chunk_that_breaks_later_cuts_the_response(setup: Setup, name: str) -> None:
    setup.script.answer, setup.script.rest = CHUNKED + b"2\r\nok\r\n", BROKEN_BODIES[name]
    setup.script.go_on.clear()
    with setup.gateway.connect() as peer:
        peer.send(GET)
        assert status_of(peer.receive_until(b"2\r\nok\r\n")) == 200
        setup.script.go_on.set()
        response = peer.receive_all()
    assert not response.endswith(b"0\r\n\r\n"), "a client would take it for complete"
    assert b"evil!" not in response
    setup.honest()


@pytest.mark.parametrize(
    "poison",
    [
        OK + b"Content-Length: 2\r\n\r\nok" + OK + b"Content-Length: 4\r\n\r\nevil",
        CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 204 No Content\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 304 Not Modified\r\n\r\nevil",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 4\r\n\r\nevil",
    ],
    ids=["length", "chunked", "204", "304 with a body", "204 with a body"],
)
@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "bytes"])
def test_surplus_bytes_reach_nobody(setup: Setup, poison: bytes, piece: int) -> None:
    setup.script.answer, setup.script.piece = poison, piece
    with setup.gateway.connect() as peer:
        peer.send(GET)
        head, body = peer.receive_response()
        assert status_of(head) in (200, 204, 304)
        assert b"evil" not in head + body
    if piece == 0:  # else the surplus may come when the next request is already out, and nobody can tell
        setup.honest()


def test_head_has_no_body_whatever_the_origin_sends(setup: Setup) -> None:
    setup.script.answer = OK + b"Content-Length: 4\r\n\r\nevil"
    with setup.gateway.connect() as peer:
        peer.send(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Content-Length: 4\r\n" in peer.receive_head()
        setup.script.answer = HONEST
        peer.send(GET)
        assert peer.receive_response()[1] == b"honest"


def test_bytes_nobody_asked_for_end_the_connection() -> None:
    """An origin that speaks first has its say ignored."""

    def script(peer: Peer) -> None:
        read_request(peer)
        peer.send(HONEST)
        read_request(peer)
        peer.send(HONEST)
        peer.send(OK + b"Content-Length: 4\r\n\r\nevil")
        assert peer.closed(), "the pool keeps no such connection"

    with origin(script) as server, gateway({"routers": [route("/a", server.url)]}) as gate, gate.connect() as peer:
        for _ in range(2):
            peer.send(GET)
            assert peer.receive_response()[1] == b"honest"
        gate.wait(lambda: server.finished, "an end of the origin's connection")
        peer.send(GET)
        assert peer.receive_response()[1] == b"honest"


def test_fields_of_the_response_that_belong_to_one_hop_stay_there(setup: Setup) -> None:
    setup.script.answer = (
        OK + b"Connection: X-Hop, Set-Cookie\r\nX-Hop: evil\r\nKeep-Alive: timeout=9\r\nProxy-Connection: evil\r\n"
        b"Upgrade: h2c\r\nSet_Cookie: evil=1\r\nSet-Cookie: good=1\r\nX-Request-Id: evil\r\nContent-Length: 0\r\n\r\n"
    )
    with setup.gateway.connect() as peer:
        peer.send(GET)
        head = peer.receive_response()[0]
    assert b"Set-Cookie: good=1\r\n" in head
    for gone in (b"evil", b"Keep-Alive", b"h2c", b"Connection:"):
        assert gone not in head
