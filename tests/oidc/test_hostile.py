"""Logins that must not succeed: wrong answers of the provider, of another one, of an attacker's browser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from kairos.proxy.oidc.sealing import Sealer
from kairos.proxy.oidc.session import Session, Tokens, encode
from tests.oidc.browser import Page, TestBrowser
from tests.oidc.fake_idp import CLIENT_SECRET, FakeIdp, at_hash, control
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import echo, origin

SECRETS = ["the secret of now, of more than 32 bytes", "the secret before, of more than 32 bytes"]


class Stage:
    """A gateway between a user's browser, a backend and two providers."""

    def __init__(self, idp: FakeIdp, other: FakeIdp, served: InProcess, backend: str) -> None:
        self.backend = backend
        self.idp = idp
        self.other = other
        self.served = served
        self.browser = TestBrowser()
        self.nonces: dict[str, str] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.served.port}{path}"

    @property
    def jar(self) -> dict[str, str]:
        return self.browser.jars.setdefault(f"127.0.0.1:{self.served.port}", {})

    def begin(self, path: str = "/a/x") -> str:
        """The browser is sent away; the state of its login."""
        page = self.browser.request(self.url(path))
        assert page.status == 302, page
        query = parse_qs(urlsplit(page.location).query)
        self.nonces[query["state"][0]] = query["nonce"][0]
        return query["state"][0]

    def back(self, state: str, provider: str = "corp", **more: str) -> Page:
        """The browser comes back, and the providers know the nonce."""
        self.idp.nonce = self.other.nonce = self.nonces.get(state, "")
        query = urlencode({"code": "c", "state": state, **more})
        return self.browser.request(self.url(f"/oauth2/{provider}/callback?{query}"))

    def seal(self, session: Session, secret: str = SECRETS[0], label: str = "corp", purpose: str = "oidc") -> None:
        self.jar["kairos_corp"] = "1." + Sealer([secret], purpose).seal(encode(session), label)


def config(idp: FakeIdp, other: FakeIdp, backend: str) -> dict[str, Any]:
    provider = {
        "issuer": idp.issuer, "client_id": "us", "client_secret": CLIENT_SECRET,
        "session": {"secrets": SECRETS, "idle": 600, "lifetime": 3600},
    }  # fmt: skip
    base = {"internal_path": "/", "methods": ["GET", "POST"], "backends": [{"host": backend}]}
    auth = {"methods": ["oidc"], "oidc": "corp", "claims_to_headers": {"sub": "X-User"}}
    return {
        "oidc": {"corp": provider, "other": {**provider, "issuer": other.issuer}},
        "routers": [
            {**base, "external_path": "/a/{rest:path}", "auth": auth},
            {**base, "external_path": "/free", "auth": {**auth, "optional": True}},
            {**base, "external_path": "/open"},
            {**base, "external_path": "/b", "auth": {**auth, "oidc": "other"}},
        ],
    }


@pytest.fixture
def stage() -> Iterator[Stage]:
    idp, other = FakeIdp(), FakeIdp()
    try:
        with origin(echo) as backend:
            document = config(idp, other, backend.url)
            with control(checked(document)) as path, serving(document, path) as served:
                yield Stage(idp, other, served, backend.url)
    finally:
        idp.close()
        other.close()


def refused(page: Page, kind: str, said: str) -> None:
    problem = json.loads(page.body)
    assert (page.status, problem["code"]) == (
        {"login_failed": 400, "login_denied": 403, "auth_unavailable": 503}[kind],
        kind,
    )
    assert said in problem["detail"]
    assert not any(line.startswith("kairos_corp=") for line in page.set_cookies)


def test_the_good_case(stage: Stage) -> None:
    page = stage.back(stage.begin("/a/x?q=1"), iss=stage.idp.issuer)
    assert (page.status, page.location) == (303, stage.url("/a/x?q=1"))
    assert "X-User: ann" in stage.browser.request(page.location).body
    assert not any("_login_" in name for name in stage.jar)


