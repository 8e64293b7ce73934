"""Bearer tokens: which are good, what is said about the others, and that no way leads around the filter."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kairos.proxy.exchange import Exchange, Handler, Response
from tests.support.gateway import Gateway, gateway, route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import connect, echo, origin, status_of
from tests.support.tokens import HOUR, RSA, SECRET, asking, bearer, claims, forged, part, pem, section, token
from tests.support.ws import echo_frames, frame, handshake, header, read_frame, switching

LEEWAY_S = 60


class Secret(Handler):
    """What only those with a token may see."""

    def handle(self, x: Exchange) -> Response:
        return Response(200, b"secret")


@pytest.fixture(scope="module")
def served() -> Iterator[InProcess]:
    full = section(secret=SECRET, issuer="https://issuer", audience="shop", required_claims=["sub", "role"])
    bare = section(secret=SECRET)
    filters = {"/full": asking(bearer(full)), "/bare": asking(bearer(bare))}
    with in_process(*[Chain(path, Secret(), made) for path, made in filters.items()]) as made:
        yield made
    assert made.reports == []


def ask(served: InProcess, path: str, bearer: str) -> int:
    return status_of(served.get(path, f"Authorization: Bearer {bearer}")[0])


# -- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("good", "changes"),
    [
        pytest.param(True, {}, id="all as asked"),
        pytest.param(True, {"aud": ["other", "shop"]}, id="one audience of several"),
        pytest.param(False, {"aud": "other"}, id="another audience"),
        pytest.param(False, {"aud": ["other", "third"]}, id="other audiences"),
        pytest.param(False, {"aud": []}, id="an empty audience"),
        pytest.param(False, {"aud": None}, id="no audience"),
        pytest.param(False, {"aud": {"shop": 1}}, id="audience of an odd type"),
        pytest.param(False, {"iss": "https://issuer.evil"}, id="another issuer"),
        pytest.param(False, {"iss": None}, id="no issuer"),
        pytest.param(False, {"iss": ["https://issuer"]}, id="issuer of an odd type"),
        pytest.param(False, {"sub": None}, id="no sub, which is required"),
        pytest.param(False, {"role": None}, id="no role, which is required"),
        pytest.param(False, {"exp": None}, id="no expiry"),
    ],
)
def test_issuer_audience_and_required_claims(served: InProcess, good: bool, changes: dict[str, Any]) -> None:
    body = claims(**changes)
    signed = forged({"alg": "HS256", "typ": "JWT"}, body, SECRET.encode())
    assert ask(served, "/full", signed) == (200 if good else 401)


@pytest.mark.parametrize(
    "extra", [{}, {"iss": "anybody", "aud": ["anywhere"]}, {"iss": None, "aud": None, "role": None}]
)
def test_without_issuer_and_audience_configured_tokens_may_have_any(served: InProcess, extra: dict[str, Any]) -> None:
    assert ask(served, "/bare", token(**extra)) == 200


@pytest.mark.parametrize(
    ("good", "changes"),
    [
        pytest.param(True, {"exp": -LEEWAY_S + 20}, id="expired within the leeway"),
        pytest.param(False, {"exp": -LEEWAY_S - 1}, id="expired"),
        pytest.param(True, {"nbf": LEEWAY_S - 20}, id="valid soon, within the leeway"),
        pytest.param(False, {"nbf": LEEWAY_S + 60}, id="not valid yet"),
        pytest.param(True, {"iat": -10 * HOUR}, id="issued long ago"),
    ],
)
def test_times_are_judged_with_leeway(served: InProcess, good: bool, changes: dict[str, int]) -> None:
    now = int(time.time())
    moved: dict[str, Any] = {name: now + offset for name, offset in changes.items()}
    assert ask(served, "/bare", token(**moved)) == (200 if good else 401)


@pytest.mark.parametrize("exp", ["soon", "", [], {}, True, 1e400, -1e400, float("nan"), "9" * 5000, 1 << 80])
def test_an_odd_expiry_breaks_nothing(served: InProcess, exp: object) -> None:
    signed = forged({"alg": "HS256"}, {"exp": exp}, SECRET.encode())
    assert ask(served, "/bare", signed) == 401


HOSTILE: dict[str, Callable[[], str]] = {
    "alg none": lambda: forged({"alg": "none"}, claims()),
    "alg None": lambda: forged({"alg": "None"}, claims()),
    "alg none, signed": lambda: forged({"alg": "none"}, claims(), SECRET.encode()),
    "no alg": lambda: forged({"typ": "JWT"}, claims(), SECRET.encode()),
    "alg hs256": lambda: forged({"alg": "hs256"}, claims(), SECRET.encode()),
    "alg of an odd type": lambda: forged({"alg": ["HS256"]}, claims(), SECRET.encode()),
    "HS384 with the right secret": lambda: forged({"alg": "HS384"}, claims(), SECRET.encode(), "sha384"),
    "HS512 with the right secret": lambda: forged({"alg": "HS512"}, claims(), SECRET.encode(), "sha512"),
    "alg RS256, signed with the secret": lambda: forged({"alg": "RS256"}, claims(), SECRET.encode()),
    "alg HS256, signed with a public key": lambda: forged({"alg": "HS256"}, claims(), pem(RSA).encode()),
    "wrong secret": lambda: token("another secret of more than thirty-two bytes"),
    "empty secret": lambda: forged({"alg": "HS256"}, claims(), b"\0"),
    "key in the header": lambda: forged({"alg": "HS256", "jwk": {"kty": "oct", "k": part(b"k")}}, claims(), b"k"),
    "critical extension": lambda: forged({"alg": "HS256", "crit": ["b64"], "b64": False}, claims(), SECRET.encode()),
    "header no object": lambda: forged(["HS256"], claims(), SECRET.encode()),
    "claims no object": lambda: forged({"alg": "HS256"}, ["exp"], SECRET.encode()),
    "claims no JSON": lambda: forged({"alg": "HS256"}, b"\xff\xfe", SECRET.encode()),
    "deep header": lambda: f"{part(b'[' * 5000)}.{part(claims())}.{part(b'x')}",
    "deep claims": lambda: forged({"alg": "HS256"}, b"[" * 5000, SECRET.encode()),
    "no signature": lambda: token().rpartition(".")[0] + ".",
    "signature cut": lambda: token()[:-4],
    "two parts": lambda: token().rpartition(".")[0],
    "four parts": lambda: token() + ".x",
    "dots": lambda: "..",
    "no base64": lambda: "!!!.???.***",
    "not ASCII": lambda: "\u00e4.\u00f6.\u00fc",
    "space inside": lambda: token()[:20] + " " + token()[20:],
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_token_that_is_no_good_is_refused(served: InProcess, attack: str) -> None:
    with served.connect() as client:
        client.send(b"GET /bare HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n\r\n" % HOSTILE[attack]().encode())
        head, body = client.receive_response()
    assert status_of(head) == 401
    assert json.loads(body)["error"] == "Invalid or expired token"
    assert header(head, b"www-authenticate") == b'Bearer realm="kairos", error="invalid_token"'
    assert b"secret" not in body


def test_a_changed_claim_is_noticed(served: InProcess) -> None:
    head, body, signature = token().split(".")
    assert ask(served, "/bare", f"{head}.{part(claims(role='root'))}.{signature}") == 401
    assert ask(served, "/bare", f"{head}.{body}.{signature}") == 200


# -- what is said -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([], "Missing Authorization header"),
        (["Authorization: Basic YTpi"], "Authorization header must start with 'Bearer '"),
        (["Authorization: Bearer"], "Authorization header must start with 'Bearer '"),
        (["Authorization: "], "Authorization header must start with 'Bearer '"),
        (["Authorization: Bearer  x"], "Invalid or expired token"),
        (["Authorization: Bearer x"], "Invalid or expired token"),
    ],
)
def test_a_refusal_says_why_in_the_words_clients_know(served: InProcess, lines: list[str], error: str) -> None:
    head, body = served.get("/bare", *lines)
    told = json.loads(body)
    assert status_of(head) == 401
    assert told["error"] == told["detail"] == error
    assert told["type"] == "authentication_error"
    assert told["code"] == "unauthorized"
    assert told["request_id"].encode() == header(head, b"x-request-id")
    assert told["timestamp"].endswith("Z")
    assert header(head, b"content-type") == b"application/problem+json"
    challenge = header(head, b"www-authenticate")
    assert challenge is not None
    assert challenge.startswith(b'Bearer realm="kairos"')
    none = lines == [] or "Basic" in lines[0] or lines[0] == "Authorization: "
    assert (b"error=" in challenge) == (not none), "who sent no token is told nothing of it (RFC 6750 section 3.1)"


def test_the_scheme_is_taken_in_any_case(served: InProcess) -> None:
    for scheme in ("bearer", "BEARER", "Bearer"):
        assert status_of(served.get("/bare", f"Authorization: {scheme} {token()}")[0]) == 200


def test_two_tokens_are_none(served: InProcess) -> None:
    """The upstream could read the other one, so the request is malformed."""
    lines = [f"Authorization: Bearer {token()}", "Authorization: Bearer x"]
    assert status_of(served.get("/bare", *lines)[0]) == 400
    assert status_of(served.get("/bare", *lines[::-1])[0]) == 400


# -- routes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def revoked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("jwt") / "revoked"
    file.write_text("# nobody yet\n")
    return file


@pytest.fixture(scope="module")
def gate(revoked: Path) -> Iterator[Gateway]:
    with origin(echo) as o, origin(echo_websocket) as w:
        secured: dict[str, Any] = {"auth_required": True}
        config = {
            "jwt": {"secret": SECRET, "revocations_file": str(revoked)},
            "routers": [
                route("/patch", o.url, **secured) | {"methods": ["PATCH"]},
                route("/odd", o.url, **secured) | {"methods": ["HEAD", "OPTIONS", "TRACE", "PATCH", "DELETE"]},
                route("/told", o.url, auth={"claims_to_headers": {"sub": "X-User"}}),
                route("/api/{x}", o.url, "/api/{x}") | {"methods": ["GET", "POST"]},
                route("/api/secret", o.url, **secured) | {"methods": ["GET"]},
                route("/both", o.url, **secured) | {"methods": ["GET", "POST"]},
                route("/split", o.url) | {"methods": ["GET"]},
                route("/split", o.url, **secured) | {"methods": ["POST"]},
                route("/users/{id}", o.url, "/users/{id}") | {"methods": ["GET"]},
                route("/users/admin", o.url, **secured) | {"methods": ["GET"]},
                route("/area/{rest:path}", o.url, "/area/{rest}", **secured) | {"methods": ["GET"]},
                route("/area/open", o.url) | {"methods": ["GET"]},
                route("/ws", w.url, protocol="websocket", **secured) | {"methods": ["GET"]},
            ],
        }
        with gateway(config) as made:
            yield made


def echo_websocket(peer: Any) -> None:
    peer.send(switching(peer.receive_head()))
    echo_frames(peer)


def status(gate: Gateway, method: str, target: str, bearer: str | None = None) -> int:
    lines = [f"{method} {target} HTTP/1.1", "Host: a", *([f"Authorization: Bearer {bearer}"] if bearer else [])]
    with connect(gate.port) as client:
        client.send("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        return status_of(client.receive_all())


def test_a_patch_only_route_is_secured_too(gate: Gateway) -> None:
    assert status(gate, "PATCH", "/patch") == 401
    assert status(gate, "PATCH", "/patch", token()) == 200
    assert status(gate, "GET", "/patch", token()) == 405


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PATCH", "DELETE"])
def test_a_route_of_odd_methods_is_secured_too(gate: Gateway, method: str) -> None:
    assert status(gate, method, "/odd") == 401
    assert status(gate, method, "/odd", token("another secret of thirty-two bytes.")) == 401
    assert status(gate, method, "/odd", token()) == 200


def test_all_methods_of_a_secured_route_work_with_a_token_and_none_without(gate: Gateway) -> None:
    for method in ("GET", "POST"):
        assert status(gate, method, "/both") == 401
        assert status(gate, method, "/both", token()) == 200


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "TRACE", "get", "Get"])
def test_no_other_method_gets_around_it(gate: Gateway, method: str) -> None:
    status_now = status(gate, method, "/both")
    assert status_now in (204, 401, 405, 501)
    (line,) = gate.wait_access(path="/both", method=method, status=status_now)
    assert "upstream" not in line


def test_authorisation_belongs_to_the_route_that_matches(gate: Gateway) -> None:
    assert status(gate, "GET", "/split") == 200
    assert status(gate, "POST", "/split") == 401
    assert status(gate, "GET", "/users/7") == 200
    assert status(gate, "GET", "/users/admin") == 401
    assert status(gate, "GET", "/api/7") == 200
    assert status(gate, "GET", "/api/secret") == 401
    assert status(gate, "POST", "/api/secret") == 200, "which is the parameter route's, as configured"
    assert status(gate, "GET", "/area/open") == 200
    assert status(gate, "GET", "/area/closed") == 401


@pytest.mark.parametrize(
    "target",
    [
        "/api/s%65cret", "/api/./secret", "/api/x/../secret", "/x/../api/secret",
        "/users/%61dmin", "/users/./admin", "/users/x/../admin", "/users/%2e/admin", "http://a/users/admin",
        "/users/admin?x=/users/7", "/area/open/../closed", "/area/%6Fpen/x", "/users/admin#/users/7",
    ],
)  # fmt: skip
def test_no_spelling_of_a_secured_path_gets_around_it(gate: Gateway, target: str) -> None:
    assert status(gate, "GET", target) in (400, 401)


def test_a_reload_reads_revocations_anew_and_a_known_token_is_judged_anew(gate: Gateway, revoked: Path) -> None:
    one, other = token(jti="7f"), token(jti="80")
    assert [status(gate, "GET", "/both", raw) for raw in (one, one, other)] == [200, 200, 200]
    revoked.write_text('{"jti": "7f"}\n')
    gate.signal(signal.SIGHUP)
    gate.wait(lambda: status(gate, "GET", "/both", one) == 401, "the end of a revoked token")
    assert status(gate, "GET", "/both", other) == 200


def test_what_was_authorised_goes_up_unchanged(gate: Gateway) -> None:
    bearer = token()
    _, seen = gate.get("/both", Authorization=f"Bearer {bearer}")
    assert header(seen, b"authorization") == f"Bearer {bearer}".encode()


def test_what_tells_of_callers_on_one_route_is_forged_on_none(gate: Gateway) -> None:
    """The backend believes the name, whichever route a request came by."""
    for path, bearing, told in (
        ("/told", token(), b"ann"), ("/told", token(sub=None), None), ("/both", token(), None), ("/split", None, None),
        ("/api/7", None, None),
    ):  # fmt: skip
        lines = {"Authorization": f"Bearer {bearing}"} if bearing else {}
        head, seen = gate.get(path, X_User="root", x_other="1", **lines)
        assert status_of(head) == 200
        assert header(seen, b"x-user") == told, path
        assert header(seen, b"x-other") == b"1"


def test_a_websocket_needs_a_token(gate: Gateway) -> None:
    with connect(gate.port) as client:
        client.send(handshake("/ws") + frame(b"early"))
        head, body = client.receive_response()
        assert status_of(head) == 401
        assert json.loads(body)["error"] == "Missing Authorization header"
        assert client.closed()
    with connect(gate.port) as client:
        client.send(handshake("/ws", f"Authorization: Bearer {token()}") + frame(b"early"))
        assert status_of(client.receive_head()) == 101
        assert read_frame(client).payload == b"early"
