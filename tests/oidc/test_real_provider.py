"""Logins at a certified OpenID provider (the npm package oidc-provider), through a real gateway with two workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.oidc.browser import Page, TestBrowser
from tests.support.gateway import Gateway, gateway
from tests.support.net import Peer, free_port, origin, read_request

PROVIDER = Path(__file__).parents[1] / "oidc_provider"
SECRET = "a client secret with $pecial:characters+and spaces"
COOKIE_SECRET = "a cookie secret of more than thirty-two bytes"


def telling(peer: Peer) -> None:
    """A backend that answers what it was told, as JSON, with a cookie of its own."""
    while True:
        head, _ = read_request(peer)
        lines = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:-2]]
        body = json.dumps({"target": head.decode().split(" ")[1], **{name.lower(): value for name, value in lines}})
        peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: app=1\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body.encode())
        )


def configuration(issuer: str, backend: str) -> dict[str, Any]:
    base = {"internal_path": "/{rest}", "methods": ["GET", "POST"], "backends": [{"host": backend}]}
    headers = {"sub": "X-User", "email": "X-Email", "groups": "X-Groups"}
    provider = {
        "issuer": issuer, "client_id": "gateway", "client_secret": SECRET,
        "scopes": ["openid", "profile", "email", "offline_access"], "authorize_params": {"prompt": "consent"},
        "session": {"secrets": [COOKIE_SECRET]}, "after_logout": "/public/bye",
    }  # fmt: skip
    renewing = {
        **provider, "client_id": "hasty", "token_auth": "client_secret_post", "callback_path": "/again/callback",
        "forward_access_token": True, "userinfo": True,
    }  # fmt: skip
    return {
        "oidc": {"corp": provider, "again": renewing},
        "routers": [
            {
                **base, "external_path": "/app/{rest:path}",
                "auth": {"methods": ["oidc"], "oidc": "corp", "claims_to_headers": headers},
            },
            {
                **base, "external_path": "/renewed/{rest:path}",
                "auth": {"methods": ["oidc"], "oidc": "again", "claims_to_headers": headers},
            },
            {**base, "external_path": "/public/{rest:path}"},
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
def served() -> Iterator[Gateway]:
    port = free_port()
    with origin(telling) as backend, gateway(configuration(f"http://127.0.0.1:{port}", backend.url), workers=2) as g:
        base = f"http://127.0.0.1:{g.port}"
        callbacks = f"{base}/oauth2/corp/callback {base}/again/callback"
        arguments = [str(port), callbacks, f"{base}/public/bye", f"{base}/oauth2/again/backchannel-logout"]
        command = ["node", str(PROVIDER / "provider.mjs"), *arguments]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as provider:
            try:
                assert provider.stdout is not None
                assert provider.stdout.readline() == "ready\n", "run npm ci in tests/oidc_provider (make test does)"
                yield g
            finally:
                provider.terminate()


def url(g: Gateway, path: str) -> str:
    return f"http://127.0.0.1:{g.port}{path}"


def log_in(browser: TestBrowser, g: Gateway, path: str, user: str = "ann") -> Page:
    """From a page that wants a login to the redirect that leads back to it."""
    page = browser.follow(browser.request(url(g, path)))
    while "<form" in page.body:
        page = browser.submit(page, login=user, password="any")
        page = browser.follow(page, stop=f"http://127.0.0.1:{g.port}/")
        if page.status in (302, 303):
            page = browser.request(page.location)
    return page


def told(page: Page) -> dict[str, str]:
    assert page.status == 200, page
    found: dict[str, str] = json.loads(page.body)
    return found


def test_a_login_from_the_first_page_to_the_last(served: Gateway) -> None:
    browser = TestBrowser()
    first = browser.request(url(served, "/app/orders?id=7&x=%2F"))
    assert first.status == 302
    assert first.header("cache-control") == "no-store"
    asked = parse_qs(urlsplit(first.location).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["redirect_uri"] == [url(served, "/oauth2/corp/callback")]

    back = log_in(browser, served, "/app/orders?id=7&x=%2F")
    assert (back.status, back.location) == (303, url(served, "/app/orders?id=7&x=%2F"))
    jar = browser.jars[f"127.0.0.1:{served.port}"]
    assert "kairos_corp" in jar
    assert all("HttpOnly; SameSite=Lax" in line for line in back.set_cookies)

    for _ in range(4):  # whichever worker answers
        page = browser.request(back.location)
        backend = told(page)
        assert (backend["x-user"], backend["x-email"], backend["x-groups"]) == ("ann", "ann@example.test", "staff")
        assert backend["target"] == "/orders?id=7&x=%2F"
        assert "kairos" not in backend.get("cookie", "")
        assert "app=1" in page.header("set-cookie")  # type: ignore[operator]


def test_a_script_is_told_instead_of_sent_away(served: Gateway) -> None:
    page = TestBrowser().request(url(served, "/app/x"), headers={"Accept": "application/json"})
    assert (page.status, json.loads(page.body)["code"]) == (401, "unauthorized")
    assert page.header("www-authenticate") == 'Session realm="kairos"'
    assert page.set_cookies == []


def test_logging_out_here_and_there(served: Gateway) -> None:
    browser = TestBrowser()
    log_in(browser, served, "/app/x", "bob")
    assert told(browser.request(url(served, "/app/x")))["x-user"] == "bob"
    page = browser.request(url(served, "/oauth2/corp/logout"))
    query = parse_qs(urlsplit(page.location).query)
    assert query["post_logout_redirect_uri"] == [url(served, "/public/bye")]
    assert len(query["id_token_hint"][0].split(".")) == 3
    confirmed = browser.follow(browser.submit(browser.follow(page), logout="yes"))
    assert told(confirmed)["target"].startswith("/bye")
    assert browser.request(url(served, "/app/x")).status == 302


def test_a_logout_at_the_provider_ends_the_session_of_every_client_of_it(served: Gateway) -> None:
    """The browser logs out of one; the provider tells the other, and every worker knows."""
    browser = TestBrowser()
    log_in(browser, served, "/app/x", "joe")
    log_in(browser, served, "/renewed/x", "joe")
    kept = dict(browser.jars[f"127.0.0.1:{served.port}"])
    page = browser.follow(browser.request(url(served, "/oauth2/corp/logout")))
    browser.follow(browser.submit(page, logout="yes"))
    assert 'kairos_oidc_logouts_total{by="provider"} 1.0' in served.metrics()
    for path in ["/app/x", "/renewed/x"] * 4:
        thief = TestBrowser({f"127.0.0.1:{served.port}": dict(kept)})
        assert thief.request(url(served, path)).status == 302
    log_in(browser, served, "/renewed/x", "joe")
    assert told(browser.request(url(served, "/renewed/x")))["x-user"] == "joe"


def test_another_site_logs_nobody_out(served: Gateway) -> None:
    browser = TestBrowser()
    log_in(browser, served, "/app/x")
    page = browser.request(
        url(served, "/oauth2/corp/logout"), headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    )
    assert page.status == 403
    assert told(browser.request(url(served, "/app/x")))["x-user"] == "ann"


def has_other_token(browser: TestBrowser, address: str, token: str) -> bool:
    return told(browser.request(address))["authorization"] != token


def test_a_session_is_renewed_with_rotating_refresh_tokens(served: Gateway) -> None:
    """The provider takes a refresh token that comes twice for stolen, and ends the session: so none may."""
    browser = TestBrowser()
    log_in(browser, served, "/renewed/x", "eve")
    jar = browser.jars[f"127.0.0.1:{served.port}"]
    for _ in range(2):
        before = jar["kairos_again"]
        first = told(browser.request(url(served, "/renewed/x")))
        assert (first["x-user"], first["authorization"][:7]) == ("eve", "Bearer ")
        served.wait(partial(has_other_token, browser, url(served, "/renewed/x"), first["authorization"]), "renewal")
        assert jar["kairos_again"] != before
        for _ in range(4):  # requests that were under way with the old cookie, to either worker
            late = TestBrowser({f"127.0.0.1:{served.port}": {"kairos_again": before}})
            assert told(late.request(url(served, "/renewed/x")))["x-user"] == "eve"


def test_the_user_refuses(served: Gateway) -> None:
    browser = TestBrowser()
    page = browser.follow(browser.request(url(served, "/app/x")))
    abort = page.url + "/abort"
    back = browser.follow(browser.request(abort))
    assert (back.status, json.loads(back.body)["code"]) == (403, "login_denied")
    assert "access_denied" in json.loads(back.body)["detail"]


def test_sessions_outlive_the_control_process_and_logins_come_back_with_it(served: Gateway) -> None:
    browser = TestBrowser()
    log_in(browser, served, "/app/x")
    control = served.child("kairos-control")
    os.kill(control, signal.SIGKILL)
    assert told(browser.request(url(served, "/app/x")))["x-user"] == "ann"
    served.wait(lambda: served.child("kairos-control") not in (0, control), "new control process")
    other = TestBrowser()
    served.wait(lambda: log_in(other, served, "/app/x", "zoe").status == 303, "login")
    assert told(other.request(url(served, "/app/x")))["x-user"] == "zoe"


def test_secrets_and_tokens_are_in_no_log(served: Gateway) -> None:
    lines = (served.folder / "access.log").read_text()
    assert "code=***" in lines
    for secret in (SECRET, COOKIE_SECRET, "kairos_corp", "Bearer"):
        assert secret not in served.log + lines
