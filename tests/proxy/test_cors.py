"""CORS: what pages of other origins are told, by the gateway alone, whatever the answer is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from kairos.config.load import judged, loads
from kairos.config.policies.cors import Cors
from kairos.proxy.exchange import Exchange, Filter, Handler, Response
from kairos.proxy.filters.cors import CorsFilter
from tests.support.inprocess import Chain, InProcess, in_process, serving
from tests.support.net import Peer, dead_port, echo, origin, read_request, status_of
from tests.support.ws import handshake, switching

APP = "https://app.example.com"
SECRET = "a secret of more than thirty-two bytes, for tests"
SPEC: dict[str, Any] = {
    "allowed_origins": [APP, "https://*.apps.example.com", "null"],
    "allowed_origin_patterns": [r"https://pr-\d+\.example\.com"],
    "allowed_headers": ["X-Token", "Content-Type"],
    "exposed_headers": ["X-Total", "ETag"],
    "allow_credentials": True,
    "max_age": 600,
}


def fields(head: bytes, *names: str) -> dict[str, list[str]]:
    """The values of some fields, by name; all that begin with Access-Control- where none is named."""
    found: dict[str, list[str]] = {}
    for line in head.decode().split("\r\n")[1:-2]:
        name, value = line.split(": ", 1)
        if name.lower() in names or (not names and name.lower().startswith("access-control-")):
            found.setdefault(name.lower().removeprefix("access-control-"), []).append(value)
    return found


def preflight(path: str = "/api", method: str = "GET", origin_: str | None = APP, *more: str) -> bytes:
    lines = [f"OPTIONS {path} HTTP/1.1", "Host: test", f"Access-Control-Request-Method: {method}"]
    lines += [f"Origin: {origin_}"] if origin_ is not None else []
    return "\r\n".join([*lines, *more, "", ""]).encode()


def talkative(peer: Peer) -> None:
    """A backend that has CORS headers of its own, and too many."""
    while True:
        read_request(peer)
        peer.send(
            b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\nVary: Accept\r\n"
            b"access-control-allow-CREDENTIALS: true\r\nX-Total: 7\r\nAccess-Control-Expose-Headers: *\r\n\r\nok"
        )


def chain(spec: dict[str, Any], end: Any, *before: Filter, path: str = "/api") -> Chain:
    return Chain(path, end, *before, CorsFilter(msgspec.convert(spec, Cors), ["GET", "POST"]))


@pytest.fixture(scope="module")
def served() -> Iterator[InProcess]:
    with origin(talkative) as backend:
        forward = {
            "external_path": "/api", "internal_path": "/", "methods": ["GET"], "backends": [{"host": backend.url}]
        }  # fmt: skip
        gone = {**forward, "backends": [{"host": f"http://127.0.0.1:{dead_port()}"}], "external_path": "/gone"}
        with in_process(
            chain(SPEC, forward),
            chain({"allowed_origins": ["*"], "exposed_headers": ["*"]}, forward, path="/open"),
            chain(SPEC, gone, path="/gone"),
        ) as made:
            yield made


# --- answers --------------------------------------------------------------------------------------------------------

ALLOWED = {"allow-credentials": ["true"], "expose-headers": ["X-Total, ETag"]}


@pytest.mark.parametrize(
    "name", [APP, "https://a.apps.example.com", "https://a.b.apps.example.com", "https://pr-7.example.com", "null"]
)
def test_an_origin_that_is_allowed_hears_its_name(served: InProcess, name: str) -> None:
    for _ in range(2):  # the second time from memory
        head, body = served.get("/api", f"Origin: {name}")
        assert body == b"ok"
        assert fields(head) == {"allow-origin": [name], **ALLOWED}
        assert sorted(fields(head, "vary")["vary"]) == ["Accept", "Origin"]
        assert fields(head, "x-total") == {"x-total": ["7"]}


@pytest.mark.parametrize(
    "name",
    ["https://evil.test", f"{APP}.evil.test", "https://apps.example.com", "http://app.example.com", "NULL", "x" * 2000],
)
def test_others_hear_nothing_but_that_it_depends(served: InProcess, name: str) -> None:
    head, body = served.get("/api", f"Origin: {name}")
    assert (fields(head), body) == ({}, b"ok")
    assert "Origin" in fields(head, "vary")["vary"]


def test_no_origin_no_header_but_caches_are_told(served: InProcess) -> None:
    head, _ = served.get("/api")
    assert fields(head) == {}
    assert "Origin" in fields(head, "vary")["vary"]


@pytest.mark.parametrize("lines", [[], ["Origin: https://anybody.test"], ["Origin: null"]])
def test_open_to_all_is_the_same_for_all(served: InProcess, lines: list[str]) -> None:
    head, _ = served.get("/open", *lines)
    assert fields(head) == {"allow-origin": ["*"], "expose-headers": ["*"]}
    assert fields(head, "vary") == {"vary": ["Accept"]}


def test_errors_of_the_gateway_can_be_read_too(served: InProcess) -> None:
    head, body = served.get("/gone", f"Origin: {APP}")
    assert status_of(head) == 502
    assert b"connect_failed" in body
    assert fields(head) == {"allow-origin": [APP], **ALLOWED}


def test_a_flood_of_made_up_origins_takes_no_memory_and_does_no_harm(served: InProcess) -> None:
    with served.connect() as peer:
        for at in range(1100):
            peer.send(f"GET /api HTTP/1.1\r\nHost: t\r\nOrigin: https://{at}.evil.test\r\n\r\n".encode())
            assert fields(peer.receive_response()[0]) == {}
    assert fields(served.get("/api", f"Origin: {APP}")[0])["allow-origin"] == [APP]


# --- preflights -----------------------------------------------------------------------------------------------------


def test_a_preflight_is_answered_here(served: InProcess) -> None:
    head, body = served.request(preflight())
    assert (status_of(head), body) == (204, b"")
    assert fields(head) == {
        "allow-origin": [APP], **ALLOWED, "allow-methods": ["GET, POST"],
        "allow-headers": ["X-Token, Content-Type"], "max-age": ["600"],
    }  # fmt: skip
    vary = ", ".join(fields(head, "vary")["vary"])
    assert vary == "Access-Control-Request-Method, Access-Control-Request-Headers, Origin"


def test_a_preflight_of_another_origin_hears_nothing(served: InProcess) -> None:
    head, _ = served.request(preflight(origin_="https://evil.test"))
    assert (status_of(head), fields(head)) == (204, {})


@pytest.mark.parametrize("method", ["DELETE", "BREW", "OPTIONS", "CONNECT"])
def test_a_method_nobody_serves_is_not_among_the_allowed(served: InProcess, method: str) -> None:
    head = served.request(preflight(method=method))[0]
    assert status_of(head) == 204
    assert fields(head)["allow-methods"] == ["GET, POST"]


def test_stars_are_spelt_out_for_who_asks() -> None:
    spec = {**SPEC, "allowed_methods": ["*"], "allowed_headers": ["*"], "allow_private_network": True}
    with in_process(chain(spec, Nobody())) as served:
        asked = ["Access-Control-Request-Headers: authorization,x-a", "Access-Control-Request-Private-Network: true"]
        said = fields(served.request(preflight("/api", "PUT", APP, *asked))[0])
        assert said["allow-methods"] == ["PUT"]
        assert said["allow-headers"] == ["authorization,x-a"]
        assert said["allow-private-network"] == ["true"]
        odd = ["Access-Control-Request-Headers: x-a; evil", ""]
        assert "allow-headers" not in fields(served.request(preflight("/api", "PUT", APP, odd[0]))[0])
        assert "allow-private-network" not in fields(served.request(preflight("/api", "PUT", APP))[0])


class Nobody(Handler):
    """Whom a preflight never reaches."""

    def handle(self, x: Exchange) -> Response:
        assert x.method != "OPTIONS"
        return Response(200, b"handled")


class Asks(Filter):
    """Authentication, in short."""

    def on_request(self, x: Exchange) -> None:
        x.fail_as("unauthorized", None, [(b"WWW-Authenticate", b"Bearer")])


class Closed(Filter):
    def on_request(self, x: Exchange) -> None:
        x.fail_as("forbidden")


def test_what_is_before_it_runs_and_what_is_behind_it_does_not() -> None:
    with in_process(
        Chain("/auth", Nobody(), CorsFilter(msgspec.convert(SPEC, Cors), ["GET"]), Asks()),
        Chain("/shut", Nobody(), Closed(), CorsFilter(msgspec.convert(SPEC, Cors), ["GET"]), Asks()),
    ) as served:
        assert status_of(served.request(preflight("/auth"))[0]) == 204
        head, _ = served.request(preflight("/shut"))
        assert (status_of(head), fields(head)["allow-origin"]) == (403, [APP])
        head, _ = served.get("/auth", f"Origin: {APP}")
        assert (status_of(head), fields(head)["allow-origin"]) == (401, [APP])
        plain = b"OPTIONS /auth HTTP/1.1\r\nHost: t\r\nOrigin: https://app.example.com\r\n\r\n"
        head, _ = served.request(plain)
        assert (status_of(head), "allow-methods" in fields(head)) == (204, False)
        assert b"Allow: " in head


# --- as configured --------------------------------------------------------------------------------------------------


def routes(url: str) -> list[dict[str, Any]]:
    base = {"internal_path": "/", "backends": [{"host": url}]}
    return [
        {**base, "external_path": "/a", "methods": ["GET", "OPTIONS"]},
        {**base, "external_path": "/a", "methods": ["POST"], "cors": SPEC, "auth_required": True},
        {**base, "external_path": "/off", "methods": ["GET"], "cors": {"enabled": False}},
        {**base, "external_path": "/ws", "methods": ["GET"], "protocol": "websocket", "cors": SPEC},
        {**base, "external_path": "/{any}", "methods": ["GET"], "cors": {"allowed_origins": ["*"]}},
    ]


@pytest.fixture(scope="module")
def by_config() -> Iterator[InProcess]:
    with origin(echo) as backend, serving({"routers": routes(backend.url), "jwt": {"secret": SECRET}}) as made:
        yield made


def test_the_route_is_that_of_the_method_asked_for(by_config: InProcess) -> None:
    head, _ = by_config.request(preflight("/a", "POST"))
    assert (status_of(head), fields(head)["allow-methods"]) == (204, ["POST"])
    head, body = by_config.request(preflight("/a", "GET"))  # no cors there: its OPTIONS are the backend's
    assert (status_of(head), fields(head), body[:7]) == (200, {}, b"OPTIONS")
    head, _ = by_config.request(preflight("/anything", "GET", "https://x.test"))
    assert fields(head)["allow-origin"] == ["*"]


def test_a_preflight_opens_no_way_around_the_login(by_config: InProcess) -> None:
    post = b"POST /a HTTP/1.1\r\nHost: t\r\nOrigin: https://app.example.com\r\nContent-Length: 0\r\n"
    asks = b"Access-Control-Request-Method: GET\r\n\r\n"
    head, _ = by_config.request(post + asks)
    assert (status_of(head), fields(head)["allow-origin"]) == (401, [APP])


def test_turned_off_and_handshakes(by_config: InProcess) -> None:
    head, _ = by_config.request(preflight("/off"))
    assert (status_of(head), fields(head)) == (204, {})
    head, _ = by_config.request(preflight("/ws"))
    assert (status_of(head), fields(head)) == (204, {})


def test_a_handshake_passes_where_cors_is_set() -> None:
    def grant(peer: Peer) -> None:
        peer.send(switching(read_request(peer)[0]))
        peer.receive_all()

    with origin(grant) as backend:
        base = {"internal_path": "/", "methods": ["GET"], "backends": [{"host": backend.url}], "upgrade": True}
        route = {**base, "external_path": "/ws", "cors": SPEC}
        with serving({"routers": [route]}) as served, served.connect() as peer:
            peer.send(handshake("/ws", f"Origin: {APP}"))
            assert status_of(peer.receive_head()) == 101


# --- checks ---------------------------------------------------------------------------------------------------------


def problems(**cors: Any) -> list[str]:
    file = {"routers": [{"external_path": "/", "methods": ["GET"], "backends": [{"host": "http://b"}], "cors": cors}]}
    loaded = loads(msgspec.json.encode(file), "json", "f.json")
    found = judged(loaded).problems
    return [f"{p.severity} {p.path}" for p in found if "cors" in p.path]


def test_checks() -> None:
    assert problems(**SPEC) == ["warning routers[0].cors.allowed_origins"]  # null with credentials
    assert problems(allowed_origins=["*"]) == []
    assert problems(allowed_origins=[]) == ["warning routers[0].cors"]
    assert problems(allowed_origins=["*", APP]) == ["warning routers[0].cors.allowed_origins"]
    assert problems(allowed_origins=["http://a.test"], allow_credentials=True) == [
        "warning routers[0].cors.allowed_origins[0]"
    ]
    assert problems(allowed_origins=["http://localhost:*"], allow_credentials=True) == []


# --- broken input ---------------------------------------------------------------------------------------------------

ODD = [
    "Origin: ", f"Origin: {APP},{APP}", f"Origin: {APP}\r\nOrigin: https://evil.test",
    f"Origin: https://evil.test\r\nOrigin: {APP}", "Origin: \xff\xfe", "Origin: https://\xfc.apps.example.com",
    f"Origin: {APP}/", f"Origin:{APP} x", f"ORIGIN: {APP.upper()}",
]  # fmt: skip


@pytest.mark.parametrize("line", ODD)
def test_odd_origins(served: InProcess, line: str) -> None:
    """Only the first field counts, and only as a whole."""
    head, body = served.request(f"GET /api HTTP/1.1\r\nHost: t\r\n{line}\r\n\r\n".encode("latin-1"))
    assert (status_of(head), body) == (200, b"ok")
    first = line.partition("\r\n")[0].partition(":")[2].strip()
    assert fields(head).get("allow-origin") == ([APP] if first == APP else None)


@pytest.mark.parametrize(
    "lines",
    [
        f"Origin: {APP}\r\nAccess-Control-Request-Method: ",
        "Origin: \r\nAccess-Control-Request-Method: GET",
        f"Origin: {APP}\r\nAccess-Control-Request-Method: G\xcbT",
        f"Origin: {APP}\r\nAccess-Control-Request-Method: get",
        f"Origin: {APP}\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: " + "a," * 3000,
        f"Origin: {APP}\r\nAccess-Control-Request-Method: GET\r\nContent-Length: 5",
    ],
)
def test_odd_preflights(served: InProcess, lines: str) -> None:
    """Whatever it is, it is an OPTIONS that is answered here."""
    with served.connect() as peer:
        body = "12345" if "Content-Length" in lines else ""
        peer.send(f"OPTIONS /api HTTP/1.1\r\nHost: t\r\n{lines}\r\n\r\n{body}".encode("latin-1"))
        assert status_of(peer.receive_head()) == 204
