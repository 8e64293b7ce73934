"""One gateway before one recording origin, shared by all tests of this folder that need no settings of their own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.gateway import Gateway, gateway, route
from tests.support.net import Peer, ScriptedOrigin, origin, read_request, status_of

memory_is_real = pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="ASan keeps what was freed")
ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"]


class Recorder:
    """An origin's script: answers every complete request with 200, and keeps all of them."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes]] = []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    def __call__(self, peer: Peer) -> None:
        while True:
            request = read_request(peer)
            self.seen.append(request)
            peer.send(self.answer)

    def heads(self, marker: bytes = b"") -> list[bytes]:
        return [head for head, _ in self.seen if marker in head]


class Site:
    """Gateway, origin, and what the origin saw."""

    def __init__(self, gate: Gateway, server: ScriptedOrigin, recorder: Recorder) -> None:
        self.gateway = gate
        self.origin = server
        self.recorder = recorder

    def connect(self) -> Peer:
        return self.gateway.connect()


def config_for(url: str, **sections: Any) -> dict[str, Any]:
    """Every kind of path under attack: plain, captured, one host only, websocket."""
    return {
        "routers": [
            route("/echo", url, methods=ALL_METHODS),
            route("/echo/{rest:path}", url, "/echo/{rest}", methods=ALL_METHODS),
            route("/item/{id}/edit", url, "/private/{id}"),
            route("/find/{word}", url, "/search?q={word}"),
            route("/vhost", url, hosts=["api.test"]),
            route("/address", url, hosts=["[::1]"]),
            route("/socket", url, methods=["GET"], upgrade=True),
        ],
        **sections,
    }


@pytest.fixture(scope="session")
def shared_site() -> Iterator[Site]:
    recorder = Recorder()
    with origin(recorder) as server, gateway(config_for(server.url)) as gate:
        yield Site(gate, server, recorder)


@pytest.fixture
def site(shared_site: Site) -> Site:
    shared_site.recorder.seen.clear()
    return shared_site


def assert_error(response: bytes, status: int, code: str) -> None:
    """The response is the error table's row `code`, as problem+json, and nothing follows it."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert status_of(response) == status, response
    assert b"\r\nContent-Type: application/problem+json\r\n" in head + b"\r\n", head
    problem = orjson.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert {"type", "title", "error", "timestamp", "request_id"} <= set(problem)
    assert b"127.0.0.1" not in body, "an internal address"


def send_all(peer: Peer, data: bytes, piece: int = 1 << 20) -> None:
    """As much of data as the gateway takes: it may answer and hang up in the middle."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        peer.send_slowly(data, piece)


def ask(peer: Peer, path: str = "/echo") -> bytes:
    """An honest GET on this connection; the head of the answer."""
    peer.send(f"GET {path} HTTP/1.1\r\nHost: honest.test\r\n\r\n".encode())
    return peer.receive_response()[0]