PAST = time.time() - 1000
LATER = time.time() + 1000
BAD_TOKENS: list[tuple[str, dict[str, Any]]] = [
    ("wrong nonce", {"nonce": "another"}),
    ("no nonce", {"nonce": None}),
    ("wrong issuer", {"iss": "https://evil.test"}),
    ("no issuer", {"iss": None}),
    ("another client's", {"aud": "them"}),
    ("nobody's", {"aud": None}),
    ("several audiences without azp", {"aud": ["us", "them"]}),
    ("asked for by others", {"aud": ["us", "them"], "azp": "them"}),
    ("azp of others", {"azp": "them"}),
    ("expired", {"exp": PAST}),
    ("no exp", {"exp": None}),
    ("no iat", {"iat": None}),
    ("of the future", {"iat": LATER}),
    ("not yet", {"nbf": LATER}),
    ("no subject", {"sub": None}),
    ("empty subject", {"sub": ""}),
    ("of another access token", {"at_hash": at_hash("another")}),
]


@pytest.mark.parametrize(("name", "changes"), BAD_TOKENS, ids=[name for name, _ in BAD_TOKENS])
def test_id_tokens_that_are_not_believed(stage: Stage, name: str, changes: dict[str, Any]) -> None:
    state = stage.begin()
    stage.idp.changes = changes
    refused(stage.back(state), "login_failed", "not valid")
    assert stage.browser.request(stage.url("/a/x")).status == 302, name


def test_signatures_of_others_and_of_no_kind(stage: Stage) -> None:
    public = stage.idp.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    forged: list[dict[str, Any]] = [
        {"key": stage.other.key},
        {"secret": public},  # the public key as a secret
        {"key": CLIENT_SECRET, "algorithm": "HS256"},  # a secret we share, but did not agree to
        {"key": None, "algorithm": "none"},
        {"key": stage.idp.key, "algorithm": "RS512"},
        {"headers": {"kid": "unknown"}},
        {"headers": {"kid": "one", "typ": "logout+jwt"}},
        {"headers": {"kid": "one", "crit": ["x"], "x": 1}},
    ]
    for signing in forged:
        state = stage.begin()
        stage.idp.signing = signing
        refused(stage.back(state), "login_failed", "not valid")
    stage.idp.signing = {}
    assert stage.back(stage.begin()).status == 303


def test_a_new_key_is_asked_for(stage: Stage) -> None:
    assert stage.back(stage.begin()).status == 303
    before = stage.idp.times_asked("/jwks")
    stage.idp.key, stage.idp.kid = stage.other.key, "two"
    stage.jar.clear()
    refused(stage.back(stage.begin()), "login_failed", "not valid")  # asked a moment ago: not again so soon
    assert stage.idp.times_asked("/jwks") == before


def test_states(stage: Stage) -> None:
    state = stage.begin()
    refused(stage.back("another" + state), "login_failed", "no such login")
    refused(stage.back(state + "x"), "login_failed", "no such login")
    state = stage.begin()
    kept = dict(stage.jar)
    stage.jar.clear()  # another browser
    refused(stage.back(state), "login_failed", "no such login")
    stage.jar.update(kept)
    assert stage.back(state).status == 303
    stage.jar.update(kept)  # the callback once more, with everything it had
    refused(stage.back(state), "login_failed", "completed already")
    assert stage.idp.times_asked("/token") == 1


def test_a_login_under_way_is_no_session_and_of_no_other_provider(stage: Stage) -> None:
    state = stage.begin()
    (value,) = stage.jar.values()
    stage.jar["kairos_corp"] = f"1.{value}"
    assert stage.browser.request(stage.url("/a/x")).status == 302
    refused(stage.back(state, "other"), "login_failed", "no such login")
    stage.jar[f"kairos_other_login_{state[:8]}"] = value
    refused(stage.back(state, "other"), "login_failed", "no such login")


def test_an_answer_of_another_provider(stage: Stage) -> None:
    refused(stage.back(stage.begin(), iss=stage.other.issuer), "login_failed", "another identity provider")
    assert stage.idp.times_asked("/token") == 0


def test_a_provider_that_names_itself_has_to(stage: Stage) -> None:
    stage.idp.metadata = {"authorization_response_iss_parameter_supported": True}
    refused(stage.back(stage.begin()), "login_failed", "another identity provider")


