"""Responses before the request's end, and the polite close that lets the client read them (RFC 9112 section 9.6)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.proxy.conftest import Stage, staged
from tests.support.net import Peer, status_of

TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"


@pytest.fixture(scope="module")
def limited() -> Iterator[Stage]:
    with staged({"limits": {"body_bytes": 1000}}) as made:
        yield made


def test_a_body_of_a_length_beyond_the_limit_is_refused_unread(limited: Stage) -> None:
    scene = limited.play()
    with limited.connect() as client:
        client.send(scene.head("POST", "Content-Length: 1001", "Expect: 100-continue"))
        head, body = client.receive_response()
        assert (status_of(head), json.loads(body)["type"]) == (413, "payload_too_large")
        assert b"Connection: close" in head
        assert client.closed()
    assert scene.requests.empty()


def test_a_chunked_body_beyond_the_limit_is_refused_as_it_comes(limited: Stage) -> None:
    scene = limited.play()
    with limited.connect() as client:
        client.send(scene.head("POST", "Transfer-Encoding: chunked") + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        client.send(b"1\r\nx\r\n")
        assert status_of(client.receive_response()[0]) == 413


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_a_body_at_the_limit_passes(limited: Stage, framing: str) -> None:
    scene = limited.play()
    data = b"x" * 1000
    if "chunked" in framing:
        data = b"1f4\r\n" + b"x" * 500 + b"\r\n" + b"1f4\r\n" + b"x" * 500 + b"\r\n0\r\n\r\n"
    assert status_of(limited.exchange(scene.head("POST", framing) + data)[0]) == 200


def test_a_route_may_set_its_own_limit() -> None:
    with staged({"limits": {"body_bytes": 10}}, body_bytes=20) as stage:
        scene = stage.play()
        assert status_of(stage.exchange(scene.head("POST", "Content-Length: 20") + b"x" * 20)[0]) == 200
        assert status_of(stage.exchange(scene.head("POST", "Content-Length: 21") + b"x" * 21)[0]) == 413


def test_the_answer_survives_a_client_that_goes_on_sending(limited: Stage) -> None:
    scene = limited.play()
    with limited.connect() as client:
        client.send(scene.head("POST", "Content-Length: 30000000"))
        for _ in range(30):
            client.send(b"x" * 1_000_000)
        assert status_of(client.receive_response()[0]) == 413
        assert client.closed()


def test_an_upstream_may_answer_before_the_body_is_sent(stage: Stage) -> None:
    scene = stage.play(TOO_LARGE, whole=False)
    with stage.connect() as client:
        client.send(scene.head("POST", "Content-Length: 1000000"))
        head, body = client.receive_response()
        assert (status_of(head), body) == (413, b"no")
        assert b"Connection: close" in head
        client.send(b"x" * 1_000_000)
        assert client.receive_all() == b""


def test_an_upstream_may_answer_and_hang_up_while_the_body_comes(stage: Stage) -> None:
    def refuse(peer: Peer) -> None:
        peer.send(TOO_LARGE)
        peer.close()
        raise EOFError

    for _ in range(20):
        scene = stage.play(refuse, whole=False)
        with stage.connect() as client:
            client.send(scene.head("POST", "Content-Length: 5000000") + b"x" * 100)
            for _ in range(5):
                client.send(b"x" * 1_000_000)
            assert status_of(client.receive_response()[0]) == 413


def test_what_follows_an_early_answer_is_no_request(stage: Stage) -> None:
    scene = stage.play(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", whole=False)
    with stage.connect() as client:
        client.send(scene.head("POST", "Content-Length: 1000"))
        assert client.receive_response()[1] == b"ok"
        client.send(scene.head())
        assert client.receive_all() == b""
    assert scene.received()
    assert scene.requests.empty()


def test_a_streamed_answer_and_a_streamed_request_run_side_by_side(stage: Stage) -> None:
    def talk(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (line := peer.receive_until(b"\r\n")) != b"0\r\n":
            peer.send(line + peer.receive_exactly(int(line, 16) + 2))
        peer.receive_exactly(2)
        peer.send(b"0\r\n\r\n")

    scene = stage.play(talk, whole=False)
    with stage.connect() as client:
        client.send(scene.head("POST", "Transfer-Encoding: chunked"))
        assert status_of(client.receive_head()) == 200
        for word in (b"one", b"three", b"seventeen"):
            chunk = b"%x\r\n%s\r\n" % (len(word), word)
            client.send(chunk)
            assert client.receive_exactly(len(chunk)) == chunk
        client.send(b"0\r\n\r\n")
        assert client.receive_all() == b"0\r\n\r\n"


def test_a_body_that_breaks_off_its_framing(stage: Stage) -> None:
    scene = stage.play(whole=False, script=lambda peer: peer.closed())
    with stage.connect() as client:
        client.send(scene.head("POST", "Transfer-Encoding: chunked") + b"3\r\nabc\r\n")
        scene.received()
        client.send(b"nonsense\r\n")
        head, body = client.receive_response()
        assert (status_of(head), json.loads(body)["code"]) == (400, "bad_chunk")
