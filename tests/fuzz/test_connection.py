"""A real worker between a hostile client and a hostile origin: it never dies, never logs a traceback (the harness
looks), and answers the next connection."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.procfs import workers
from tests.fuzz.heads import chunked_bodies, mutated, requests, responses
from tests.support.gateway import Gateway, gateway, route
from tests.support.net import Peer, origin, read_request, status_of

EXAMPLES = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CHUNKED = b"POST /a HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n"
traffic = st.lists(
    st.one_of(
        mutated(requests),
        requests,
        mutated(chunked_bodies()).map(lambda body: CHUNKED + body),
        st.binary(max_size=60),
        st.just(b"GET /a HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    ),
    min_size=1,
    max_size=4,
)
answers = st.one_of(
    mutated(responses),
    st.tuples(responses, st.binary(max_size=40)).map(b"".join),
    mutated(chunked_bodies()).map(lambda body: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body),
    st.binary(max_size=60),
)


class Hostile:
    """Answers any bytes at all with the answer set, and hangs up."""

    def __init__(self) -> None:
        self.answer = b""

    def __call__(self, peer: Peer) -> None:
        read_request(peer)
        peer.send(self.answer)
        peer.sock.shutdown(socket.SHUT_WR)
        peer.receive_all()


class Target:
    def __init__(self, gate: Gateway, script: Hostile) -> None:
        self.gateway, self.script = gate, script
        self.workers = workers(gate.process.pid, gate.port)

    def assert_well(self) -> None:
        assert status_of(self.gateway.get("/health")[0]) == 200
        assert workers(self.gateway.process.pid, self.gateway.port) == self.workers, "a worker died"


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    script = Hostile()
    timeouts = {"head": 1, "body_idle": 1, "first_byte": 1, "read_idle": 1}
    with origin(script) as server:
        routes = [route("/a", server.url, methods=["GET", "HEAD", "POST", "TRACE"])]
        config = {
            "routers": routes, "timeouts": timeouts, "trusted_proxies": ["127.0.0.0/8"],
            "circuit_breaker": {"enabled": False},
        }  # fmt: skip
        with gateway(config) as gate:
            yield Target(gate, script)


@EXAMPLES
@given(traffic, st.integers(0, 3))
def test_any_bytes_from_a_client(target: Target, pieces: list[bytes], cut: int) -> None:
    target.script.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    with target.gateway.connect() as peer, contextlib.suppress(ConnectionError):
        for piece in pieces:
            peer.send_slowly(piece, cut) if cut else peer.send(piece)
        with contextlib.suppress(OSError):  # cut off by now
            peer.sock.shutdown(socket.SHUT_WR)
        for line in peer.receive_all().split(b"HTTP/1.1 ")[1:]:
            assert line[:3].isdigit()
    target.assert_well()


@EXAMPLES
@given(answers, st.sampled_from([b"GET", b"HEAD", b"POST"]))
def test_any_bytes_from_an_origin(target: Target, answer: bytes, method: bytes) -> None:
    target.script.answer = answer
    with target.gateway.connect() as peer:
        peer.send(method + b" /a HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        response = peer.receive_all()
        assert response == b"" or response.startswith(b"HTTP/1.1 ")
    target.assert_well()
