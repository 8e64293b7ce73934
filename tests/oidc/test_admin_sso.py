"""Logging in to the admin API at a certified OpenID provider (the npm package oidc-provider): roles, refusals."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from kairos.config.admin import Admin, AdminSso
from kairos.control.access.accounts import DeniedError
from kairos.control.access.sso import name_of, roles_of
from kairos.control.api.listeners import Server
from tests.control.access_app import Served, served
from tests.oidc.browser import Page, TestBrowser
from tests.oidc.fake_idp import FakeIdp
from tests.support.net import free_port

FORM = "application/x-www-form-urlencoded"
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
        said = {"client_id": "gateway", "client_secret": SECRET, "name_claim": "sub", "after_logout": "/bye"}
        return AdminSso(self.issuer, **{**said, **words})

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
        return self.follow(self.sso(**words))

    def follow(self, sso: AdminSso | None) -> Served:
        """Another provider, from now on."""

        async def apply() -> Served:
            assert self.served is not None
            self.served.access.apply(Admin(sso=sso))
            return self.served

        made: Served = self.call(apply())
        return made

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
    with provider(port, made.base):
        made.start()
        yield made
        made.stop()


@contextmanager
def provider(port: int, base: str) -> Iterator[None]:
    sso = f"{base}/api/sso"
    addresses = [f"{sso}/callback", f"{base}/bye", f"{sso}/backchannel-logout"]
    command = ["node", str(PROVIDER / "provider.mjs"), str(port), *addresses]
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


def log_out(api: Api, browser: TestBrowser) -> str | None:
    """Where it is to go on."""
    csrf = json.loads(me(api, browser).body)["csrf"]
    page = browser.request(f"{api.base}/api/logout", "POST", {"X-CSRF-Token": csrf})
    assert page.status == 200
    location: str | None = json.loads(page.body)["location"]
    return location


def test_a_logout_goes_on_at_the_provider_and_comes_back(api: Api) -> None:
    api.use(default_roles=["viewer"])
    browser, _ = log_in(api, "lou")
    location = log_out(api, browser)
    assert location is not None
    assert location.startswith(f"{api.issuer}/session/end?client_id=gateway&")
    assert parse_qs(urlsplit(location).query)["post_logout_redirect_uri"] == [f"{api.base}/bye"]
    assert me(api, browser).status == 401
    page = browser.follow(browser.submit(browser.follow(browser.request(location)), logout="yes"), stop=api.base)
    assert page.location == f"{api.base}/bye"
    again = browser.follow(browser.request(f"{api.base}/api/sso/login"), stop=api.base)
    assert "<form" in again.body  # it asks who this is


def test_who_did_not_come_from_there_need_not_go_there(api: Api) -> None:
    s = api.use(default_roles=["viewer"])
    api.call(s.add("local-user", "viewer"))
    client = api.call(s.logged_in("local-user"))
    assert api.call(client.post("/api/logout")).json() == {"location": None}
    browser, _ = log_in(api, "mia")
    api.use(default_roles=["viewer"], logout_at_provider=False)
    assert log_out(api, browser) is None
    api.use(default_roles=["viewer"])
    browser, _ = log_in(api, "mia")
    api.follow(AdminSso("http://127.0.0.1:9", "gateway", SECRET))
    assert log_out(api, browser) is None  # another provider gets no token of this one
    api.use(default_roles=["viewer"])


def test_a_logout_at_the_provider_ends_sessions_here(api: Api) -> None:
    """Its back channel: the browser logs out there, in another window as it were."""
    s = api.use(default_roles=["viewer"], client_id="hasty", token_auth="client_secret_post")
    browser, _ = log_in(api, "zoe")
    elsewhere, _ = log_in(api, "zoe")
    ending = browser.follow(browser.request(f"{api.issuer}/session/end"))
    browser.follow(browser.submit(ending, logout="yes"))
    assert me(api, browser).status == 401
    assert me(api, elsewhere).status == 200  # that is another session there
    (entry,) = api.call(s.entries(action="session.end", outcome="done"))
    assert (entry.detail["by"], entry.detail["sessions"]) == ("sso", 1)
    browser, _ = log_in(api, "zoe", browser)
    assert me(api, browser).status == 200
    api.use(default_roles=["viewer"])


@pytest.fixture
def fake(api: Api) -> Iterator[FakeIdp]:
    """A provider that says what a test wants, of two sessions of one user here."""
    made = FakeIdp()
    api.follow(AdminSso(made.issuer, "us", "a client's secret of more than thirty-two bytes"))
    yield made
    made.close()
    api.use(default_roles=["viewer"])


def session_there(api: Api, idp: FakeIdp, subject: str, sid: str) -> Any:
    """Somebody who logged in there, as far as this is about logging out."""
    s = api.served
    assert s is not None
    id_ = api.call(s.access.accounts.sign_in_elsewhere(idp.issuer, subject, subject, {}, None, ["viewer"], create=True))
    made = api.call(s.access.logins.open_session(id_, "192.0.2.9", "", "x.y.z", sid))
    client = s.client()
    client.cookies["kairos_session"] = made.secret
    return client


def tell(api: Api, token: str, kind: str = FORM) -> int:
    assert api.served is not None
    body = urlencode({"logout_token": token})
    client = api.served.client()
    sent = client.post("/api/sso/backchannel-logout", content=body, headers={"Content-Type": kind})
    status: int = api.call(sent).status_code
    return status


def test_what_a_logout_token_ends(api: Api, fake: FakeIdp) -> None:
    one, two, other = [session_there(api, fake, *who) for who in (("una", "s1"), ("una", "s2"), ("ulf", "s3"))]

    def alive() -> list[bool]:
        return [api.call(client.get("/api/me")).status_code == 200 for client in (one, two, other)]

    for changes, kind in (
        ({"sub": "una", "aud": "others"}, FORM), ({"sub": "una", "iss": "http://evil.test"}, FORM),
        ({"sub": "una", "events": None}, FORM), ({"sub": "una", "nonce": "x"}, FORM), ({}, FORM),
        ({"sub": "una", "iat": time.time() - 900, "exp": time.time() - 600}, FORM), ({"sub": "una"}, "text/plain"),
    ):  # fmt: skip
        assert tell(api, fake.logout_token(**changes), kind) == 400
    for rubbish in ("", "x", "a.b.c", fake.id_token(), "x" * 15_000):
        assert tell(api, rubbish) == 400
    assert tell(api, "x" * 20_000) == 413
    assert alive() == [True, True, True]
    assert tell(api, fake.logout_token(sub="una", iat=time.time() - 100)) == 200
    assert alive() == [True, True, True]  # it is about sessions before these
    assert tell(api, fake.logout_token(sid="s1")) == 200
    assert alive() == [False, True, True]
    assert tell(api, fake.logout_token(sub="una")) == 200
    assert alive() == [False, False, True]


def test_without_single_sign_on_there_is_none(api: Api) -> None:
    api.follow(None)
    assert TestBrowser().request(f"{api.base}/api/sso/login").status == 404
    assert TestBrowser().request(f"{api.base}/api/login/methods").body == '{"password":true,"sso":false}'


def test_a_provider_that_is_silent_is_told_so(api: Api) -> None:
    api.follow(AdminSso("http://127.0.0.1:9", "gateway", SECRET))
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
