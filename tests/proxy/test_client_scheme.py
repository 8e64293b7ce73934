"""Behind a proxy that ends TLS: what tells others of the scheme tells of the client's, where the proxy is trusted."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import pytest

from kairos.proxy.filters.authn.signature import message_of
from tests.support.gateway import route
from tests.support.inprocess import InProcess, serving
from tests.support.net import Peer, origin, read_request
from tests.support.ws import header

HTTPS = "X-Forwarded-Proto: https"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class Seen:
    """An origin that keeps what it was asked."""

    def __init__(self) -> None:
        self.heads: queue.Queue[bytes] = queue.Queue()

    def __call__(self, peer: Peer) -> None:
        while True:
            self.heads.put(read_request(peer)[0])
            peer.send(OK)

    def next(self) -> bytes:
        return self.heads.get(timeout=10)


def document(url: str, other: str, trusted: list[str]) -> dict[str, Any]:
    variants = [{"name": "new", "weight": 1, "backends": [{"host": url}]}]
    return {
        "trusted_proxies": trusted,
        "routers": [
            route("/asked", url, auth={"methods": ["forward"]}, forward_auth={"url": other, "cache_time": 60}),
            route("/copied", url, mirror={"backends": [{"host": other}]}),
            route("/split", url, split={"variants": variants, "sticky": {"secret": "s" * 40}}),
            route(
                "/told",
                url,
                request_transformation={"headers": [{"action": "set", "name": "X-Scheme", "value": "{{ scheme }}"}]},
            ),
        ],
    }


@pytest.fixture(params=[["127.0.0.1"], []], ids=["trusted", "stranger"])
def stage(request: pytest.FixtureRequest) -> Iterator[tuple[InProcess, Seen, Seen, bytes]]:
    """The gateway, backend and other server, and the scheme that https is taken for."""
    backend, other = Seen(), Seen()
    with origin(backend) as o, origin(other) as p, serving(document(o.url, p.url, request.param)) as gate:
        yield gate, backend, other, b"https" if request.param else b"http"


def test_a_service_that_decides(stage: tuple[InProcess, Seen, Seen, bytes]) -> None:
    gate, _, other, scheme = stage
    gate.get("/asked")
    assert header(other.next(), b"x-forwarded-proto") == b"http"
    gate.get("/asked", HTTPS)
    if scheme == b"https":
        assert header(other.next(), b"x-forwarded-proto") == scheme
    assert other.heads.empty(), "consent for one scheme is none for the other"


def test_copies(stage: tuple[InProcess, Seen, Seen, bytes]) -> None:
    gate, _, other, scheme = stage
    gate.get("/copied", HTTPS)
    assert header(other.next(), b"x-forwarded-proto") == scheme


def test_templates(stage: tuple[InProcess, Seen, Seen, bytes]) -> None:
    gate, backend, _, scheme = stage
    gate.get("/told", HTTPS)
    assert header(backend.next(), b"x-scheme") == scheme


def test_the_cookie_of_a_split(stage: tuple[InProcess, Seen, Seen, bytes]) -> None:
    gate, _, _, scheme = stage
    assert (b"; Secure" in gate.get("/split", HTTPS)[0]) == (scheme == b"https")
    assert b"; Secure" not in gate.get("/split")[0]


def test_what_is_signed() -> None:
    class Request:
        method, scheme, client_scheme, host, target = "GET", "http", "https", "test", b"/"
        headers = ()

    assert message_of(Request()).scheme == "https"  # type: ignore[arg-type]
