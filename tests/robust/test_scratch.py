"""Heads at the limits, where what Kairos writes is longer than what it read: is there always room?

Sanitizer builds end the scratch where room() was asked to end it, so these tests prove the sums under `make asan`;
in any build they prove that the head arrives whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import httptools
import pytest

from tests.fuzz.judge import Verdict, feed
from tests.robust.conftest import Recorder, Site
from tests.support.gateway import gateway, route
from tests.support.net import Peer, origin, status_of

LIMITS = {"head_bytes": 1 << 20, "line_bytes": 1 << 19, "header_count": 1000}
LONG = "/" + "x" * 4000


@pytest.fixture(scope="module")
def wide() -> Iterator[Site]:
    recorder = Recorder()
    with origin(recorder) as server:
        routes = [
            route("/a", server.url, preserve_host=True),
            route("/query/{word}", server.url, "/q?" + "&".join(f"k{i}={{word}}" for i in range(8))),
            route("/path/{rest:path}", server.url, LONG + "/{rest}/{rest}/{rest}/{rest}?fixed=1"),
        ]
        config = {
            "routers": routes,
            "limits": LIMITS,
            "trusted_proxies": ["127.0.0.0/8"],
            "headers": {"via": "v" * 200},
        }
        with gateway(config) as gate:
            yield Site(gate, server, recorder)


@pytest.fixture
def site(wide: Site) -> Site:
    wide.recorder.seen.clear()
    return wide


def ask(site: Site, target: bytes, lines: bytes = b"", host: bytes = b"a.test") -> tuple[bytes, Verdict]:
    """The one head the origin saw, and what httptools reads in it."""
    with site.connect() as peer:
        peer.send(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n" + lines + b"\r\n")
        assert status_of(peer.receive_response()[0]) == 200
    ((head, _),) = site.recorder.seen
    verdict = Verdict()
    assert feed(httptools.HttpRequestParser(verdict), head)
    assert verdict.headers_complete
    return head, verdict


def values(verdict: Verdict, name: bytes) -> list[bytes]:
    return [value for key, value in verdict.fields if key.lower() == name]


@pytest.mark.parametrize("size", [30_000, 250_000])
@pytest.mark.parametrize(
    "name",
    [b"X-Forwarded-For", b"Forwarded", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"X-Forwarded-Port", b"Via", b"X-Z"],
)
def test_one_long_forwarding_field_of_a_trusted_peer(site: Site, name: bytes, size: int) -> None:
    head, verdict = ask(site, b"/a", name + b": " + b"a" * size + b"\r\n", b"h" * 250)
    assert b"a" * size in head
    assert values(verdict, b"x-request-id") != []


@pytest.mark.parametrize("name", [b"X-Forwarded-For", b"Forwarded"])
@pytest.mark.parametrize("value", [b"a", b"", b"a" * 1000], ids=["short", "empty", "long"])
def test_many_lines_of_a_forwarding_field(site: Site, name: bytes, value: bytes) -> None:
    _, verdict = ask(site, b"/a", (name + b":" + value + b"\r\n") * 900, b"h" * 259)
    (joined,) = values(verdict, name.lower())
    assert joined.count(b", ") == (900 if value else 0)


def test_everything_at_once(site: Site) -> None:
    names = (b"X-Forwarded-For", b"Forwarded", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"X-Forwarded-Port", b"Via")
    lines = b"".join(name + b":" + b"a" * 40_000 + b"\r\n" for name in names)
    lines += (
        b"TE: trailers\r\nTrailer: " + b"t" * 40_000 + b"\r\nX-Request-Id: " + b"i" * 128 + b"\r\nX: " + b"b" * 300_000
    )
    head, _ = ask(site, b"/a?" + b"q" * 100_000, lines + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"h" * 259)
    assert head.count(b"a" * 40_000) == 6


@pytest.mark.parametrize("size", [8000, 100_000])
def test_a_capture_that_grows_in_a_query(site: Site, size: int) -> None:
    """Each separator becomes three bytes, eight times over: the longest expansion of a template."""
    head, _ = ask(site, b"/query/" + b"&" * size + b"?" + b"x" * 100)
    assert head.count(b"%26") == 8 * size


@pytest.mark.parametrize("size", [8000, 100_000])
def test_a_capture_that_repeats_in_a_path(site: Site, size: int) -> None:
    head, _ = ask(site, b"/path/" + b"r" * size + b"?y=1")
    assert head.startswith(b"GET " + LONG.encode() + (b"/" + b"r" * size) * 4 + b"?fixed=1&y=1 HTTP/1.1\r\n")


@pytest.mark.parametrize("names", [1, 64])
def test_connection_takes_many_lines_away(site: Site, names: int) -> None:
    lines = b"".join(b"x-%d: 1\r\ny-%d: 2\r\n" % (i, i) for i in range(60))
    listed = b"Connection: " + b", ".join(b"x-%d" % i for i in range(names)) + b"\r\n"
    _, verdict = ask(site, b"/a", lines + listed)
    assert sum(1 for name, _ in verdict.fields if name.startswith(b"x-") and name[2:].isdigit()) == max(0, 60 - names)


@pytest.mark.parametrize("runs", [62, 200])
def test_more_runs_of_cuts_than_fit_are_refused_not_written(site: Site, runs: int) -> None:
    with site.connect() as peer:
        peer.send(b"GET /a HTTP/1.1\r\nHost: a\r\n" + b"a_b: 1\r\nc-d: 2\r\n" * runs + b"\r\n")
        assert status_of(peer.receive_response()[0]) == (200 if runs < 64 else 431)


def test_response_heads_at_the_limits() -> None:
    """Reason, trailer list and fields of a megabyte; chunked, so that the first chunk's size goes behind the head."""
    bulk = b"".join(b"X-%d: " % i + b"a" * 1000 + b"\r\n" for i in range(900))
    heads = [
        b"HTTP/1.1 200 " + b"r" * 400_000 + b"\r\n",
        b"HTTP/1.0 200\r\n" + bulk,
        b"HTTP/1.1 200 OK\r\nTrailer: " + b"t" * 400_000 + b"\r\n" + bulk[:200_000].rpartition(b"\r\n")[0] + b"\r\n",
        b"HTTP/1.1 103 Hints\r\n" + bulk + b"\r\nHTTP/1.1 200 OK\r\n" + bulk,
    ]
    framings = [
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (b"Content-Length: 5\r\n", b"hello"),
        (b"Content-Length: 000000000000000005\r\n", b"hello"),
    ]
    cases = [(head, fields, body) for head in heads for fields, body in framings]

    def script(peer: Peer) -> None:
        number = int(peer.receive_head().split(b"?")[1].split(b" ")[0])
        head, fields, body = cases[number]
        peer.send(head + fields + b"\r\n" + body)
        peer.sock.close()

    with origin(script) as server:
        config = {"routers": [route("/a", server.url)], "limits": LIMITS, "headers": {"via": "v" * 200}}
        with gateway(config) as gate:
            for number, (head, fields, _) in enumerate(cases):
                with gate.connect() as peer:
                    peer.send(b"GET /a?%d HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nX-Request-Id: " % number)
                    peer.send(b"i" * 128 + b"\r\n\r\n")
                    answer, body = peer.receive_response()
                    while status_of(answer) == 103:
                        answer, body = peer.receive_response()
                if head.startswith(b"HTTP/1.0") and b"chunked" in fields:
                    assert status_of(answer) == 502
                else:
                    assert (status_of(answer), body) == (200, b"hello"), number