def test_users_of_two_providers_are_kept_apart(stage: Stage) -> None:
    assert stage.back(stage.begin()).status == 303
    session = stage.jar["kairos_corp"]
    stage.jar["kairos_other"] = session
    assert stage.browser.request(stage.url("/b")).status == 302
    state = stage.begin("/b")
    assert stage.back(state, "other").status == 303
    assert {"kairos_corp", "kairos_other"} <= set(stage.jar)


# --- sessions -------------------------------------------------------------------------------------------------------


def session(began: float, used: float) -> Session:
    return Session("ann", {"sub": "ann"}, began, used, Tokens(None, None, None, began, None))


def test_cookies_that_are_no_session(stage: Stage) -> None:
    now = time.time()
    good = session(now, now)
    ask = partial(stage.browser.request, stage.url("/a/x"))
    stage.seal(good)
    assert ask().status == 200
    stage.seal(good, SECRETS[1])  # of the secret before
    assert ask().status == 200
    stage.seal(good, "a secret nobody has, of more than 32 bytes")
    assert ask().status == 302
    stage.seal(good, label="other")
    assert ask().status == 302
    stage.seal(good, purpose="csrf")
    assert ask().status == 302
    stage.seal(good)
    kept = stage.jar["kairos_corp"]
    for at in (3, len(kept) // 2, len(kept) - 3):
        stage.jar["kairos_corp"] = kept[:at] + ("A" if kept[at] != "A" else "B") + kept[at + 1 :]
        assert ask().status == 302
    for text in ("", "1.", "2." + kept[2:], kept[2:], "1.~", "9" * 4000):
        stage.jar["kairos_corp"] = text
        assert ask().status == 302


def test_sessions_that_are_over(stage: Stage) -> None:
    now = time.time()
    for began, used, status in [
        (now - 3500, now - 100, 200), (now - 3700, now - 1, 302), (now - 1000, now - 700, 302), (now, now + 9000, 302),
    ]:  # fmt: skip
        stage.seal(session(began, used))
        assert stage.browser.request(stage.url("/a/x")).status == status


def test_a_session_in_use_is_written_down_now_and_then(stage: Stage) -> None:
    now = time.time()
    stage.seal(session(now - 100, now - 50))
    assert stage.browser.request(stage.url("/a/x")).set_cookies == []
    stage.seal(session(now - 100, now - 90))
    before = stage.jar["kairos_corp"]
    (line,) = stage.browser.request(stage.url("/a/x")).set_cookies
    assert "; Max-Age=600; " in line or "; Max-Age=599; " in line
    assert stage.jar["kairos_corp"] != before
    assert stage.browser.request(stage.url("/a/x")).set_cookies == []


def test_who_may_be_nobody_is_not_sent_away(stage: Stage) -> None:
    page = stage.browser.request(stage.url("/free"))
    assert (page.status, "X-User" in page.body) == (200, False)
    now = time.time()
    stage.seal(session(now, now))
    assert "X-User: ann" in stage.browser.request(stage.url("/free")).body


def test_what_a_client_claims_of_itself_reaches_nobody(stage: Stage) -> None:
    now = time.time()
    stage.seal(session(now, now))
    stage.jar["theme"] = "dark"
    page = stage.browser.request(stage.url("/a/x"), headers={"X-User": "root"})
    assert "X-User: ann" in page.body
    assert "root" not in page.body
    assert "Cookie: theme=dark\r\n" in page.body.replace("\n", "\r\n").replace("\r\r", "\r")


# --- renewal --------------------------------------------------------------------------------------------------------


def renewable(ends: float) -> Session:
    now = time.time()
    return Session("ann", {"sub": "ann"}, now - 100, now - 1, Tokens("r1", None, None, now - 100, ends))


def test_renewal_and_what_ends_a_session(stage: Stage) -> None:
    ask = partial(stage.browser.request, stage.url("/a/x"))
    now = time.time()
    stage.idp.changes = {"nonce": None}
    stage.seal(renewable(now - 1))
    assert ask().status == 200
    assert stage.idp.asked[-1][1] == {"grant_type": "refresh_token", "refresh_token": "r1"}

    stage.idp.answers["/token"] = (400, {"error": "invalid_grant"})
    stage.seal(with_token(renewable(now - 1), "r2"))
    page = ask()
    assert page.status == 302
    assert "kairos_corp" not in stage.jar


def test_a_provider_that_is_silent_ends_no_session_before_its_token_does(stage: Stage) -> None:
    ask = partial(stage.browser.request, stage.url("/a/x"))
    now = time.time()
    stage.idp.answers["/token"] = (500, b"down")
    stage.seal(with_token(renewable(now + 30), "r3"))
    assert ask().status == 200
    stage.seal(with_token(renewable(now - 30), "r4"))
    refused(ask(), "auth_unavailable", "cannot be asked")


def test_a_renewal_makes_nobody_another(stage: Stage) -> None:
    stage.idp.changes = {"nonce": None, "sub": "mallory"}
    stage.seal(with_token(renewable(time.time() - 1), "r5"))
    refused(stage.browser.request(stage.url("/a/x")), "login_failed", "somebody else")


def with_token(session_: Session, refresh: str) -> Session:
    tokens = Tokens(refresh, None, None, session_.tokens.since, session_.tokens.ends)
    return Session(session_.subject, session_.claims, session_.began, session_.used, tokens)


# --- the provider's troubles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "answer", "kind"),
    [
        ("/token", (400, {"error": "invalid_grant"}), "login_failed"),
        ("/token", (401, {"error": "invalid_client"}), "login_failed"),
        ("/token", (200, {"access_token": "at", "token_type": "Bearer"}), "login_failed"),
        ("/token", (200, {"access_token": "at", "token_type": "mac", "id_token": "x"}), "auth_unavailable"),
        ("/token", (200, b"<html>"), "auth_unavailable"),
        ("/token", (503, {}), "auth_unavailable"),
        ("/token", (200, {"access_token": 5, "token_type": "bearer"}), "auth_unavailable"),
    ],
)
def test_token_endpoints_that_give_nothing(stage: Stage, path: str, answer: tuple[int, Any], kind: str) -> None:
    state = stage.begin()
    stage.idp.answers[path] = answer
    refused(stage.back(state), kind, "dentity provider")


