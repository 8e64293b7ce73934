"""Forged requests: what another site can make a browser send is refused, what it cannot is let through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kairos.config.policies import csrf
from kairos.config.policies.csrf import Csrf
from kairos.config.problems import Findings
from kairos.proxy.exchange import Exchange, Filter
from kairos.proxy.filters.csrf import CsrfFilter, Tokens
from kairos.proxy.identity import Identity
from tests.support.inprocess import Chain, InProcess, in_process, serving
from tests.support.net import echo, origin, status_of
from tests.support.ws import handshake

SECRETS = ["a secret of now, of more than 32 bytes", "a secret before, of more than 32 bytes"]
COOKIE = "Cookie: session=1"
OWN = "Origin: http://app.test"


class LoggedIn(Filter):
    """Authentication, in short: who is named in X-Who, by the method in X-Method."""

    def on_request(self, x: Exchange) -> None:
        who = x.header(b"x-who")
        if who is not None:
            method = (x.header(b"x-method") or b"oidc").decode()
            x.identity = Identity(who.decode(), method)


def chain(path: str, url: str, **spec: Any) -> Chain:
    route = {"external_path": path, "internal_path": "/", "methods": ["GET"], "backends": [{"host": url}]}
    return Chain(path, route, LoggedIn(), CsrfFilter(msgspec.convert(spec, Csrf), handshakes=False))


@pytest.fixture(scope="module")
def served() -> Iterator[InProcess]:
    trusted = {"trusted_origins": ["https://partner.test", "https://*.apps.test"]}
    with (
        origin(echo) as backend,
        in_process(
            chain("/plain", backend.url, **trusted),
            chain("/missing", backend.url, allow_missing=True),
            chain("/token", backend.url, token=True, secrets=SECRETS, form_field="csrf"),
            trusted_proxies=["127.0.0.0/8"],
        ) as made,
    ):
        yield made


def send(served: InProcess, path: str, *lines: str, method: str = "POST", body: str = "") -> tuple[int, bytes, bytes]:
    head = [f"{method} {path} HTTP/1.1", "Host: app.test", f"Content-Length: {len(body)}", *lines, "", body]
    got, content = served.request("\r\n".join(head).encode())
    return status_of(got), got, content


OWN_PAGES = [
    ["Sec-Fetch-Site: same-origin"],
    ["Sec-Fetch-Site: none"],
    ["Sec-Fetch-Site: same-origin", "Origin: https://odd.test"],
    [OWN],
    ["Origin: http://APP.test"],
    ["Origin: https://app.test"],
    ["Referer: http://app.test/form?x"],
    ["Sec-Fetch-Site: cross-site", "Origin: https://partner.test"],
    ["Sec-Fetch-Site: same-site", "Origin: https://a.apps.test"],
    ["Origin: https://partner.test"],
]
OTHERS = [
    ["Sec-Fetch-Site: cross-site", OWN],  # no page can set it, Origin it could not either
    ["Sec-Fetch-Site: cross-site"],
    ["Sec-Fetch-Site: same-site"],
    ["Sec-Fetch-Site: same-site", "Origin: http://other.app.test"],
    ["Sec-Fetch-Site: bogus"],
    ["Origin: https://evil.test"],
    ["Origin: null"],
    ["Origin: http://app.test.evil.test"],
    ["Origin: http://app.test:8080"],
    ["Origin: https://partner.test.evil.test"],
    ["Origin: ftp://app.test"],
    ["Origin: app.test"],
    ["Referer: https://evil.test/http://app.test"],
    ["Referer: http://[::1"],
    ["Origin: http://app.test", "X-Forwarded-Proto: https"],  # the user came over TLS
    [],
]


@pytest.mark.parametrize("lines", OWN_PAGES)
def test_own_pages_and_trusted_ones(served: InProcess, lines: list[str]) -> None:
    assert send(served, "/plain", COOKIE, *lines)[0] == 200


@pytest.mark.parametrize("lines", OTHERS)
@pytest.mark.parametrize("credential", [COOKIE, "Authorization: Basic YTpi", "Authorization: negotiate x"])
def test_other_sites(served: InProcess, lines: list[str], credential: str) -> None:
    status, _, body = send(served, "/plain", credential, *lines)
    assert status == 403
    assert b'"code":"csrf"' in body


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
def test_every_method_that_changes_something(served: InProcess, method: str) -> None:
    assert send(served, "/plain", COOKIE, "Sec-Fetch-Site: cross-site", method=method)[0] == 403


def test_what_changes_nothing_passes(served: InProcess) -> None:
    assert send(served, "/plain", COOKIE, "Sec-Fetch-Site: cross-site", method="GET")[0] == 200


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["Authorization: Bearer token"],
        ["Authorization: Bearer token", COOKIE],
        ["Authorization: HMAC-SHA256 x", COOKIE],
        [COOKIE, "X-Who: robot", "X-Method: api_key"],
        [COOKIE, "X-Who: robot", "X-Method: signature"],
    ],
)
def test_what_no_browser_adds_by_itself_cannot_be_forged(served: InProcess, lines: list[str]) -> None:
    assert send(served, "/plain", "Sec-Fetch-Site: cross-site", *lines)[0] == 200


def test_programs_with_cookies_where_they_are_allowed(served: InProcess) -> None:
    assert send(served, "/missing", COOKIE)[0] == 200
    assert send(served, "/missing", COOKIE, "Origin: https://evil.test")[0] == 403


# --- tokens ---------------------------------------------------------------------------------------------------------


def token_of(head: bytes) -> str:
    (line,) = [line for line in head.decode().split("\r\n") if line.startswith("Set-Cookie: ")]
    assert line.endswith("; Path=/; SameSite=Lax")
    return line.removeprefix("Set-Cookie: kairos_csrf=").partition(";")[0]


def given(served: InProcess, who: str = "ann") -> str:
    return token_of(send(served, "/token", f"X-Who: {who}", method="GET")[1])


def test_who_is_logged_in_is_given_one_and_the_backend_knows_it(served: InProcess) -> None:
    _, head, body = send(served, "/token", "X-Who: ann", method="GET")
    token = token_of(head)
    assert f"X-CSRF-Token: {token}".encode() in body
    _, head, body = send(served, "/token", "X-Who: ann", f"Cookie: kairos_csrf={token}", method="GET")
    assert b"Set-Cookie" not in head
    assert f"X-CSRF-Token: {token}".encode() in body
    assert b"Set-Cookie" not in send(served, "/token", method="GET")[1]


def test_over_tls_its_cookie_is_this_hosts_alone(served: InProcess) -> None:
    _, head, _ = send(served, "/token", "X-Who: ann", "X-Forwarded-Proto: https", method="GET")
    assert b"Set-Cookie: __Host-kairos_csrf=" in head
    assert b"; Path=/; SameSite=Lax; Secure\r\n" in head


def test_a_token_repeated_in_the_header(served: InProcess) -> None:
    token = given(served)
    lines = [OWN, "X-Who: ann", f"Cookie: a=b; kairos_csrf={token}"]
    assert send(served, "/token", *lines, f"X-CSRF-Token: {token}")[0] == 200
    assert send(served, "/token", *lines)[0] == 403
    assert send(served, "/token", *lines, "X-CSRF-Token: ")[0] == 403
    assert send(served, "/token", *lines, f"X-CSRF-Token: {token[:-1]}")[0] == 403
    evil = ["Origin: https://evil.test", *lines[1:], f"X-CSRF-Token: {token}"]
    assert send(served, "/token", *evil)[0] == 403


@pytest.mark.parametrize("made_up", ["x.y", "x", ".", "", "\xff.\xff"])
def test_a_cookie_that_was_planted_is_no_token(served: InProcess, made_up: str) -> None:
    lines = [OWN, "X-Who: ann", f"Cookie: kairos_csrf={made_up}", f"X-CSRF-Token: {made_up}"]
    assert send(served, "/token", *lines)[0] == 403


def test_a_token_of_somebody_else_is_none(served: InProcess) -> None:
    token = given(served, "mallory")
    lines = [OWN, f"Cookie: kairos_csrf={token}", f"X-CSRF-Token: {token}"]
    assert send(served, "/token", "X-Who: mallory", *lines)[0] == 200
    assert send(served, "/token", "X-Who: ann", *lines)[0] == 403
    assert token_of(send(served, "/token", "X-Who: ann", lines[1], method="GET")[1]) != token


def test_secrets_are_changed(served: InProcess) -> None:
    before = Tokens(Csrf(token=True, secrets=SECRETS[1:])).make("oidc::ann")
    lines = [OWN, "X-Who: ann", f"Cookie: kairos_csrf={before}", f"X-CSRF-Token: {before}"]
    assert send(served, "/token", *lines)[0] == 200
    other = Tokens(Csrf(token=True, secrets=["z" * 40])).make("oidc::ann")
    lines = [OWN, "X-Who: ann", f"Cookie: kairos_csrf={other}", f"X-CSRF-Token: {other}"]
    assert send(served, "/token", *lines)[0] == 403


def test_a_form_may_hold_it_and_reaches_the_backend_whole(served: InProcess) -> None:
    token = given(served)
    lines = [OWN, "X-Who: ann", f"Cookie: kairos_csrf={token}"]
    form = [*lines, "Content-Type: application/x-www-form-urlencoded; charset=utf-8"]
    status, _, body = send(served, "/token", *form, body=f"a=1&csrf={token}&b=2")
    assert (status, body.endswith(f"a=1&csrf={token}&b=2".encode())) == (200, True)
    assert send(served, "/token", *form, body="a=1")[0] == 403
    assert send(served, "/token", *form, body=f"csrf={token}&csrf={token}")[0] == 403
    assert send(served, "/token", *form, body=f"csrf={token}&a=" + "x" * 70_000)[0] == 403
    assert send(served, "/token", *form, body="&".join(["a=b"] * 1500))[0] == 403
    assert send(served, "/token", *lines, "Content-Type: text/plain", body=f"csrf={token}")[0] == 403


# --- as configured --------------------------------------------------------------------------------------------------


def test_on_a_route_and_on_its_handshakes() -> None:
    base = {"internal_path": "/", "methods": ["GET", "POST"], "backends": [{"host": "http://127.0.0.1:1"}]}
    routes = [
        {**base, "external_path": "/a"},
        {**base, "external_path": "/off", "csrf": {"enabled": False}},
        {**base, "external_path": "/ws", "methods": ["GET"], "protocol": "websocket"},
    ]
    with serving({"routers": routes, "csrf": {}}) as served:
        assert send(served, "/a", COOKIE)[0] == 403
        assert send(served, "/off", COOKIE)[0] == 502
        for line, status in [("Origin: https://evil.test", 403), ("Origin: http://test", 502)]:
            assert status_of(served.request(handshake("/ws", COOKIE, line))[0]) == status
        assert status_of(served.request(handshake("/ws", "Origin: https://evil.test"))[0]) == 502  # nothing to forge


def test_checks() -> None:
    def problems(**keys: Any) -> list[str]:
        found = Findings()
        csrf.check(msgspec.convert(keys, Csrf), ("csrf",), found)
        return [f"{problem.severity} {problem.path}" for problem in found.problems]

    assert problems() == []
    assert problems(token=True, secrets=SECRETS) == []
    assert problems(token=True) == ["error csrf.secrets"]
    assert problems(token=True, secrets=["short"]) == ["error csrf.secrets[0]"]
    assert problems(form_field="x") == ["warning csrf.form_field"]
    assert problems(trusted_origins=["*", "http://a.test"]) == [
        "error csrf.trusted_origins[0]", "warning csrf.trusted_origins[1]",
    ]  # fmt: skip
