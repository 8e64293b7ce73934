"""Security headers: what an answer has beside the backend's own, and when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kairos.config.policies import security_headers
from kairos.config.policies.security_headers import SecurityHeaders
from kairos.config.problems import Findings
from kairos.proxy.exchange import Exchange, Filter
from kairos.proxy.filters.security_headers import SecurityHeadersFilter
from tests.support.inprocess import Chain, InProcess, in_process, serving
from tests.support.net import Peer, dead_port, origin, read_request, status_of

DEFAULTS = {
    "X-Content-Type-Options: nosniff",
    "X-Frame-Options: SAMEORIGIN",
    "Referrer-Policy: strict-origin-when-cross-origin",
}
ALL: dict[str, Any] = {
    "content_security_policy": "default-src 'self'",
    "content_security_policy_report_only": "script-src 'none'",
    "permissions_policy": "camera=()",
    "cross_origin_opener_policy": "same-origin",
    "cross_origin_embedder_policy": "require-corp",
    "cross_origin_resource_policy": "same-site",
    "xss_protection": "0",
    "hsts": {"max_age": 60, "include_subdomains": True, "preload": False},
    "remove": ["Server", "x-powered-by"],
}
ASKED = {
    *DEFAULTS, "Content-Security-Policy: default-src 'self'", "Content-Security-Policy-Report-Only: script-src 'none'",
    "Permissions-Policy: camera=()", "Cross-Origin-Opener-Policy: same-origin",
    "Cross-Origin-Embedder-Policy: require-corp", "Cross-Origin-Resource-Policy: same-site", "X-XSS-Protection: 0",
}  # fmt: skip


def security(head: bytes) -> list[str]:
    """The lines of a head that are about security, and those that are to be removed."""
    names = ("x-", "referrer", "content-sec", "permissions", "cross-", "strict-", "server")
    lines = head.decode().split("\r\n")[1:-2]
    return sorted(line for line in lines if line.lower().startswith(names) and not line.startswith("X-Request-Id"))


def saying(*lines: str) -> Any:
    """An origin's script: these header lines on every answer."""

    def script(peer: Peer) -> None:
        while True:
            read_request(peer)
            peer.send("\r\n".join(["HTTP/1.1 200 OK", "Content-Length: 2", *lines, "", "ok"]).encode())

    return script


def forward(url: str, path: str = "/a") -> dict[str, Any]:
    return {"external_path": path, "internal_path": "/", "methods": ["GET"], "backends": [{"host": url}]}


class Edits(Filter):
    """A policy within that sets one of them."""

    def on_response(self, x: Exchange) -> None:
        x.set_response_header("x-frame-options", "DENY")


@pytest.fixture(scope="module")
def served() -> Iterator[InProcess]:
    def made(**keys: Any) -> SecurityHeadersFilter:
        return SecurityHeadersFilter(msgspec.convert(keys, SecurityHeaders))

    own = ["referrer-POLICY: no-referrer", "Server: x/1", "X-Powered-By: y", "x-powered-by: z"]
    with origin(saying(*own)) as backend:
        gone = f"http://127.0.0.1:{dead_port()}"
        yield_from = in_process(
            Chain("/default", forward(backend.url, "/default"), made()),
            Chain("/all", forward(backend.url, "/all"), made(**ALL)),
            Chain("/override", forward(backend.url, "/override"), made(override=True)),
            Chain("/edited", forward(backend.url, "/edited"), made(override=True), Edits()),
            Chain("/gone", forward(gone, "/gone"), made(**ALL)),
            trusted_proxies=["127.0.0.0/8"],
        )
        with yield_from as made_:
            yield made_


OWN = ["Server: x/1", "X-Powered-By: y", "referrer-POLICY: no-referrer", "x-powered-by: z"]


def test_what_the_backend_sends_itself_stays(served: InProcess) -> None:
    expected = sorted([*(DEFAULTS - {"Referrer-Policy: strict-origin-when-cross-origin"}), *OWN])
    for _ in range(2):
        head, body = served.get("/default")
        assert (security(head), body) == (expected, b"ok")


def test_or_goes_where_that_is_wanted(served: InProcess) -> None:
    assert security(served.get("/override")[0]) == sorted([*DEFAULTS, OWN[0], OWN[1], OWN[3]])


def test_what_another_policy_set_is_not_doubled(served: InProcess) -> None:
    lines = security(served.get("/edited")[0])
    assert [line for line in lines if "frame" in line.lower()] == ["x-frame-options: DENY"]


def test_all_that_can_be_asked_for(served: InProcess) -> None:
    expected = sorted([*(ASKED - {"Referrer-Policy: strict-origin-when-cross-origin"}), OWN[2]])
    assert security(served.get("/all")[0]) == expected


def test_hsts_over_tls_only(served: InProcess) -> None:
    line = "Strict-Transport-Security: max-age=60; includeSubDomains"
    assert line not in security(served.get("/all")[0])
    assert line in security(served.get("/all", "X-Forwarded-Proto: https")[0])
    assert line not in security(served.get("/all", "X-Forwarded-Proto: http")[0])


def test_answers_of_the_gateway_have_them_too(served: InProcess) -> None:
    head, _ = served.get("/gone")
    assert status_of(head) == 502
    assert security(head) == sorted(ASKED)


def test_on_for_all_routes_unless_it_is_turned_off() -> None:
    with origin(saying()) as backend:
        off = {**forward(backend.url, "/off"), "security_headers": {"enabled": False}}
        own = {**forward(backend.url, "/own"), "security_headers": {"frame_options": "DENY", "referrer_policy": "off"}}
        with serving({"routers": [forward(backend.url), off, own]}) as served:
            assert security(served.get("/a")[0]) == sorted(DEFAULTS)
            assert security(served.get("/off")[0]) == []
            assert security(served.get("/own")[0]) == ["X-Content-Type-Options: nosniff", "X-Frame-Options: DENY"]
            assert served.runtime.snapshot.routed[1].response_filters == ()


def test_checks() -> None:
    hsts = {"max_age": 60, "preload": True}
    spec = msgspec.convert(
        {"hsts": hsts, "remove": ["Server", "a b", "Content-Length"], "permissions_policy": "a\r\nb"}, SecurityHeaders
    )
    found = Findings()
    security_headers.check(spec, ("security_headers",), found)
    assert [problem.path for problem in found.problems] == [
        "security_headers.permissions_policy", "security_headers.remove[1]", "security_headers.remove[2]",
        "security_headers.hsts.preload",
    ]  # fmt: skip
