"""API keys: where they stand, what they are good for, and that no backend sees more of them than it should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kairos.config.mask import masked
from kairos.config.problems import ConfigError
from tests.support.gateway import route
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import echo, origin, status_of
from tests.support.ws import header

KEY = "kairos_0123456789abcdef0123456789abcdef"
OTHER = "kairos_fedcba9876543210fedcba9876543210"


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(echo) as o:
        yield o.url


def entry(key: str = KEY, **members: Any) -> dict[str, Any]:
    return {"id": "billing", "key_hash": sha256(key.encode()).hexdigest(), **members}


def document(url: str, *keys: dict[str, Any], auth: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    return {
        "auth": {"methods": ["api_key"], **(auth or {})},
        "api_keys": {"keys": list(keys) or [entry()], **settings},
        "routers": [
            route("/a/{rest:path}", url, "/a/{rest}"),
            route("/b", url, group="internal"),
            route("/open", url, auth={"enabled": False}),
        ],
        "groups": {"internal": {}},
        "trusted_proxies": ["127.0.0.1"],
    }


def ask(served: InProcess, *lines: str, path: str = "/a/x") -> tuple[int, dict[str, Any], bytes]:
    """Status, the problem of a refusal, and what the backend got."""
    head, body = served.get(path, *lines)
    status = status_of(head)
    return (status, {}, body) if status == 200 else (status, json.loads(body), head)


def carrying(key: str) -> str:
    return f"X-API-Key: {key}"


# --- good and bad keys -----------------------------------------------------------------------------------------------


def test_a_key_opens_the_route_and_stays_here(backend: str) -> None:
    with serving(document(backend)) as served:
        status, _, seen = ask(served, carrying(KEY), "Accept: a")
        assert status == 200
        assert KEY.encode() not in seen
        assert header(seen, b"accept") == b"a"


@pytest.mark.parametrize("line", ["X-API-Key: ", "X-Other: x"])
def test_without_a_key(backend: str, line: str) -> None:
    with serving(document(backend)) as served:
        status, problem, head = ask(served, line)
        assert (status, problem["code"]) == (401, "unauthorized")
        assert header(head, b"www-authenticate") == b'ApiKey realm="kairos"'
        assert ask(served, line, path="/open")[0] == 200


@pytest.mark.parametrize(
    "text", [OTHER, KEY[:-1], KEY + "x", KEY.upper(), sha256(KEY.encode()).hexdigest(), "x" * 5000, "é"]
)
def test_a_key_that_is_none(backend: str, text: str) -> None:
    with serving(document(backend)) as served:
        status, problem, _ = ask(served, carrying(text))
        assert (status, problem["detail"]) == (401, "API key is not valid")


@pytest.mark.parametrize(
    ("members", "status", "detail"),
    [
        ({"enabled": False}, 401, "API key is disabled"),
        ({"expires": "2020-01-31"}, 401, "API key has expired"),
        ({"expires": "2020-01-31T12:00:00+02:00"}, 401, "API key has expired"),
        ({"expires": "2999-01-31"}, 200, None),
        ({"networks": ["10.0.0.0/8"]}, 403, "API key may not be used from this address"),
        ({"networks": ["192.0.2.0/24"]}, 200, None),
        ({"routes": ["/b"]}, 403, "API key may not be used here"),
        ({"routes": ["group:internal"]}, 403, "API key may not be used here"),
        ({"routes": ["group:other", "/a/*"]}, 200, None),
        ({"routes": ["/a/?rest:path}"]}, 403, "API key may not be used here"),
        ({"routes": ["/a/[{]rest:path}"]}, 403, "API key may not be used here"),
        ({"routes": ["/a/{rest:path}"]}, 200, None),
        ({"routes": ["*"]}, 200, None),
    ],
)
def test_what_a_key_is_good_for(backend: str, members: dict[str, Any], status: int, detail: str | None) -> None:
    with serving(document(backend, entry(**members))) as served:
        found, problem, _ = ask(served, carrying(KEY), "X-Forwarded-For: 192.0.2.7")
        assert (found, problem.get("detail")) == (status, detail)


def test_a_key_of_a_group_opens_its_routes(backend: str) -> None:
    with serving(document(backend, entry(routes=["group:internal"]))) as served:
        assert ask(served, carrying(KEY), path="/b")[0] == 200
        assert ask(served, carrying(KEY), path="/a/x")[0] == 403


def test_what_the_backend_is_told_replaces_what_a_client_says(backend: str) -> None:
    names = {"sub": "X-User", "scope": "X-Scope", "plan": "X-Plan", "key_id": "X-Key"}
    key = entry(subject="acme", scopes=["read", "write"], metadata={"plan": "gold"})
    with serving(document(backend, key, entry(OTHER, id="plain"), auth={"claims_to_headers": names})) as served:
        spoofed = ["X-User: root", "X-Scope: admin", "X-Plan: free", "X-Key: other"]
        seen = ask(served, carrying(KEY), *spoofed)[2]
        assert [header(seen, name) for name in (b"x-user", b"x-scope", b"x-plan", b"x-key")] == [
            b"acme", b"read write", b"gold", b"billing",
        ]  # fmt: skip
        seen = ask(served, carrying(OTHER), *spoofed)[2]
        assert header(seen, b"x-user") == b"plain"
        assert b"x-plan" not in seen.lower()
        assert b"admin" not in seen


def test_rules_about_scopes(backend: str) -> None:
    rules = {"claims": [{"claim": "scope", "contains": "orders"}]}
    keys = [entry(scopes=["read", "orders"]), entry(OTHER, id="other", scopes=["orders.read"])]
    with serving(document(backend, *keys, auth=rules)) as served:
        assert ask(served, carrying(KEY))[0] == 200
        assert ask(served, carrying(OTHER))[0] == 403


# --- where a key stands ----------------------------------------------------------------------------------------------

PLACES: list[tuple[dict[str, str], str, list[str]]] = [
    ({"in": "header"}, "/a/x", [f"x-api-key: {KEY}"]),
    ({"in": "header", "name": "X-Token"}, "/a/x", [f"X-Token: {KEY}"]),
    ({"in": "authorization"}, "/a/x", [f"Authorization: apikey {KEY}"]),
    ({"in": "bearer"}, "/a/x", [f"Authorization: Bearer {KEY}"]),
    ({"in": "cookie"}, "/a/x", [f"Cookie: a=1; api_key={KEY}; b=2"]),
    ({"in": "cookie", "name": "k"}, "/a/x", [f"Cookie: k={KEY}"]),
    ({"in": "query"}, f"/a/x?a=1&api_key={KEY}&b=2", []),
    ({"in": "query", "name": "k"}, f"/a/x?k={KEY}", []),
]


@pytest.mark.parametrize(("source", "path", "lines"), PLACES)
def test_each_place(backend: str, source: dict[str, str], path: str, lines: list[str]) -> None:
    with serving(document(backend, sources=[source])) as served:
        status, _, seen = ask(served, *lines, path=path)
        assert status == 200
        assert KEY.encode() not in seen
        assert ask(served, *(line.replace(KEY, OTHER) for line in lines), path=path.replace(KEY, OTHER))[0] == 401
        served.configure(document(backend, sources=[source], forward=True))
        assert KEY.encode() in ask(served, *lines, path=path)[2]


@pytest.mark.parametrize("key", ["p+s/9w==", "a b", "é", "100%25"])
def test_a_key_in_a_query_is_encoded_as_queries_are(backend: str, key: str) -> None:
    with serving(document(backend, entry(key), sources=[{"in": "query"}])) as served:
        assert ask(served, path=f"/a/x?api_key={quote(key, safe='')}")[0] == 200
        assert ask(served, path=f"/a/x?api_key={quote(key + 'x', safe='')}")[0] == 401


def test_no_key_stands_in_the_access_log(backend: str) -> None:
    source = {"sources": [{"in": "query", "name": "badge"}]}
    both = document(backend)
    both["routers"][1]["api_keys"] = {"keys": [entry()], **source}
    with serving(both) as served:
        for path in ("/b", "/open"):
            ask(served, f"Referer: http://test/?BADGE={KEY}", path=f"{path}?a=1&badge={KEY}&b%61dge={KEY}")
            line = served.wait_access(path=path)
            assert line["query"] == "a=1&badge=***&b%61dge=***"
            assert line["referer"] == "http://test/?BADGE=***"


def test_what_stands_beside_a_key_goes_on(backend: str) -> None:
    with serving(document(backend, sources=[{"in": "cookie"}, {"in": "query"}])) as served:
        seen = ask(served, f"Cookie: a=1; api_key={KEY}; b=2", "Cookie: c=3")[2]
        assert header(seen, b"cookie") == b"a=1; b=2; c=3"
        seen = ask(served, path=f"/a/x?a=1&api_key={KEY}&b=%20")[2]
        assert seen.startswith(b"GET /a/x?a=1&b=%20 HTTP/1.1\r\n")


def test_two_keys_are_none(backend: str) -> None:
    """The backend could read the one that nobody verified."""
    both = document(backend, sources=[{"in": "header"}, {"in": "query"}], forward=True)
    with serving(both) as served:
        status, problem, _ = ask(served, carrying(KEY), path=f"/a/x?api_key={OTHER}")
        assert (status, problem["detail"]) == (401, "More than one API key")
        assert ask(served, carrying(KEY), carrying(OTHER))[0] == 401
        assert ask(served, carrying(KEY), path=f"/a/x?api_key={KEY}")[0] == 200


def test_no_second_key_slips_through(backend: str) -> None:
    with serving(document(backend)) as served:
        seen = ask(served, carrying(KEY), carrying(OTHER))[2]
        assert b"kairos_" not in seen


def test_a_token_is_left_to_whoever_knows_tokens(backend: str) -> None:
    config = document(backend, sources=[{"in": "bearer"}], auth={"methods": ["api_key", "jwt"]})
    with serving({**config, "jwt": {"secret": "s" * 32}}) as served:
        assert ask(served, f"Authorization: Bearer {KEY}")[0] == 200
        assert ask(served, "Authorization: Bearer a.b.c")[1]["detail"] != "API key is not valid"


# --- files -----------------------------------------------------------------------------------------------------------


def test_keys_of_a_file_are_read_again_at_a_reload(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([entry()]))
    config = document(backend, entry(OTHER, id="other"), keys_file=str(file))
    with serving(config) as served:
        assert [ask(served, carrying(key))[0] for key in (KEY, OTHER)] == [200, 200]
        file.write_text(json.dumps([entry(enabled=False), entry("third", id="third")]))
        served.configure(config)
        assert [ask(served, carrying(key))[0] for key in (KEY, OTHER, "third")] == [401, 200, 200]


def test_a_file_in_yaml(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(f"- id: billing\n  key_hash: sha256:{sha256(KEY.encode()).hexdigest()}\n")
    with serving(document(backend, entry(OTHER, id="other"), keys_file=str(file))) as served:
        assert ask(served, carrying(KEY))[0] == 200


def test_a_key_has_a_limit_of_its_own(backend: str, tmp_path: Path) -> None:
    """Over all routes, and whoever else has one."""
    limit = {"strategy": "PerIP", "requests_per_window": 2, "window_duration": 3600}
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([entry("third", id="third", rate_limit=limit)]))
    for keys in ([entry(rate_limit=limit), entry(OTHER, id="other")], [entry(), entry(OTHER, id="other")]):
        with serving(document(backend, *keys, keys_file=str(file))) as served:
            limited = KEY if "rate_limit" in keys[0] else "third"
            statuses = [ask(served, carrying(limited), path=path)[0] for path in ("/a/x", "/b", "/a/x", "/b")]
            assert statuses == [200, 200, 429, 429]
            assert [ask(served, carrying(OTHER))[0] for _ in range(4)] == [200] * 4


def test_many_keys(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([entry(f"key {n}", id=f"id {n}") for n in range(20_000)]))
    with serving(document(backend, keys_file=str(file))) as served:
        assert [ask(served, carrying(f"key {n}"))[0] for n in (0, 19_999, 20_000)] == [200, 200, 401]


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keys": []}, "api_keys: has no keys"),
        ({"keys": [entry(), entry(OTHER)]}, r"api_keys\.keys\[1\]\.id: is also that of key billing"),
        ({"keys": [entry(), entry(id="x")]}, r"api_keys\.keys\[1\]\.key_hash: is also that of key billing"),
        ({"keys": [entry(key_hash=KEY)]}, r"api_keys\.keys\[0\]\.key_hash"),
        ({"keys": [entry(expires="soon")]}, r"api_keys\.keys\[0\]\.expires: is no moment"),
        ({"keys": [entry(expires="2027-01-01T00:00:00")]}, "has no time zone"),
        ({"keys": [entry(networks=["x"])]}, r"api_keys\.keys\[0\]\.networks\[0\]: 'x' is no network"),
        ({"keys": [entry(routes=["orders"])]}, r"api_keys\.keys\[0\]\.routes\[0\]: 'orders' is no path"),
        ({"keys": [entry(rate_limit={"cost": 9, "requests_per_window": 1})]}, r"keys\[0\]\.rate_limit\.cost"),
        ({"keys": [entry(scopes=["a b"])]}, r"api_keys\.keys\[0\]\.scopes\[0\]"),
        ({"sources": []}, r"api_keys\.sources: lists no place"),
        ({"sources": [{"in": "body"}]}, r"api_keys\.sources\[0\]"),
        ({"sources": [{"in": "bearer", "name": "x"}]}, r"api_keys\.sources\[0\]\.name: a key in bearer has no name"),
        ({"sources": [{"in": "header", "name": "a b"}]}, r"api_keys\.sources\[0\]\.name: 'a b' is no name"),
        ({"sources": [{"in": "header", "name": "Authorization"}]}, "write in: authorization"),
        ({"keys_file": "/none"}, r"api_keys\.keys_file: cannot read keys from /none: No such file"),
    ],
)
def test_mistakes_are_told(settings: dict[str, Any], message: str) -> None:
    config = document("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match=message):
        checked({**config, "api_keys": {**config["api_keys"], **settings}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "Expected `array`"),
        ("[", "truncated"),
        ('[{"id": "a"}]', "missing required field `key_hash`"),
        (json.dumps([entry()]), r"key 1 \(billing\): id is also that of key billing"),
        (json.dumps([entry(OTHER, id="x", expires="x")]), r"key 1 \(x\): expires is no moment"),
        (json.dumps([entry(OTHER, id="x", networks=["y"])]), r"key 1 \(x\): networks.0 'y' is no network"),
    ],
)
def test_mistakes_of_a_file_are_told(tmp_path: Path, text: str, message: str) -> None:
    tmp_path.joinpath("keys.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        checked(document("http://127.0.0.1:1", keys_file=str(tmp_path / "keys.json")))


def test_a_route_that_wants_keys_needs_some() -> None:
    config = document("http://127.0.0.1:1")
    del config["api_keys"]
    with pytest.raises(ConfigError, match=r"routers\[0\]: its auth wants the method api_key, but no section api_keys"):
        checked(config)


def test_hashes_are_not_shown() -> None:
    assert sha256(KEY.encode()).hexdigest() not in json.dumps(masked(checked(document("http://127.0.0.1:1"))))