@pytest.mark.parametrize(
    "metadata", [{"issuer": "https://evil.test"}, {"jwks_uri": "ftp://x"}, {"token_endpoint": None}]
)
def test_documents_that_are_not_believed_stop_logins_and_nothing_else(stage: Stage, metadata: dict[str, Any]) -> None:
    stage.idp.metadata = metadata
    refused(stage.browser.request(stage.url("/a/x")), "auth_unavailable", "cannot be asked")
    now = time.time()
    stage.seal(session(now, now))
    assert stage.browser.request(stage.url("/a/x")).status == 200


def test_head_uses_up_no_code_and_a_post_is_not_repeated(stage: Stage) -> None:
    state = stage.begin()
    page = stage.browser.request(stage.url(f"/oauth2/corp/callback?code=c&state={state}"), "HEAD")
    assert page.status == 405
    assert stage.back(state).status == 303
    stage.jar.clear()
    assert stage.browser.request(stage.url("/a/x"), "POST", form={"a": "b"}).status == 401


def test_many_tabs(stage: Stage) -> None:
    states = [stage.begin() for _ in range(4)]
    assert stage.back(states[1]).status == 303
    del stage.jar["kairos_corp"]
    for _ in range(3):
        stage.begin()
        assert len([name for name in stage.jar if "_login_" in name]) <= 4


def test_a_target_that_would_lead_elsewhere(stage: Stage) -> None:
    state = stage.begin("/a/x?next=//evil.test")
    assert stage.back(state).location == stage.url("/a/x?next=//evil.test")


def test_the_callback_has_what_routes_have_before_they_ask_who_one_is(stage: Stage) -> None:
    page = stage.back("none")
    assert page.header("x-content-type-options") == "nosniff"
    document = config(stage.idp, stage.other, "http://127.0.0.1:1")
    stage.served.configure({**document, "access": {"deny": ["127.0.0.0/8"]}})
    assert stage.back("none").status == 403
    limit = {"strategy": "PerIP", "requests_per_window": 1, "window_duration": 3600, "window_type": "FixedWindow"}
    stage.served.configure({**document, "rate_limit": limit})
    assert [stage.back("none").status for _ in range(3)] == [400, 429, 429]


