"""Which fields cross the gateway, and which it writes (RFC 9110 section 7.6, RFC 7239)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.proxy.conftest import Stage, staged

UUID = rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.fixture(scope="module")
def trusting() -> Iterator[Stage]:
    with staged({"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"], "headers": {"via": "edge"}}) as made:
        yield made


def fields(head: bytes) -> list[bytes]:
    return head.split(b"\r\n")[1:-2]


def sent_upstream(stage: Stage, *lines: str, path: str = "") -> list[bytes]:
    """Fields of the request as the origin gets it."""
    scene = stage.play()
    data = scene.head("GET", *lines)
    stage.exchange(data.replace(scene.path.encode(), scene.path.encode() + path.encode(), 1))
    return fields(scene.received()[0])


def value(lines: list[bytes], name: bytes) -> bytes:
    """Of the one field of this name."""
    [found] = [line for line in lines if line.lower().startswith(name.lower() + b":")]
    return found.partition(b": ")[2]


def test_the_query_is_forwarded_as_it_is(stage: Stage) -> None:
    scene = stage.play()
    query = "?a=1&a=2&b=%2F%20&c=+&&d"
    stage.exchange(f"GET {scene.path}{query} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    assert scene.received()[0].startswith(f"GET {scene.path}{query} HTTP/1.1\r\n".encode())


def test_ordinary_fields_keep_their_order_case_and_number(stage: Stage) -> None:
    sent = ["X-B: 1", "x-a: 2", "X-B: 3", "Accept: */*", "Cookie: a=b", "Upgrade-Insecure-Requests: 1", "X-Empty:"]
    assert sent_upstream(stage, *sent)[1:8] == [line.encode() for line in sent]


def test_repeated_response_fields_stay_repeated_and_in_order(stage: Stage) -> None:
    scene = stage.play(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nX-A: 1\r\nSet-Cookie: b=2\r\nX-A: 2\r\nContent-Length: 0\r\n\r\n"
    )
    head, _ = stage.exchange(scene.head())
    assert fields(head)[:4] == [b"Set-Cookie: a=1", b"X-A: 1", b"Set-Cookie: b=2", b"X-A: 2"]


@pytest.mark.parametrize("status", [b"301 Moved", b"302 Found", b"307 Temporary Redirect", b"404 Gone", b"503 Busy"])
def test_redirects_and_errors_are_passed_through(stage: Stage, status: bytes) -> None:
    scene = stage.play(b"HTTP/1.1 %s\r\nLocation: http://other/\r\nContent-Length: 4\r\n\r\nbody" % status)
    head, body = stage.exchange(scene.head())
    assert head.startswith(b"HTTP/1.1 %s\r\nLocation: http://other/\r\n" % status)
    assert body == b"body"


def test_hop_by_hop_fields_end_at_the_gateway(stage: Stage) -> None:
    lines = sent_upstream(
        stage, "Connection: keep-alive, X-Hop, close", "Keep-Alive: timeout=5", "Proxy-Connection: close",
        "Upgrade: h2c", "HTTP2-Settings: x", "TE: gzip", "Proxy-Authorization: Basic x", "X-Hop: 1", "X-Stay: 1",
        "Proxy: http://evil",
    )  # fmt: skip
    names = {line.partition(b":")[0].lower() for line in lines}
    assert b"x-stay" in names
    assert not names & {
        b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"http2-settings", b"te", b"x-hop", b"proxy",
        b"proxy-authorization",
    }  # fmt: skip


def test_hop_by_hop_fields_of_the_upstream_end_too(stage: Stage) -> None:
    scene = stage.play(
        b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-Stay: 1\r\n"
        b"Upgrade: h2c\r\nProxy-Connection: x\r\nContent-Length: 0\r\n\r\n"
    )
    names = {line.partition(b":")[0] for line in fields(stage.exchange(scene.head())[0])}
    added = {b"X-Content-Type-Options", b"X-Frame-Options", b"Referrer-Policy"}
    assert names == {b"X-Stay", b"Content-Length", b"Via", b"X-Request-Id"} | added


def test_connection_cannot_strip_what_identifies_the_request(stage: Stage) -> None:
    lines = sent_upstream(stage, "Connection: X-Forwarded-For, Host, Authorization", "Authorization: Bearer x")
    assert value(lines, b"authorization") == b"Bearer x"
    assert value(lines, b"x-forwarded-for") == b"127.0.0.1"


def test_host_is_the_backends_and_the_clients_is_told(stage: Stage) -> None:
    lines = sent_upstream(stage)
    assert value(lines, b"host") == b"127.0.0.1:%d" % stage.origin.port
    assert value(lines, b"x-forwarded-host") == b"test"


def test_preserve_host() -> None:
    with staged(preserve_host=True) as stage:
        assert value(sent_upstream(stage), b"host") == b"test"


def test_forwarding_fields_are_written(stage: Stage) -> None:
    lines = sent_upstream(stage)
    assert value(lines, b"x-forwarded-for") == b"127.0.0.1"
    assert value(lines, b"x-forwarded-proto") == b"http"
    assert value(lines, b"x-forwarded-port") == b"%d" % stage.gateway.port
    assert value(lines, b"forwarded") == b'for=127.0.0.1;host="test";proto=http'
    assert value(lines, b"via") == b"1.1 kairos"


CLAIMS = [
    "X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 10.0.0.2", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop",
    "X-Forwarded-Port: 443", "Forwarded: for=203.0.113.9;proto=https", "Via: 1.1 front", "X-Real-IP: 1.2.3.4",
]  # fmt: skip


def test_claims_of_strangers_are_replaced(stage: Stage) -> None:
    lines = sent_upstream(stage, *CLAIMS)
    assert value(lines, b"x-forwarded-for") == b"127.0.0.1"
    assert value(lines, b"x-forwarded-proto") == b"http"
    assert value(lines, b"x-forwarded-host") == b"test"
    assert value(lines, b"x-forwarded-port") == b"%d" % stage.gateway.port
    assert value(lines, b"forwarded") == b'for=127.0.0.1;host="test";proto=http'
    assert [line for line in lines if line.startswith(b"Via")] == [b"Via: 1.1 front", b"Via: 1.1 kairos"]
    assert b"x-real-ip" not in b"".join(lines).lower()


def test_claims_of_trusted_proxies_are_kept_and_added_to(trusting: Stage) -> None:
    lines = sent_upstream(trusting, *CLAIMS)
    assert value(lines, b"x-forwarded-for") == b"203.0.113.9, 10.0.0.2, 127.0.0.1"
    assert value(lines, b"x-forwarded-proto") == b"https"
    assert value(lines, b"x-forwarded-host") == b"shop"
    assert value(lines, b"x-forwarded-port") == b"443"
    assert value(lines, b"forwarded") == b'for=203.0.113.9;proto=https, for=127.0.0.1;host="test";proto=http'
    assert lines[-2] == b"Via: 1.1 edge"


def test_the_client_is_the_first_that_is_not_trusted_from_the_right(trusting: Stage) -> None:
    sent_upstream(trusting, "X-Forwarded-For: 6.6.6.6, 203.0.113.77, 10.0.0.2")
    [line] = trusting.gateway.wait_access(client="203.0.113.77")
    assert line["status"] == 200


def test_a_request_id_is_made_or_kept(stage: Stage) -> None:
    scene = stage.play()
    head, _ = stage.exchange(scene.head())
    made = value(fields(scene.received()[0]), b"x-request-id")
    assert re.fullmatch(UUID, made)
    assert value(fields(head), b"x-request-id") == made
    head, _ = stage.exchange(scene.head("GET", "X-Request-Id: mine-1"))
    assert value(fields(scene.received()[0]), b"x-request-id") == b"mine-1"
    assert value(fields(head), b"x-request-id") == b"mine-1"


@pytest.mark.parametrize("bad", ["a b", "<script>", "x" * 129, ""])
def test_an_ill_formed_request_id_is_replaced(stage: Stage, bad: str) -> None:
    assert re.fullmatch(UUID, value(sent_upstream(stage, f"X-Request-Id: {bad}"), b"x-request-id"))


def test_an_upstreams_request_id_does_not_hide_ours(stage: Stage) -> None:
    scene = stage.play(b"HTTP/1.1 200 OK\r\nX-Request-Id: theirs\r\nContent-Length: 0\r\n\r\n")
    head, _ = stage.exchange(scene.head())
    assert re.fullmatch(UUID, value(fields(head), b"x-request-id"))


def test_http10_is_told_in_via_and_has_no_host_to_forward(stage: Stage) -> None:
    scene = stage.play()
    stage.exchange(b"GET %s HTTP/1.0\r\n\r\n" % scene.path.encode())
    lines = fields(scene.received()[0])
    assert value(lines, b"via") == b"1.0 kairos"
    assert value(lines, b"forwarded") == b"for=127.0.0.1;proto=http"
    assert b"x-forwarded-host" not in b"".join(lines).lower()
