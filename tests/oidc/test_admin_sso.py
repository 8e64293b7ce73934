"""Logging in to the admin API at a certified OpenID provider (the npm package oidc-provider): roles, refusals."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kairos.config.admin import Admin, AdminSso
from kairos.control.access.accounts import DeniedError
from kairos.control.access.sso import name_of, roles_of
from kairos.control.api.listeners import Server
from tests.control.access_app import Served, served
from tests.oidc.browser import Page, TestBrowser
from tests.support.net import free_port

PROVIDER = Path(__file__).parents[1] / "oidc_provider"
SECRET = "a client secret with $pecial:characters+and spaces"


class Api:
    """The admin API on a port, in a loop of its own, and the provider its people log in at."""

    def __init__(self, issuer: str, port: int, url: str) -> None:
        self.issuer = issuer
        self.base = f"http://127.0.0.1:{port}"
        self._port = port
        self._url = url
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._end = asyncio.Event()
        self.served: Served | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def sso(self, **words: Any) -> AdminSso:
        return AdminSso(self.issuer, "gateway", SECRET, name_claim="sub", **words)

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(25)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(25)
        self._loop.close()

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(25)

    def use(self, **words: Any) -> Served:
        """Another configuration."""
        assert self.served is not None
        self._loop.call_soon_threadsafe(self.served.access.apply, Admin(sso=self.sso(**words)))
        return self.served

    async def _serve(self) -> None:
        async with served(self._url) as self.served:
            listener = socket.create_server(("127.0.0.1", self._port))
            listener.setblocking(False)
            server = Server(self.served.app, "remote", listener)
            server.start()
            self._ready.set()
            await self._end.wait()
            await server.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    port, own = free_port(), free_port()
    made = Api(f"http://127.0.0.1:{port}", own, f"sqlite:///{tmp_path_factory.mktemp('sso') / 'kairos.db'}")
    with provider(port, f"{made.base}/api/sso/callback"):
        made.start()
        yield made
        made.stop()


@contextmanager
def provider(port: int, callback: str) -> Iterator[None]:
    command = ["node", str(PROVIDER / "provider.mjs"), str(port), callback, f"{callback}/bye", f"{callback}/logout"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", "run npm ci in tests/oidc_provider (make test does)"
            yield
        finally:
            process.terminate()


def log_in(api: Api, user: str, browser: TestBrowser | None = None) -> tuple[TestBrowser, Page]:
    """Up to the answer of the callback."""
    browser = browser or TestBrowser()
    page = browser.follow(browser.request(f"{api.base}/api/sso/login"), stop=api.base)
    while "<form" in page.body:
        page = browser.follow(browser.submit(page, login=user, password="any"), stop=api.base)
    return browser, browser.request(page.location) if page.status in (302, 303) else page


def me(api: Api, browser: TestBrowser) -> Page:
    return browser.request(f"{api.base}/api/me", headers={})


def test_a_login_there_is_a_session_here(api: Api) -> None:
    s = api.use(roles={"staff": ["operator"]})
    first = TestBrowser().request(f"{api.base}/api/sso/login")
    asked = parse_qs(urlsplit(first.location).query)
    assert (asked["code_challenge_method"], len(asked["nonce"][0]), len(asked["state"][0])) == (["S256"], 32, 32)
    assert "HttpOnly; Max-Age=600; Path=/; SameSite=lax" in first.set_cookies[0]
    browser, page = log_in(api, "ann")
    assert (page.status, "url=/" in page.body) == (200, True)
    assert any(line.startswith("kairos_session=") and "SameSite=strict" in line for line in page.set_cookies)
    shown = me(api, browser).body
    assert '"name":"ann"' in shown
    assert "backends:operate" in shown
    user = api.call(s.access.accounts.user("ann"))
    assert (user.roles, user.sso, user.email) == (["operator"], True, "ann@example.test")
    (entry,) = api.call(s.entries(actor="ann"))
    assert (entry.action, entry.outcome, entry.detail["by"]) == ("login", "done", "sso")


def test_roles_follow_the_provider_with_each_login(api: Api) -> None:
    s = api.use(roles={"staff": ["viewer"]})
    log_in(api, "rob")
    api.use(roles={"staff": ["editor"], "other": ["admin"]})
    log_in(api, "rob")
    assert api.call(s.access.accounts.user("rob")).roles == ["editor"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"roles": {"admins": ["admin"]}}, "none of the groups"),
        ({"default_roles": ["viewer"], "allowed_domains": ["corp.test"]}, "allowed_domains"),
        ({"default_roles": ["viewer"], "create_users": False}, "no user of this gateway"),
        ({"default_roles": ["nonsense"]}, "there is no role"),
    ],
    ids=["groups", "domain", "unknown", "role"],
)
def test_who_is_not_let_in(api: Api, words: dict[str, Any], reason: str) -> None:
    s = api.use(**words)
    browser, page = log_in(api, "eve")
    assert page.status == 403
    assert reason in page.body
    assert me(api, browser).status == 401
    entry = api.call(s.entries(action="login", outcome="refused"))[-1]
    assert reason in entry.detail["reason"]


def test_a_name_that_a_user_with_a_password_has_is_nobody_elses(api: Api) -> None:
    s = api.use(default_roles=["viewer"])
    api.call(s.add("root", "admin"))
    _, page = log_in(api, "root")
    assert (page.status, "does not log in by single sign-on" in page.body) == (403, True)


def test_who_was_disabled_stays_out(api: Api) -> None:
    s = api.use(default_roles=["viewer"])
    log_in(api, "dan")
    local = s.client("local")
    assert api.call(local.patch("/api/users/dan", json={"disabled": True})).status_code == 200
    assert log_in(api, "dan")[1].status == 403


def test_a_callback_that_nobody_began_or_that_is_played_again(api: Api) -> None:
    api.use(default_roles=["viewer"])
    browser = TestBrowser()
    page = browser.follow(browser.request(f"{api.base}/api/sso/login"), stop=api.base)
    while "<form" in page.body:
        page = browser.follow(browser.submit(page, login="kim", password="any"), stop=api.base)
    callback, kept = page.location, dict(browser.jars[urlsplit(api.base).netloc])
    assert TestBrowser().request(callback).status == 403  # another browser
    assert browser.request(callback).status == 200
    browser.jars[urlsplit(api.base).netloc] = kept
    assert browser.request(callback).status == 403  # once more
    for query in ("", "?state=x&code=y", "?error=access_denied&state=x", "?iss=http://evil.test&code=x"):
        assert browser.request(f"{api.base}/api/sso/callback{query}").status == 403


def test_without_single_sign_on_there_is_none(api: Api) -> None:
    assert api.served is not None
    api.served.access.sso.apply(None)
    assert TestBrowser().request(f"{api.base}/api/sso/login").status == 404
    assert TestBrowser().request(f"{api.base}/api/login/methods").body == '{"password":true,"sso":false}'


def test_a_provider_that_is_silent_is_told_so(api: Api) -> None:
    assert api.served is not None
    api.served.access.sso.apply(AdminSso("http://127.0.0.1:9", "gateway", SECRET))
    assert TestBrowser().request(f"{api.base}/api/sso/login").status == 503


@pytest.mark.parametrize(
    ("claims", "name"),
    [({"preferred_username": "Ann", "sub": "1"}, "ann"),
     ({"preferred_username": "a b", "email": "A@x.test"}, "a@x.test"),
     ({"sub": "abc"}, "abc"), ({"preferred_username": ["x"], "sub": "s1"}, "s1")],
    ids=["name", "mail", "subject", "list"],
)  # fmt: skip
def test_names(claims: dict[str, Any], name: str) -> None:
    assert name_of(AdminSso("x", "y"), claims) == name


def test_no_name() -> None:
    with pytest.raises(DeniedError):
        name_of(AdminSso("x", "y"), {"sub": "|||"})


@pytest.mark.parametrize(
    ("groups", "roles"),
    [("a", ["viewer"]), (["a", "b", 7], ["editor", "operator", "viewer"]), ([], ["viewer"]), (None, ["viewer"])],
    ids=["text", "list", "none", "missing"],
)
def test_groups(groups: Any, roles: list[str]) -> None:
    spec = AdminSso("x", "y", roles={"a": ["viewer"], "b": ["editor", "operator"]}, default_roles=["viewer"])
    assert roles_of(spec, {"groups": groups}) == roles
