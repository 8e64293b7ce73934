"""Requests that try to become two, or none: what one client sends never reaches the origin as another's request."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.robust.conftest import Site, ask, assert_error
from tests.support.gateway import gateway, route
from tests.support.net import TIMEOUT_S, Peer, origin, status_of

SMUGGLED = b"GET /echo/smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n"
HONEST = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhonest"


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /echo HTTP/1.1\r\nHost: a.test\r\n" + fields + b"\r\n" + body


def test_a_body_that_looks_like_a_request_stays_a_body(site: Site) -> None:
    with site.connect() as peer:
        peer.send(post(b"Content-Length: %d\r\n" % len(SMUGGLED), SMUGGLED))
        assert status_of(peer.receive_response()[0]) == 200
        assert status_of(ask(peer)) == 200
    assert [body for _, body in site.recorder.seen] == [SMUGGLED, b""]
    assert site.recorder.heads(b"/echo/smuggled") == []


def test_pipelined_requests_are_answered_in_order_and_one_by_one(site: Site) -> None:
    with site.connect() as peer:
        peer.send(b"".join(b"GET /echo/%d HTTP/1.1\r\nHost: a.test\r\n\r\n" % i for i in range(20)))
        for _ in range(20):
            assert status_of(peer.receive_response()[0]) == 200
    paths = [head.split(b" ")[1] for head, _ in site.recorder.seen]
    assert paths == [b"/echo/%d" % i for i in range(20)]


def test_garbage_behind_a_request_is_refused_after_its_answer(site: Site) -> None:
    with site.connect() as peer:
        peer.send(b"GET /echo HTTP/1.1\r\nHost: a.test\r\n\r\n\x00\xffgarbage\r\n\r\n" + SMUGGLED)
        assert status_of(peer.receive_response()[0]) == 200
        assert_error(peer.receive_all(), 400, "bad_start_line")
    assert len(site.recorder.seen) == 1


def test_nothing_behind_a_refused_request_is_read(site: Site) -> None:
    with site.connect() as peer:
        peer.send(b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + SMUGGLED)
        assert_error(peer.receive_all(), 400, "bad_host")
    with site.connect() as peer:
        ask(peer)
    assert len(site.recorder.seen) == 1


def test_an_answer_before_the_body_ends_the_connection_and_the_body_is_no_request(site: Site) -> None:
    """404 while 100 bytes are due: what comes then is thrown away."""
    with site.connect() as peer:
        peer.send(b"POST /nowhere HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\n")
        assert_error(b"".join(peer.receive_response()), 404, "route_not_found")
        peer.send(SMUGGLED)
        assert peer.closed()
    assert site.recorder.seen == []


def test_a_body_cut_short_never_completes_a_request_upstream(site: Site) -> None:
    for framing in (b"Content-Length: 100\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"):
        with site.connect() as peer:
            peer.send(b"POST /echo HTTP/1.1\r\nHost: a.test\r\n" + framing)
            peer.sock.shutdown(socket.SHUT_WR)
            peer.receive_all()
    with site.connect() as peer:
        assert status_of(ask(peer)) == 200
    assert len(site.recorder.seen) == 1, "only the honest one was complete"


def test_a_body_promised_and_never_sent_leaves_nothing_for_the_next_request(site: Site) -> None:
    """Expect: 100-continue, then silence and a close; the upstream connection may carry no other request."""
    with site.connect() as peer:
        peer.send(post(b"Expect: 100-continue\r\nContent-Length: 50\r\n"))
        assert status_of(peer.receive_head()) == 100
    with site.connect() as peer:
        assert status_of(ask(peer)) == 200
    assert [head.split(b" ")[0] for head, _ in site.recorder.seen] == [b"GET"]


def test_expect_is_met_here_and_not_passed_on(site: Site) -> None:
    with site.connect() as peer:
        peer.send(post(b"eXpect: 100-Continue\r\nContent-Length: 5\r\n"))
        assert peer.receive_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"hello")
        assert status_of(peer.receive_response()[0]) == 200
    ((head, body),) = site.recorder.seen
    assert (b"expect" in head.lower(), body) == (False, b"hello")


def test_an_upstream_that_answers_before_the_body_is_not_used_again() -> None:
    """The origin believes in no body (0.CL): what follows would be its next request."""
    seen: list[bytes] = []
    answered = threading.Event()

    def script(peer: Peer) -> None:
        head = peer.receive_head()
        seen.append(head)
        peer.send(HONEST)
        answered.set()
        assert b"smuggled" not in head
        peer.receive_all()  # whatever else comes on this connection is no request

    with origin(script) as server, gateway({"routers": [route("/echo", server.url)]}) as gate:
        with gate.connect() as peer:
            peer.send(post(b"Content-Length: %d\r\n" % len(SMUGGLED)))
            assert answered.wait(TIMEOUT_S)
            assert peer.receive_response()[1] == b"honest"
            peer.send(SMUGGLED)
            assert peer.closed()
        with gate.connect() as peer:
            peer.send(b"GET /echo HTTP/1.1\r\nHost: a.test\r\n\r\n")
            assert peer.receive_response()[1] == b"honest"
    assert server.connections == 2
    assert [head.split(b" ")[0] for head in seen] == [b"POST", b"GET"]


def test_an_upstream_that_answers_while_its_request_is_still_queued_is_not_used_again() -> None:
    """The whole body has come, but the origin reads none of it: it must not become the next request."""
    size = 16_000_000
    answered = threading.Event()

    def script(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = peer.receive_head()
        peer.send(HONEST)
        answered.set()
        if head.startswith(b"POST"):
            finished.wait(TIMEOUT_S)

    finished = threading.Event()
    with origin(script) as server, gateway({"routers": [route("/echo", server.url)]}) as gate:
        with gate.connect() as peer:
            sender = threading.Thread(
                target=_send_quietly, args=(peer, post(b"Content-Length: %d\r\n" % size, bytes(size)))
            )
            sender.start()
            assert answered.wait(TIMEOUT_S)
            assert peer.receive_response()[1] == b"honest"
            peer.receive_all()
        sender.join(TIMEOUT_S)
        with gate.connect() as peer:
            peer.send(b"GET /echo HTTP/1.1\r\nHost: a.test\r\n\r\n")
            assert peer.receive_response()[1] == b"honest"
        finished.set()
    assert server.connections == 2


def _send_quietly(peer: Peer, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the gateway may have enough of it
        peer.send(data)


def test_what_follows_a_refused_upgrade_is_no_request(site: Site) -> None:
    """A client that speaks WebSocket at once (optimistic upgrade) has its frames thrown away, not parsed."""
    with site.connect() as peer:
        peer.send(
            b"GET /socket HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" + SMUGGLED
        )
        response = peer.receive_all()
    assert response.count(b"HTTP/1.1 ") == 1
    assert site.recorder.heads(b"/echo/smuggled") == []


def test_a_client_that_is_gone_takes_its_request_with_it(site: Site) -> None:
    for _ in range(5):
        with site.connect() as peer:
            peer.send(post(b"Content-Length: 1000\r\n", b"x" * 500))
            peer.reset()
    with site.connect() as peer:
        assert status_of(ask(peer)) == 200
    assert [head.split(b" ")[0] for head, _ in site.recorder.seen] == [b"GET"]


def test_the_origin_gets_announced_trailers_byte_for_byte() -> None:
    tails: list[bytes] = []

    def script(peer: Peer) -> None:
        head = peer.receive_head()
        assert b"Transfer-Encoding: chunked\r\n" in head
        tails.append(peer.receive_until(b"\r\n\r\n"))
        peer.send(HONEST)

    with origin(script) as server, gateway({"routers": [route("/echo", server.url)]}) as gate, gate.connect() as peer:
        peer.send(
            post(
                b"Transfer-Encoding: chunked\r\nTrailer: X-Sum, X-Forwarded-For\r\n",
                b"0\r\nX-Sum: 1\r\nX-Forwarded-For: evil\r\nX-Other: evil\r\n\r\n",
            )
        )
        assert peer.receive_response()[1] == b"honest"
    assert tails == [b"0\r\nX-Sum: 1\r\n\r\n"]