def test_a_reload_ends_no_session(stage: Stage) -> None:
    assert stage.back(stage.begin()).status == 303
    document = config(stage.idp, stage.other, "http://127.0.0.1:1")
    document["oidc"]["corp"]["session"]["secrets"] = ["a new secret in front, of more than 32 bytes", *SECRETS]
    stage.served.configure(document)
    assert stage.browser.request(stage.url("/a/x")).status == 502  # through to the backend that is not there


# --- over TLS, with much to say, and on the way out -----------------------------------------------------------------


def test_over_tls_cookies_are_secure_and_this_hosts_alone(stage: Stage) -> None:
    document = config(stage.idp, stage.other, "http://127.0.0.1:1")
    document["oidc"]["corp"]["session"]["secure"] = "always"
    stage.served.configure(document)
    page = stage.browser.request(stage.url("/a/x"))
    (line,) = page.set_cookies
    assert line.startswith("__Host-kairos_corp_login_")
    assert line.endswith("; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure")
    query = parse_qs(urlsplit(page.location).query)
    assert query["redirect_uri"] == [stage.url("/oauth2/corp/callback").replace("http:", "https:")]
    stage.nonces[query["state"][0]] = query["nonce"][0]
    assert stage.back(query["state"][0]).status == 303
    assert "__Host-kairos_corp" in stage.jar
    assert stage.browser.request(stage.url("/a/x")).status == 502
    stage.jar["kairos_corp"] = stage.jar.pop("__Host-kairos_corp")  # as a plain connection could plant it
    assert stage.browser.request(stage.url("/a/x")).status == 302


def test_a_long_session_is_cut_and_one_too_long_is_none(stage: Stage) -> None:
    stage.idp.changes = {"groups": [f"group-{number}" for number in range(400)]}
    assert stage.back(stage.begin()).status == 303
    assert {"kairos_corp", "kairos_corp_1"} <= set(stage.jar)
    assert stage.browser.request(stage.url("/a/x")).status == 200
    del stage.jar["kairos_corp_1"]
    assert stage.browser.request(stage.url("/a/x")).status == 302
    stage.idp.changes = {"groups": [f"group-{number}" for number in range(2000)]}
    refused(stage.back(stage.begin()), "login_failed", "too much")


def test_logging_out_ends_the_refresh_token_too(stage: Stage) -> None:
    stage.seal(with_token(renewable(time.time() + 3600), "r9"))
    page = stage.browser.request(stage.url("/oauth2/corp/logout"))
    assert page.status == 303
    assert page.location.startswith(f"{stage.idp.issuer}/end_session?client_id=us&post_logout_redirect_uri=")
    assert "kairos_corp" not in stage.jar
    stage.served.wait(lambda: stage.idp.times_asked("/revocation") == 1, "revocation")
    assert stage.idp.asked[-1][1]["token"] == "r9"


def test_logging_out_by_script_without_a_session_and_without_the_provider(stage: Stage) -> None:
    script = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    now = time.time()
    stage.seal(session(now, now))
    assert stage.browser.request(stage.url("/oauth2/corp/logout"), "POST", script, {}).status == 204
    assert "kairos_corp" not in stage.jar
    page = stage.browser.request(stage.url("/oauth2/corp/logout"))
    assert (page.status, page.location) == (303, stage.url("/"))
    stage.idp.metadata = {"end_session_endpoint": None}
    stage.seal(session(now, now))
    page = stage.browser.request(stage.url("/oauth2/corp/logout"))
    assert (page.status, page.location) == (303, stage.url("/"))


def test_a_host_that_a_client_makes_up_stays_its_own(stage: Stage) -> None:
    """The provider knows which callbacks are ours; and nothing but the path is gone back to."""
    page = stage.browser.request(stage.url("/a/x"), headers={"Accept": "text/html", "Host": "evil.test"})
    assert parse_qs(urlsplit(page.location).query)["redirect_uri"] == ["http://evil.test/oauth2/corp/callback"]
    document = config(stage.idp, stage.other, "http://127.0.0.1:1")
    document["oidc"]["corp"]["redirect_url"] = "https://us.test/oauth2/corp/callback"
    stage.served.configure(document)
    page = stage.browser.request(stage.url("/a/x"), headers={"Accept": "text/html", "Host": "evil.test"})
    assert parse_qs(urlsplit(page.location).query)["redirect_uri"] == ["https://us.test/oauth2/corp/callback"]


