"""The section oidc: what is refused with which advice, and that its secrets are never shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kairos.config.check import check
from kairos.config.load import loads
from kairos.config.mask import masked
from kairos.config.oidc import OidcProvider, OidcSession, callback_path, logout_path

SECRET = "a secret of more than thirty-two bytes"
GOOD: dict[str, Any] = {
    "issuer": "https://idp.test", "client_id": "us", "client_secret": "hush", "session": {"secrets": [SECRET]},
}  # fmt: skip


def document(auth: dict[str, Any] | None = None, path: str = "/a", **changes: Any) -> dict[str, Any]:
    route = {"external_path": path, "methods": ["GET"], "backends": [{"host": "https://b"}]}
    return {
        "oidc": {"corp": {**GOOD, **changes}},
        "routers": [{**route, "auth": {"methods": ["oidc"], **(auth or {})}}],
    }


def errors(file: dict[str, Any], *, insecure_dev: bool = False) -> list[str]:
    problems = check(loads(json.dumps(file).encode(), "json", "f.json").config, insecure_dev=insecure_dev)
    return [f"{problem.path}: {problem.message}" for problem in problems if problem.severity == "error"]


def test_the_good_case() -> None:
    assert errors(document()) == []
    assert errors(document(issuer="http://127.0.0.1:3000")) == []
    assert errors(document(session={"secrets": ["short"]}), insecure_dev=True) == []


MISTAKES = [
    ({"issuer": "http://idp.test"}, "oidc.corp.issuer: 'http://idp.test' must be an https:// address"),
    ({"issuer": "https://idp.test?x"}, "oidc.corp.issuer: an issuer has no query"),
    ({"issuer": "https://u:p@idp.test"}, "oidc.corp.issuer: "),
    ({"issuer": "https://[::1"}, "oidc.corp.issuer: "),
    ({"client_id": ""}, "oidc.corp.client_id: must not be empty"),
    ({"client_secret": ""}, "oidc.corp.client_secret: must not be empty"),
    ({"scopes": ["email"]}, "oidc.corp.scopes: must have 'openid'"),
    ({"algorithms": []}, "oidc.corp.algorithms: must name"),
    ({"algorithms": ["HS256"]}, "oidc.corp.algorithms: HS256 signs with client_secret"),
    ({"authorize_params": {"state": "x"}}, "oidc.corp.authorize_params.state: is set by the gateway"),
    ({"session": {"secrets": []}}, "oidc.corp.session.secrets: must hold at least one secret"),
    ({"session": {"secrets": [SECRET, "short"]}}, "oidc.corp.session.secrets[1]: has fewer than 32 bytes"),
    ({"callback_path": "cb"}, "oidc.corp.callback_path: must be a literal path"),
    ({"callback_path": "/a/../b"}, "oidc.corp.callback_path: must be a literal path"),
    ({"callback_path": "/{x}"}, "oidc.corp.callback_path: must be a literal path"),
    ({"callback_path": "/x", "logout_path": "/x"}, "oidc: every callback_path"),
    ({"redirect_url": "https://us.test/other"}, "oidc.corp.redirect_url: its path must be callback_path"),
    ({"after_logout": "//evil.test"}, "oidc.corp.after_logout: must be a path"),
    ({"after_logout": "http://evil.test"}, "oidc.corp.after_logout: must be a path"),
]


@pytest.mark.parametrize(("changes", "said"), MISTAKES)
def test_mistakes(changes: dict[str, Any], said: str) -> None:
    (error,) = errors(document(**changes))
    assert error.startswith(said)


def test_routes_name_a_provider_that_is_there_and_none_of_its_paths() -> None:
    assert errors(document({"oidc": "crop"})) == ["routers[0].auth: there is no provider 'crop' in the section oidc"]
    two = document()
    two["oidc"]["other"] = GOOD
    assert errors(two) == ["routers[0].auth: say in oidc at which provider of the section oidc one logs in"]
    assert errors({**two, "routers": document({"oidc": "other"})["routers"]}) == []
    (error,) = errors(document(path="/oauth2/corp/callback"))
    assert error.startswith("routers[0].external_path: is a path of a login")
    named = document()
    named["oidc"] = {"Corp!": GOOD}
    assert errors(named)[0].startswith("oidc['Corp!']: ")


@pytest.mark.parametrize("other", ["corp_1", "corp_login_x"])
def test_cookies_of_providers_are_told_apart(other: str) -> None:
    two = document({"oidc": "corp"})
    two["oidc"][other] = GOOD
    (error,) = errors(two)
    assert error.startswith("oidc.corp: its cookie kairos_corp is one of another provider's")
    two["oidc"][other] = {**GOOD, "session": {"secrets": [SECRET], "cookie": "another"}}
    assert errors(two) == []


def test_paths() -> None:
    provider = OidcProvider(issuer="", client_id="", session=OidcSession(secrets=[]), logout_path="/bye")
    assert (callback_path("corp", provider), logout_path("corp", provider)) == ("/oauth2/corp/callback", "/bye")


def test_its_secrets_are_masked() -> None:
    shown = masked(loads(json.dumps(document()).encode(), "json", "f.json").config)["oidc"]["corp"]
    assert shown["client_secret"] == "***"
    assert shown["session"]["secrets"] == "***"
    assert SECRET not in json.dumps(shown)
