"""Fields by which frameworks take another path, host, method or scheme: what was authorised is what is done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kairos._speedups.http1 import parse_request
from kairos.proxy.fields import OVERRIDING
from kairos.proxy.trailers import announced
from tests.support.gateway import route
from tests.support.inprocess import serving
from tests.support.net import Peer, echo, origin, read_request

KINDS = {
    "path": ["X-Original-URL", "X-Original-URI", "X-Rewrite-URL", "X-Override-URL", "X-Real-URL"],
    "host": ["X-Host", "X-Original-Host", "X-HTTP-Host-Override"],
    "method": ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"],
    "scheme": ["X-Url-Scheme", "Front-End-Https"],
}
ALL = [name for names in KINDS.values() for name in names]


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(echo) as o:
        yield o.url


def seen(backend: str, *kinds: str) -> set[str]:
    """Those of ALL that reach the backend where these kinds pass."""
    with serving({"headers": {"overrides": list(kinds)}, "routers": [route("/t", backend)]}) as gate:
        body = gate.get("/t", *(f"{name}: x" for name in ALL))[1].decode()
    return {name for name in ALL if f"\r\n{name}: x\r\n" in body}


def test_none_goes_on_but_for_the_kinds_that_are_let_through(backend: str) -> None:
    assert seen(backend) == set()
    assert seen(backend, "method", "method") == set(KINDS["method"])
    assert seen(backend, *KINDS) == set(ALL)


def test_the_scanner_knows_all_that_the_cache_knows() -> None:
    head = b"".join(b"%s: x\r\n" % name for name in sorted(OVERRIDING))
    found = parse_request(b"GET / HTTP/1.1\r\nHost: t\r\n" + head + b"\r\n")
    assert isinstance(found, dict)
    assert found["copied"] == b""
    assert {name.lower().encode() for name in ALL} <= OVERRIDING


@pytest.mark.parametrize(
    "near", ["X-Hosts", "X-Original-URLs", "X-HTTP-Methods", "Front-End-Http", "X-Original-Ur", "X"]
)
def test_other_names_are_the_clients(backend: str, near: str) -> None:
    with serving({"routers": [route("/t", backend)]}) as gate:
        assert f"\r\n{near}: 1\r\n" in gate.get("/t", f"{near}: 1")[1].decode()


FOLDING = ["X_Original_URL", "X-Original_URL", "X_HTTP_Method_Override", "X_Forwarded_For", "x-forwarded_proto",
           "X.Forwarded.Something-Very-Long-Indeed", "X_Real_IP", "X_Host"]  # fmt: skip


def test_nor_do_names_that_an_application_reads_as_one_of_them(backend: str) -> None:
    """Names with `_` pass where they are let through: but not those that are the gateway's when they are folded."""
    for kinds, passing in (([], set()), (["method"], {"X_HTTP_Method_Override"})):
        headers = {"underscores": True, "overrides": kinds}
        with serving({"headers": headers, "routers": [route("/t", backend)]}) as gate:
            body = gate.get("/t", "A_b: 1", "X_Realm: 1", *(f"{name}: evil" for name in FOLDING))[1].decode()
        assert {name for name in FOLDING if f"{name}: evil" in body} == passing
        assert body.count("evil") == len(passing)
        assert "A_b: 1\r\nX_Realm: 1\r\n" in body


def test_nor_do_they_go_on_as_trailers() -> None:
    lines = "".join(f"{name}: evil\r\n" for name in ALL).encode()
    names = ", ".join([*ALL, "X-Sum"]).encode()
    assert announced(lines + b"X-Sum: 1\r\n", names) == b"X-Sum: 1\r\n"


def test_a_service_that_decides_is_not_told_of_another_path(backend: str) -> None:
    """Several such services believe X-Original-URL before X-Forwarded-Uri."""
    asked: list[bytes] = []

    def script(peer: Peer) -> None:
        while True:
            asked.append(read_request(peer)[0])
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with origin(script) as service:
        config = {
            "auth": {"methods": ["forward"]},
            "forward_auth": {"url": f"{service.url}/verify", "request_headers": ["*"]},
            "routers": [route("/secret", backend)],
        }
        with serving(config) as gate:
            gate.get("/secret", "X-Original-URL: /evil", "X-Original-Method: GET", "X-A: 1")
    assert b"X-A: 1" in asked[0]
    assert b"evil" not in asked[0]