def test_tokens_of_programs_beside_sessions_of_browsers(stage: Stage) -> None:
    document = config(stage.idp, stage.other, "http://127.0.0.1:1")
    document["jwt"] = {"secret": SECRETS[0], "algorithm": "HS256"}
    document["routers"][0]["auth"]["methods"] = ["jwt", "oidc"]
    stage.served.configure(document)
    token = jwt.encode({"sub": "robot", "exp": time.time() + 60}, SECRETS[0], "HS256")
    ask = partial(stage.browser.request, stage.url("/a/x"))
    assert ask(headers={"Authorization": f"Bearer {token}"}).status == 502
    assert ask(headers={"Authorization": "Bearer bad", "Accept": "text/html"}).status == 401
    assert ask().status == 302
    challenges = [value for name, value in ask(headers={}).headers if name.lower() == "www-authenticate"]
    assert challenges == ['Bearer realm="kairos"', 'Session realm="kairos"']
    now = time.time()
    stage.seal(session(now, now))
    assert ask().status == 502


@pytest.mark.parametrize("source", ["header", "cookie"])
@pytest.mark.parametrize("methods", [["jwt", "oidc"], ["oidc", "jwt"]])
def test_a_session_reaches_no_backend_whoever_decides(stage: Stage, methods: list[str], source: str) -> None:
    document = config(stage.idp, stage.other, stage.backend)
    sources = [{"in": "header"}, {"in": "cookie", "name": "token"}]
    document["jwt"] = {"secret": SECRETS[0], "algorithm": "HS256", "sources": sources}
    document["routers"][0]["auth"]["methods"] = methods
    stage.served.configure(document)
    now = time.time()
    stage.seal(session(now, now))
    stage.jar["theme"] = "dark"
    token = jwt.encode({"sub": "robot", "exp": now + 60}, SECRETS[0], "HS256")
    headers = {"Accept": "text/html"}
    if source == "cookie":
        stage.jar["token"] = token
    else:
        headers["Authorization"] = f"Bearer {token}"
    for _ in range(2):
        page = stage.browser.request(stage.url("/a/x"), headers=headers)
        assert page.status == 200
        assert f"X-User: {'robot' if methods[0] == 'jwt' else 'ann'}" in page.body
        assert "theme=dark" in page.body
        assert "kairos_corp" not in page.body
        assert (token in page.body) == (methods[0] == "jwt")


def test_a_session_in_a_second_cookie_field(stage: Stage) -> None:
    now = time.time()
    stage.seal(session(now, now))
    request = (
        f"GET /a/x HTTP/1.1\r\nHost: t\r\nCookie: theme=dark\r\nCookie: kairos_corp={stage.jar['kairos_corp']}\r\n\r\n"
    )
    for _ in range(2):
        head, body = stage.served.request(request.encode())
        assert head.startswith(b"HTTP/1.1 200")
        assert b"Cookie: theme=dark\r\n" in body
        assert b"kairos_corp" not in body


def test_a_session_reaches_no_backend_of_another_route(stage: Stage) -> None:
    assert stage.back(stage.begin()).status == 303
    stage.begin("/b")
    stage.jar.update({"__Host-kairos_corp": "1.x", "kairos_corp_1": "y", "theme": "dark", "kairos_corporate": "z"})
    page = stage.browser.request(stage.url("/open"))
    (line,) = [line for line in page.body.splitlines() if line.startswith("Cookie: ")]
    assert sorted(line.removeprefix("Cookie: ").split("; ")) == ["kairos_corporate=z", "theme=dark"]
    for name in ("theme", "kairos_corporate"):
        del stage.jar[name]
    assert "Cookie:" not in stage.browser.request(stage.url("/open")).body
    state = stage.begin("/b")
    assert stage.back(state, "other").status == 303
    assert "Cookie:" not in stage.browser.request(stage.url("/b")).body
