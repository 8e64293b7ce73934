"""The parts of the login flow that need nobody else: sealed texts, cookies, life times, addresses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from kairos.config.discovery import Metadata, metadata_of
from kairos.config.oidc import OidcProvider, OidcSession
from kairos.openid.flow import (
    Callback,
    LoginError,
    authorization_url,
    begin,
    challenge,
    is_navigation,
    safe_target,
)
from kairos.proxy.oidc import cookies
from kairos.proxy.oidc.sealing import Sealer
from kairos.proxy.oidc.session import Session, Tokens, attempt_of, encode, session_of

OLD, NEW = "an old secret of more than 32 bytes", "a new secret of more than 32 bytes!!"
ISSUER = "https://idp.test"
METADATA = Metadata(ISSUER, f"{ISSUER}/auth?tenant=1", f"{ISSUER}/token", f"{ISSUER}/jwks")
SPEC = OidcSession(secrets=[NEW], idle=100, lifetime=1000, refresh_before=10)
PROVIDER = OidcProvider(issuer=ISSUER, client_id="us", session=SPEC)

# --- sealed texts ---------------------------------------------------------------------------------------------------


def test_what_is_sealed_opens_and_says_nothing() -> None:
    sealer = Sealer([NEW], "oidc")
    text = sealer.seal(b"subject", "corp")
    assert sealer.open(text.encode(), "corp") == b"subject"
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert sealer.seal(b"subject", "corp") != text


def test_each_byte_that_is_changed_makes_it_nothing() -> None:
    sealer = Sealer([NEW], "oidc")
    text = bytearray(sealer.seal(b"subject", "corp").encode())
    for at in range(len(text)):
        kept = text[at]
        text[at] = ord("A") if kept != ord("A") else ord("B")
        assert sealer.open(bytes(text), "corp") in (None, b"subject" if at == len(text) - 1 else None)
        text[at] = kept
    for cut in range(len(text)):
        assert sealer.open(bytes(text[:cut]), "corp") is None


@pytest.mark.parametrize("text", [b"", b"=", b"AAAA", b"\xff\xfe", b"a b", b"AQ", b"A" * 80])
def test_what_never_was_sealed(text: bytes) -> None:
    assert Sealer([NEW], "oidc").open(text, "corp") is None


def test_another_label_purpose_or_secret_opens_nothing() -> None:
    text = Sealer([NEW], "oidc").seal(b"x", "corp").encode()
    assert Sealer([NEW], "oidc").open(text, "other") is None
    assert Sealer([NEW], "csrf").open(text, "corp") is None
    assert Sealer([OLD], "oidc").open(text, "corp") is None


def test_secrets_are_changed_without_ending_sessions() -> None:
    before = Sealer([OLD], "oidc").seal(b"x", "corp").encode()
    during = Sealer([NEW, OLD], "oidc")
    assert during.open(before, "corp") == b"x"
    after = Sealer([NEW], "oidc")
    assert after.open(during.seal(b"y", "corp").encode(), "corp") == b"y"
    assert after.open(before, "corp") is None


# --- cookies --------------------------------------------------------------------------------------------------------


def held(lines: list[str], browser: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """What a browser with these cookies has after the Set-Cookie lines."""
    after = dict(browser)
    for line in lines:
        name, value = line.partition(";")[0].split("=", 1)
        after[name.encode()] = value.encode()
        if "; Max-Age=0" in line:
            del after[name.encode()]
    return after


@pytest.mark.parametrize("size", [1, 100, cookies.PIECE, cookies.PIECE + 1, cookies.PIECE * cookies.MAX_PIECES])
def test_a_value_comes_back_whatever_its_length(size: int) -> None:
    value = "v" * size
    lines = list(cookies.set_lines("s", value, secure=True, max_age=60, sent={}))
    assert all(len(line.partition(";")[0]) <= 4096 for line in lines)
    assert cookies.joined(held(lines, {}), "s") == value.encode()


def test_a_value_that_became_shorter_leaves_no_piece_behind() -> None:
    long = held(list(cookies.set_lines("s", "v" * 9000, secure=False, max_age=60, sent={})), {b"other": b"1"})
    assert len(long) == 4
    short = held(list(cookies.set_lines("s", "v", secure=False, max_age=60, sent=long)), long)
    assert short == {b"other": b"1", b"s": b"1.v"}
    assert held(list(cookies.clear_lines("s", secure=False, sent=long)), long) == {b"other": b"1"}


def test_too_long_a_value() -> None:
    with pytest.raises(ValueError, match="too many"):
        list(cookies.set_lines("s", "v" * (cookies.PIECE * cookies.MAX_PIECES + 1), secure=True, max_age=1, sent={}))


@pytest.mark.parametrize("held_", [{}, {b"s": b"v"}, {b"s": b"2.v"}, {b"s": b"9.v"}, {b"s": b"0.v"}, {b"s": b"1."}])
def test_pieces_that_are_missing_make_no_value(held_: dict[bytes, bytes]) -> None:
    assert cookies.joined(held_, "s") is None


def test_attributes() -> None:
    (line,) = cookies.set_lines("__Host-s", "v", secure=True, max_age=60, sent={})
    assert line == "__Host-s=1.v; Path=/; Max-Age=60; HttpOnly; SameSite=Lax; Secure"
    assert cookies.cookie_name("s", secure=True) == "__Host-s"
    assert cookies.cookie_name("s", secure=False) == "s"


def test_cookie_fields_are_read_and_thinned_out() -> None:
    assert cookies.parsed(b"a=1; b=x=y;c = ; a=2;; d") == {b"a": b"1", b"b": b"x=y", b"c ": b""}
    assert cookies.without(b"a=1; s=2; s_1=3; b=4", {b"s", b"s_1"}) == b"a=1; b=4"
    assert cookies.without(b"s=2", {b"s"}) is None


# --- sessions -------------------------------------------------------------------------------------------------------


def session(began: float = 1000, used: float = 1000, ends: float | None = None, refresh: str | None = None) -> Session:
    return Session("alice", {"sub": "alice"}, began, used, Tokens(refresh, None, None, 1000, ends))


def test_sessions_end() -> None:
    assert not session().over(SPEC, 1099)
    assert session().over(SPEC, 1100)  # idle
    assert not session(1000, 1950).over(SPEC, 1999)
    assert session(1000, 1950).over(SPEC, 2000)  # old
    assert session(5000, 5000).over(SPEC, 1000)  # of the future
    assert session(1000, 1950).left(SPEC, 1950) == 50


def test_when_a_session_is_renewed_and_written() -> None:
    assert not session(ends=1050, refresh="r").wants_refresh(SPEC, 1039)
    assert session(ends=1050, refresh="r").wants_refresh(SPEC, 1040)
    assert not session(ends=1010, refresh="r").wants_refresh(SPEC, 1004)  # half of its life, at least
    assert session(ends=1010, refresh="r").wants_refresh(SPEC, 1005)
    assert not session(ends=1050).wants_refresh(SPEC, 1040)
    assert not session(refresh="r").wants_refresh(SPEC, 1040)
    assert not session().wants_writing(SPEC, 1010)
    assert session().wants_writing(SPEC, 1011)


def test_what_another_version_wrote_is_no_session() -> None:
    assert session_of(encode(session())) == session()
    assert session_of(b"\xc1") is None
    assert session_of(encode(["alice"])) is None
    assert attempt_of(encode(session())) is None


# --- addresses ------------------------------------------------------------------------------------------------------


def test_the_authorization_request() -> None:
    attempt = begin("/orders?x=1", "https://app.test/cb", 9)
    query = parse_qs(urlsplit(authorization_url(METADATA, PROVIDER, attempt)).query)
    assert query == {
        "tenant": ["1"], "response_type": ["code"], "client_id": ["us"], "redirect_uri": ["https://app.test/cb"],
        "scope": ["openid profile email"], "state": [attempt.state], "nonce": [attempt.nonce],
        "code_challenge": [challenge(attempt.verifier)], "code_challenge_method": ["S256"],
    }  # fmt: skip
    assert len({attempt.state, attempt.nonce, attempt.verifier}) == 3
    assert begin("/", "", 9).state != attempt.state


def test_the_challenge_of_rfc_7636() -> None:
    assert challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


@pytest.mark.parametrize(
    ("path", "query", "target"),
    [
        (b"/a", b"", "/a"),
        (b"/a", b"b=c&d=https://x.test/", "/a?b=c&d=https://x.test/"),
        (b"//evil.test/x", b"", "/.//evil.test/x"),
        (b"/\\evil.test", b"", "/"),
        (b"https://evil.test", b"", "/"),
        (b"/a\r\nSet-Cookie: x", b"", "/"),
        (b"/" + b"a" * 3000, b"", "/"),
        (b"", b"", "/"),
    ],
)
def test_after_the_login_one_stays_on_this_host(path: bytes, query: bytes, target: str) -> None:
    assert safe_target(path, query) == target


ATTEMPT = begin("/", "https://app.test/cb", 100.0)


def code_of(query: str, metadata: Metadata = METADATA, now: float = 50.0) -> str:
    return Callback(query.encode()).code(ATTEMPT, metadata, now)


def test_a_callback_that_answers_the_attempt() -> None:
    assert code_of(f"code=abc&state={ATTEMPT.state}") == "abc"
    assert code_of(f"code=abc&state={ATTEMPT.state}&iss=https%3A%2F%2Fidp.test") == "abc"


NAMED = Metadata(ISSUER, "", "", "", authorization_response_iss_parameter_supported=True)


@pytest.mark.parametrize(
    ("query", "kind", "said"),
    [
        ("code=abc&state=another", "login_failed", "no such login"),
        ("code=abc", "login_failed", "no such login"),
        ("code=abc&code=def&state=STATE", "login_failed", "sent no code"),
        ("code=&state=STATE", "login_failed", "sent no code"),
        ("code=abc&state=STATE&state=x", "login_failed", "no such login"),
        ("code=abc&state=STATE&iss=https://other.test", "login_failed", "another identity provider"),
        ("error=access_denied&state=STATE", "login_denied", "access_denied"),
        ("error=<script>&state=STATE", "login_denied", "refused the login: error"),
    ],
)
def test_callbacks_that_do_not(query: str, kind: str, said: str) -> None:
    with pytest.raises(LoginError, match=said) as caught:
        code_of(query.replace("STATE", ATTEMPT.state))
    assert caught.value.kind == kind


def test_a_provider_that_names_itself_always_has_to() -> None:
    with pytest.raises(LoginError, match="another identity provider"):
        code_of(f"code=abc&state={ATTEMPT.state}", NAMED)


def test_a_login_that_took_too_long_and_a_hostile_query() -> None:
    with pytest.raises(LoginError, match="too long"):
        code_of(f"code=abc&state={ATTEMPT.state}", now=100.0)
    with pytest.raises(LoginError, match="no such login"):
        Callback("&".join(["a=b"] * 100).encode()).code(ATTEMPT, METADATA, 50.0)
    with pytest.raises(LoginError, match="no such login"):
        Callback(f"code=a&state={ATTEMPT.state}".encode()).code(None, METADATA, 50.0)


@pytest.mark.parametrize(
    ("method", "mode", "with_", "accept", "page"),
    [
        ("GET", b"navigate", None, b"*/*", True),
        ("GET", b"cors", None, b"text/html", False),
        ("GET", None, None, b"text/html,*/*", True),
        ("GET", None, None, b"application/json", False),
        ("GET", None, b"XMLHttpRequest", b"text/html", False),
        ("GET", None, None, None, False),
        ("POST", b"navigate", None, b"text/html", False),
    ],
)
def test_who_is_sent_to_log_in(
    method: str, mode: bytes | None, with_: bytes | None, accept: bytes | None, page: bool
) -> None:
    assert is_navigation(method, mode, with_, accept) is page


# --- discovery ------------------------------------------------------------------------------------------------------

DOCUMENT = """{"issuer": "https://idp.test", "authorization_endpoint": "https://idp.test/a",
 "token_endpoint": "https://idp.test/t", "jwks_uri": "https://idp.test/k", "unknown": [1]%s}"""


def test_a_discovery_document() -> None:
    assert metadata_of((DOCUMENT % "").encode(), ISSUER).token_endpoint == "https://idp.test/t"


@pytest.mark.parametrize(
    ("document", "issuer", "said"),
    [
        (DOCUMENT % "", "https://idp.test/", "configured"),
        (DOCUMENT % ', "code_challenge_methods_supported": ["plain"]', ISSUER, "PKCE"),
        (DOCUMENT % ', "end_session_endpoint": "http://idp.test/out"', ISSUER, "end_session_endpoint"),
        (DOCUMENT % ', "userinfo_endpoint": "javascript:alert(1)"', ISSUER, "userinfo_endpoint"),
        ('{"issuer": "https://idp.test"}', ISSUER, "no discovery document"),
        ("<html>", ISSUER, "no discovery document"),
    ],
)
def test_documents_that_are_not_believed(document: str, issuer: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        metadata_of(document.encode(), issuer)


# --- the real provider's packages -----------------------------------------------------------------------------------


def test_packages_are_locked_by_hash_and_no_registry_is_named() -> None:
    lock = json.loads(Path(__file__).parents[1].joinpath("oidc_provider/package-lock.json").read_text())
    packages = [package for name, package in lock["packages"].items() if name]
    assert packages
    assert all("integrity" in package and "resolved" not in package for package in packages)
