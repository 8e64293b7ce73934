"""The frame of authentication: who is asked in which order, who decides, and what the backend is told of the caller."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from kairos.config.model import Config
from kairos.config.policies.auth import AuthMethod
from kairos.proxy.exchange import Exchange, Handler, Response
from kairos.proxy.filters.authenticate import Authenticate, Authenticator, Refusal
from kairos.proxy.filters.authn import METHODS
from kairos.proxy.filters.authn.telling import claim_edits, header_value, reserved_in
from kairos.proxy.identity import Identity, claim
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import echo, origin, status_of
from tests.support.tokens import asking
from tests.support.ws import header


class Badge(Authenticator):
    """`X-<name>: <subject>` says who one is; some subjects have a fate of their own."""

    def __init__(self, name: str, *, slow: bool = False) -> None:
        self.name = name
        self.slow = slow
        self.known: dict[bytes, Identity] = {}

    def authenticate(self, x: Exchange) -> Any:
        shown = x.header(b"x-" + self.name.encode())
        return self.later(shown) if self.slow else self.outcome(shown)

    def outcome(self, shown: bytes | None) -> Any:
        if shown is None:
            return None
        if shown == b"bad":
            return Refusal("unauthorized", f"bad {self.name}", b'Badge error="bad"')
        if shown == b"who knows":
            return Refusal("auth_unavailable")
        if shown == b"login":
            return Response(302, b"", [(b"Location", b"/login")])
        if shown == b"raise":
            raise RuntimeError("a method that fails")
        if shown not in self.known:
            claims = {"sub": shown.decode(), "roles": ["a", "b"], "by": self.name, "deep": {"er": 7}}
            self.known[shown] = Identity(shown.decode(), self.name, claims)
        return self.known[shown]

    async def later(self, shown: bytes | None) -> Any:
        await asyncio.sleep(0)
        return self.outcome(shown)

    def withhold(self, x: Exchange) -> None:
        if x.header(b"x-" + self.name.encode()) is not None:
            x.set_request_header(f"X-{self.name}", None)

    def missing(self, x: Exchange) -> str | Response | None:
        if x.header(b"accept") == b"text/html" and self.name == "gold":
            return Response(302, b"", [(b"Location", b"/login")])
        return f"no {self.name}"

    def challenge(self) -> bytes:
        return f"{self.name.title()} realm=x".encode()


class Who(Handler):
    """Says whom it sees."""

    def handle(self, x: Exchange) -> Response:
        who = x.identity
        return Response(200, b"nobody" if who is None else who.who.encode())


HEADERS = {"sub": "X-User", "roles": "X-Roles", "deep.er": "X-Deep", "nothing": "X-Nothing"}
RULES = [{"claim": "by", "one_of": ["gold", "tin"]}, {"claim": "roles", "contains": "a"}]


@pytest.fixture(scope="module")
def served() -> Iterator[InProcess]:
    with origin(echo) as o:

        def back(path: str) -> dict[str, Any]:
            backend = {"host": "http://127.0.0.1", "port": o.port}
            return {"external_path": path, "internal_path": path, "methods": ["GET"], "backends": [backend]}

        chains = {
            "/one": asking(Badge("gold")),
            "/two": asking(Badge("gold"), Badge("tin")),
            "/slow": asking(Badge("gold", slow=True), Badge("tin", slow=True)),
            "/mixed": asking(Badge("gold", slow=True), Badge("tin")),
            "/optional": asking(Badge("gold"), optional=True),
            "/lead": asking(Badge("lead"), claims=RULES),
        }
        told = {
            "/told": asking(Badge("gold"), Badge("tin"), claims_to_headers=HEADERS),
            "/told/optional": asking(Badge("gold"), claims_to_headers=HEADERS, optional=True),
            "/kept": asking(Badge("gold"), Badge("tin"), forward_credentials=False),
        }
        plain = [Chain(path, Who(), made) for path, made in chains.items()]
        with in_process(*plain, *[Chain(path, back(path), made) for path, made in told.items()]) as made:
            yield made
            assert [str(report) for report in made.reports] == ["a method that fails"] * 2


def challenges(head: bytes) -> list[bytes]:
    return [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"www-authenticate:")]


# ---- who decides


@pytest.mark.parametrize("path", ["/two", "/slow", "/mixed"])
@pytest.mark.parametrize(
    ("lines", "seen"),
    [
        (["X-Gold: ann"], b"gold::ann"),
        (["X-Tin: bob"], b"tin::bob"),
        (["X-Gold: ann", "X-Tin: bob"], b"gold::ann"),
        (["X-Tin: bad", "X-Gold: ann"], b"gold::ann"),
    ],
)
def test_the_first_method_that_finds_its_credential_decides(
    served: InProcess, path: str, lines: list[str], seen: bytes
) -> None:
    head, body = served.get(path, *lines)
    assert status_of(head) == 200
    assert body == seen


@pytest.mark.parametrize("path", ["/two", "/slow", "/mixed"])
def test_a_refusal_is_not_made_up_for_by_another_method(served: InProcess, path: str) -> None:
    head, body = served.get(path, "X-Gold: bad", "X-Tin: bob")
    assert status_of(head) == 401
    assert json.loads(body)["error"] == "bad gold"
    assert challenges(head) == [b'Badge error="bad"', b"Tin realm=x"]


@pytest.mark.parametrize("path", ["/two", "/slow", "/mixed"])
def test_nobody_is_told_of_all_methods(served: InProcess, path: str) -> None:
    head, body = served.get(path)
    assert status_of(head) == 401
    assert json.loads(body)["error"] == "Authentication required"
    assert challenges(head) == [b"Gold realm=x", b"Tin realm=x"]


def test_a_single_method_says_itself_what_is_missing(served: InProcess) -> None:
    head, body = served.get("/one")
    assert json.loads(body)["error"] == "no gold"
    assert challenges(head) == [b"Gold realm=x"]


@pytest.mark.parametrize("path", ["/one", "/two", "/slow", "/mixed"])
def test_a_method_may_answer_itself(served: InProcess, path: str) -> None:
    for line in ("X-Gold: login", "Accept: text/html"):
        head, _ = served.get(path, line)
        assert status_of(head) == 302
        assert header(head, b"location") == b"/login"


def test_where_nobody_can_tell_the_answer_is_to_come_again(served: InProcess) -> None:
    head, body = served.get("/one", "X-Gold: who knows")
    assert status_of(head) == 503
    assert json.loads(body)["code"] == "auth_unavailable"
    assert header(head, b"retry-after") == b"1"
    assert challenges(head) == []


@pytest.mark.parametrize("path", ["/one", "/slow"])
def test_a_method_that_fails_lets_nobody_in(served: InProcess, path: str) -> None:
    assert status_of(served.get(path, "X-Gold: raise")[0]) == 500


def test_optional_lets_nobody_pass_but_no_bad_credential(served: InProcess) -> None:
    assert served.get("/optional")[1] == b"nobody"
    assert served.get("/optional", "X-Gold: ann")[1] == b"gold::ann"
    assert status_of(served.get("/optional", "X-Gold: bad")[0]) == 401


def test_a_caller_whose_claims_do_not_do_is_forbidden(served: InProcess) -> None:
    head, body = served.get("/lead", "X-Lead: ann")
    assert status_of(head) == 403
    assert json.loads(body)["error"] == "The caller's claim 'by' does not allow this"
    assert challenges(head) == []


# ---- what the backend is told


def values(seen: bytes, name: bytes) -> list[bytes]:
    lines = [line.partition(b": ") for line in seen.split(b"\r\n")]
    return [value for key, _, value in lines if key.lower() == name]


FORGED = ["X-User: root", "x-roles: root", "X-DEEP: root", "X-Nothing: root", "X-User: root2", "Connection: X-User"]


def test_claims_replace_what_a_client_sent_under_their_headers(served: InProcess) -> None:
    _, seen = served.get("/told", "X-Gold: ann", *FORGED)
    assert values(seen, b"x-user") == [b"ann"]
    assert values(seen, b"x-roles") == [b"a,b"]
    assert values(seen, b"x-deep") == [b"7"]
    assert values(seen, b"x-nothing") == []


def test_nobody_has_no_claims(served: InProcess) -> None:
    head, seen = served.get("/told/optional", *FORGED)
    assert status_of(head) == 200
    for name in (b"x-user", b"x-roles", b"x-deep", b"x-nothing"):
        assert values(seen, name) == []


def test_only_the_credential_that_decided_goes_on(served: InProcess) -> None:
    _, seen = served.get("/told", "X-Tin: bob", "X-Gold: ann")
    assert values(seen, b"x-gold") == [b"ann"]
    assert values(seen, b"x-tin") == []
    _, seen = served.get("/kept", "X-Tin: bob", "X-Gold: ann", "X-Other: 1")
    assert values(seen, b"x-gold") == values(seen, b"x-tin") == []
    assert values(seen, b"x-other") == [b"1"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ann", b"ann"), ("Ann Lee", b"Ann Lee"), ("a,b", b"a,b"), ("100%", b"100%"),
        (" ann", b'" ann"'), ("ann ", b'"ann "'), ("", b'""'), ('"ann"', b'"\\"ann\\""'), ("[1]", b'"[1]"'),
        ("J\u00f6rg", b'"J\\u00f6rg"'), ("a\r\nX-Admin: 1", b'"a\\r\\nX-Admin: 1"'), ("\0", b'"\\u0000"'),
        ("\x7f", b'"\\u007f"'), (["a", "b"], b"a,b"), (["a,b"], b'["a,b"]'), ([], b"[]"), (["a", 1], b'["a",1]'),
        (7, b"7"), (1.5, b"1.5"), (True, b"true"), (False, b"false"), ({"a": [1]}, b'{"a":[1]}'), (None, None),
    ],
)  # fmt: skip
def test_a_claim_as_a_header_cannot_be_taken_for_another(value: object, shown: bytes | None) -> None:
    assert header_value(value) == shown


def test_every_name_that_tells_of_callers_is_the_gateways() -> None:
    config = msgspec.convert(
        {
            "auth": {"claims_to_headers": {"sub": "X-User"}},
            "groups": {"g": {"auth": {"enabled": False, "claims_to_headers": {"a": "x-user", "b": "X-B"}}}},
            "routers": [
                {
                    "external_path": "/",
                    "internal_path": "/",
                    "methods": ["GET"],
                    "auth": {"claims_to_headers": {"c": "X-C"}},
                },
                {"external_path": "/o", "internal_path": "/", "methods": ["GET"]},
            ],
        },
        Config,
    )
    assert {name.lower() for name in reserved_in(config)} == {"x-user", "x-b", "x-c"}
    assert reserved_in(msgspec.convert({"routers": []}, Config)) == ()
    edits = claim_edits({"sub": "ann"}, {"sub": "X-USER"}, ["x-user", "X-B"])
    assert [(edit.name, edit.value) for edit in edits.items] == [(b"X-USER", b"ann"), (b"X-B", None)]


# ---- pieces


def test_a_claim_is_found_by_its_name_or_its_path() -> None:
    claims = {"a": {"b": [1]}, "a.b": 2, "https://x/roles": ["r"], "null": None}
    assert claim(claims, "a.b") == 2, "the name as it is comes first"
    assert claim({"a": {"b": [1]}}, "a.b") == [1]
    assert claim(claims, "https://x/roles") == ["r"]
    for path in ("a.c", "a.b.c", "null", "null.x", "", "."):
        assert claim(claims, path) is None


def test_a_caller_is_judged_once() -> None:
    judged: list[str] = []

    def judge(identity: Identity) -> Any:
        judged.append(identity.subject)
        return Refusal("forbidden")

    class Everybody(Authenticator):
        made: Identity

        def authenticate(self, x: Exchange) -> Identity:
            return self.made

    everybody = Everybody()
    made = Authenticate([everybody], judge)
    with in_process(Chain("/", Who(), made)) as gate:
        everybody.made = Identity("ann", "test")
        for _ in range(3):
            assert status_of(gate.get("/")[0]) == 403
        assert judged == ["ann"], "the same caller is judged once"
        everybody.made = Identity("ann", "test")
        gate.get("/")
        assert judged == ["ann", "ann"], "another credential of the same name is another caller"


def test_every_method_that_may_be_configured_is_there() -> None:
    assert set(METHODS) == set(get_args(AuthMethod))
