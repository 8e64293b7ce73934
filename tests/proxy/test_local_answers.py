"""What the gateway answers without asking an upstream."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.proxy.conftest import OK, Stage
from tests.support.gateway import gateway, route
from tests.support.net import Peer, dead_port, origin, read_request, status_of


def answer(peer: Peer) -> None:
    while read_request(peer):
        peer.send(OK)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage()
    with origin(answer) as made.origin:
        routers = [
            route("/a", made.origin.url, methods=["GET", "POST"]),
            route("/slash", made.origin.url, trailing_slash="redirect"),
            route("/either", made.origin.url, trailing_slash="ignore"),
            route("/dead", f"http://127.0.0.1:{dead_port()}"),
            route("/unnamed", "http://no-such-host.invalid:80"),
        ]
        with gateway({"routers": routers}) as made.gateway:
            yield made


def request(stage: Stage, line: str, *fields: str, body: bytes = b"") -> tuple[bytes, bytes]:
    return stage.exchange("\r\n".join([f"{line} HTTP/1.1", "Host: test", *fields, "", ""]).encode() + body)


def test_no_route(stage: Stage) -> None:
    head, body = request(stage, "GET /none?x=1", "X-Request-Id: id-1")
    assert status_of(head) == 404
    assert b"\r\nContent-Type: application/problem+json\r\n" in head
    assert b"Connection: close" not in head
    told = json.loads(body)
    assert (told["type"], told["status"], told["request_id"]) == ("route_not_found", 404, "id-1")
    assert told["error"] == "No route found: /none"
    assert told["timestamp"].endswith("Z")


def test_another_method(stage: Stage) -> None:
    head, body = request(stage, "DELETE /a")
    assert status_of(head) == 405
    assert b"\r\nAllow: GET, HEAD, POST, OPTIONS\r\n" in head
    assert json.loads(body)["type"] == "method_not_allowed"


def test_head_is_served_by_get_routes_and_errors_have_no_body(stage: Stage) -> None:
    with stage.connect() as client:
        client.send(b"HEAD /none HTTP/1.1\r\nHost: test\r\n\r\n")
        head = client.receive_head()
        assert status_of(head) == 404
        assert b"Content-Length: " in head
        client.send(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.receive_response()[1] == b"ok"


def test_options(stage: Stage) -> None:
    head, body = request(stage, "OPTIONS /a")
    assert (status_of(head), body) == (204, b"")
    assert b"\r\nAllow: GET, HEAD, POST, OPTIONS\r\n" in head


def test_slash_policies(stage: Stage) -> None:
    head, _ = request(stage, "GET /slash/?q=%20&r")
    assert status_of(head) == 308
    assert b"\r\nLocation: /slash?q=%20&r\r\n" in head
    assert status_of(request(stage, "GET /either/")[0]) == 200
    assert status_of(request(stage, "GET /a/")[0]) == 404


def test_an_unread_body_does_not_become_a_request(stage: Stage) -> None:
    with stage.connect() as client:
        client.send(b"POST /none HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n" + b"GET /a HTTP/1.1\r\n\r\n")
        got = client.receive_all()
    assert got.count(b"HTTP/1.1 ") == 1
    assert b"Connection: close" in got


def test_a_body_that_is_there_is_passed_over(stage: Stage) -> None:
    with stage.connect() as client:
        client.send(
            b"POST /none HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabcGET /a HTTP/1.1\r\nHost: t\r\n\r\n"
        )
        assert [status_of(client.receive_response()[0]) for _ in range(2)] == [404, 200]


@pytest.mark.parametrize(("path", "kind"), [("/dead", "connect_failed"), ("/unnamed", "resolve_failed")])
def test_backends_that_cannot_be_reached(stage: Stage, path: str, kind: str) -> None:
    head, body = request(stage, f"GET {path}")
    told = json.loads(body)
    assert (status_of(head), told["code"], told["type"]) == (502, kind, "upstream")
    assert b"127.0.0.1" not in body
    assert b"no-such-host" not in body
    [line] = stage.gateway.wait_access(path=path)
    assert (line["status"], line["detail"], line.get("attempts", 0)) == (502, kind, 0)


def test_health(stage: Stage) -> None:
    for path in ("/health", "/ready", "/live", "/health/ready", "/health/live"):
        head, body = request(stage, f"GET {path}")
        assert status_of(head) == 200, path
        assert json.loads(body)["status"] in ("healthy", "ready", "alive")
