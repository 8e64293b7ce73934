"""Client connections: kept, closed and pipelined (RFC 9112 section 9)."""

from __future__ import annotations

import re

import pytest

from tests.proxy.conftest import Stage, staged
from tests.support.net import Peer, status_of


def test_http11_connections_are_kept(stage: Stage) -> None:
    scene = stage.play()
    with stage.connect() as client:
        for _ in range(3):
            client.send(scene.head())
            head, body = client.receive_response()
            assert b"connection:" not in head.lower()
            assert body == b"ok"


def test_connection_close_of_the_client_is_honoured(stage: Stage) -> None:
    scene = stage.play()
    with stage.connect() as client:
        client.send(scene.head("GET", "Connection: close"))
        head, body = client.receive_response()
        assert (b"Connection: close\r\n" in head, body) == (True, b"ok")
        assert client.closed()


def test_http10_closes_by_default(stage: Stage) -> None:
    scene = stage.play()
    with stage.connect() as client:
        client.send(b"GET %s HTTP/1.0\r\n\r\n" % scene.path.encode())
        head, body = client.receive_response()
        assert head.startswith(b"HTTP/1.1 200")
        assert (b"Connection: close\r\n" in head, body) == (True, b"ok")
        assert client.closed()


def test_http10_keeps_the_connection_when_it_asks_to(stage: Stage) -> None:
    scene = stage.play()
    with stage.connect() as client:
        for _ in range(2):
            client.send(b"GET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % scene.path.encode())
            head, body = client.receive_response()
            assert (b"Connection: keep-alive\r\n" in head, body) == (True, b"ok")


def test_http10_gets_a_body_of_unknown_length_until_the_close(stage: Stage) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    scene = stage.play(chunked)
    with stage.connect() as client:
        client.send(b"GET %s HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" % scene.path.encode())
        head, _, body = client.receive_all().partition(b"\r\n\r\n")
        assert b"chunked" not in head
        assert b"Content-Length" not in head
        assert b"Connection: close" in head
        assert body == b"abcdef"


def test_200_requests_in_one_segment_are_answered_in_order(stage: Stage) -> None:
    def count(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n" + next(numbers))

    numbers = iter([b"%03d" % n for n in range(200)])
    scene = stage.play(count)
    with stage.connect() as client:
        client.send(scene.head() * 200)
        for n in range(200):
            assert client.receive_response()[1] == b"%03d" % n


def test_pipelined_answers_of_upstream_and_gateway_keep_their_order(stage: Stage) -> None:
    scene = stage.play()
    missing = b"GET /../ HTTP/1.1\r\nHost: test\r\n\r\n"
    local = scene.head("OPTIONS")
    with stage.connect() as client:
        client.send(scene.head() + local + scene.head("POST", "Content-Length: 3") + b"abc" + local + missing)
        got = [status_of(client.receive_response()[0]) for _ in range(5)]
    assert got == [200, 204, 200, 204, 400]


def test_what_is_pipelined_behind_a_close_is_not_answered(stage: Stage) -> None:
    scene = stage.play()
    with stage.connect() as client:
        client.send(scene.head("GET", "Connection: close") + scene.head())
        assert client.receive_all().count(b"HTTP/1.1") == 1


def test_two_requests_cut_at_every_place(stage: Stage) -> None:
    scene = stage.play()
    data = scene.head("POST", "Content-Length: 5") + b"hello" + scene.head("POST", "Transfer-Encoding: chunked")
    data += b"3\r\nabc\r\n0\r\n\r\n"
    with stage.connect() as client:
        for cut in range(1, len(data)):
            client.send(data[:cut])
            client.send(data[cut:])
            assert [client.receive_response()[1] for _ in range(2)] == [b"ok", b"ok"]
            assert [scene.received()[1] for _ in range(2)] == [b"hello", b"abc"]


def test_empty_lines_before_a_request_are_passed_over(stage: Stage) -> None:
    scene = stage.play()
    with stage.connect() as client:
        for lines in (b"\r\n", b"\r\n\r\n"):
            client.send(lines + scene.head())
            assert client.receive_response()[1] == b"ok"


def test_after_so_many_requests_a_connection_ends_politely() -> None:
    with staged({"limits": {"requests_per_connection": 3}}) as stage:
        scene = stage.play()
        with stage.connect() as client:
            client.send(scene.head() * 4)
            heads = [client.receive_response()[0] for _ in range(3)]
            assert [b"Connection: close" in head for head in heads] == [False, False, True]
            assert client.receive_all() == b""


def test_a_connection_of_a_client_that_says_nothing_is_closed() -> None:
    with staged({"timeouts": {"idle": 0.3, "head": 0.3}}) as stage:
        scene = stage.play()
        with stage.connect() as client:
            client.send(scene.head())
            assert client.receive_response()[1] == b"ok"
            assert client.receive_all() == b""  # no 408 to a request that was never begun
        with stage.connect() as client:
            client.send(b"GET / HT")
            head, _ = client.receive_response()
            assert status_of(head) == 408
            assert b"Connection: close" in head
            assert client.closed()


@pytest.mark.parametrize("ending", [b"", b"\r\n"])
def test_a_client_may_close_between_requests(stage: Stage, ending: bytes) -> None:
    scene = stage.play()
    with stage.connect() as client:
        client.send(scene.head() + ending)
        assert client.receive_response()[1] == b"ok"
    stage.gateway.wait(lambda: _open_connections(stage) == 1, "closed client connections")


def _open_connections(stage: Stage) -> int:
    """Client connections, that of the scrape included."""
    found = re.search(r'kairos_connections{state="open"} (\d+)', stage.gateway.metrics())
    assert found
    return int(found[1])
