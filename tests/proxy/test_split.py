"""Canaries and A/B tests, and copies of requests: who gets which variant, what it is sent, what is counted."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from kairos._speedups.cells import R_MIRROR_DROPPED, R_MIRRORED
from kairos.control.health import checks_of
from kairos.control.upstreams import users
from tests.support.gateway import route
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import Peer, ScriptedOrigin, echo, origin, read_request
from tests.support.tokens import SECRET, token


@pytest.fixture(scope="module")
def stable() -> Iterator[ScriptedOrigin]:
    with origin(echo) as o:
        yield o


@pytest.fixture(scope="module")
def canary() -> Iterator[ScriptedOrigin]:
    with origin(echo) as o:
        yield o


def divided(
    stable: ScriptedOrigin, canary: ScriptedOrigin, *variants: dict[str, Any], **members: Any
) -> dict[str, Any]:
    """One route with variants `a` (the route's own backends) and `b` (others), by default 80 to 20."""
    a, b = variants or ({"weight": 80}, {"weight": 20})
    other = {"name": "b", "backends": [{"host": canary.url.rpartition(":")[0], "port": canary.port}]}
    split = {"variants": [{"name": "a"} | a, other | b], **members.pop("split", {})}
    return {"routers": [route("/t", stable.url, split=split, **members)]}


def variant(gate: InProcess, *lines: str, path: str = "/t") -> str:
    """The variant that a request went to, as the backend was told."""
    found = re.search(rb"X-Variant: (.*?)\r\n", gate.get(path, *lines)[1])
    assert found is not None
    return found[1].decode()


def shares(gate: InProcess, count: int, *lines: str) -> Counter[str]:
    with gate.connect() as peer:
        return Counter(_on(peer, lines) for _ in range(count))


def _on(peer: Peer, lines: tuple[str, ...]) -> str:
    peer.send("\r\n".join(["GET /t HTTP/1.1", "Host: test", *lines, "", ""]).encode())
    found = re.search(rb"X-Variant: (.*?)\r\n", peer.receive_response()[1])
    assert found is not None
    return found[1].decode()


# ---- who gets what


def test_requests_are_divided_by_weight(stable, canary):
    with serving(divided(stable, canary)) as gate:
        found = shares(gate, 2000)  # the worker's seed is 1: always the same numbers
        assert 0.17 < found["b"] / 2000 < 0.23
        assert found["a"] + found["b"] == 2000
        gate.wait(gate.at_rest, "rest")


@pytest.mark.parametrize("weights", [(1, 0), (0, 1)])
def test_a_weight_of_nothing_gets_nothing(stable, canary, weights):
    with serving(divided(stable, canary, {"weight": weights[0]}, {"weight": weights[1]})) as gate:
        assert set(shares(gate, 100)) == {"ab"[weights.index(1)]}


def test_each_variant_has_its_own_backends_and_series(stable, canary):
    with serving(
        divided(stable, canary, {"weight": 1, "internal_path": "/old"}, {"when": "header('x-canary')"})
    ) as gate:
        assert gate.get("/t?q=1")[1].startswith(b"GET /old?q=1 ")
        assert gate.get("/t", "X-Canary: 1")[1].startswith(b"GET /t ")
        assert gate.wait_access(route="/t@a")["upstream"] == stable.url
        assert gate.wait_access(route="/t@b")["upstream"] == canary.url
        series = gate.runtime.snapshot.services.route_block
        assert len({series(name) for name in ("none", "/t", "/t@a", "/t@b")}) == 4


@pytest.mark.parametrize(
    ("when", "lines", "path", "expected"),
    [
        ("header('x-canary') == 'always'", ["X-Canary: always"], "/t", "b"),
        ("header('x-canary') == 'always'", ["X-Canary: never"], "/t", "a"),
        ("cookie('beta') == '1'", ["Cookie: x=1; beta=1"], "/t", "b"),
        ("cookie('beta') == '1'", [], "/t", "a"),
        ("query('v') in ('b', 'B')", [], "/t?v=B", "b"),
        ("client_ip =~ '^127[.]'", [], "/t", "b"),
    ],
)
def test_conditions_go_before_weights(stable, canary, when, lines, path, expected):
    with serving(divided(stable, canary, {"weight": 1}, {"when": when})) as gate:
        assert variant(gate, *lines, path=path) == expected


def test_variants_set_headers_of_their_own(stable, canary):
    b = {"when": "header('x-canary')", "headers": {"X-A": "1", "X-B": "{{ headers.x-canary }}"}}
    with serving(divided(stable, canary, {"weight": 1}, b, split={"header": None})) as gate:
        seen = gate.get("/t", "X-Canary: who", "X-A: 0")[1]
        assert b"X-A: 1\r\nX-B: who\r\n" in seen
        assert b"X-A: 0" not in seen
        assert b"X-Variant" not in seen


def test_a_client_cannot_say_which_variant_it_is(stable, canary):
    with serving(divided(stable, canary, {"weight": 1}, {"weight": 0, "when": "path == '/none'"})) as gate:
        assert gate.get("/t", "X-Variant: b")[1].count(b"X-Variant: ") == 1
        assert variant(gate, "X-Variant: b") == "a"


# ---- stickiness


def cookie(head: bytes) -> str | None:
    found = re.search(rb"Set-Cookie: (.*?)\r\n", head)
    return None if found is None else found[1].decode()


def test_a_cookie_keeps_a_client_where_it_is(stable, canary):
    with serving(divided(stable, canary, split={"sticky": {"secret": "s" * 32, "max_age": 60}})) as gate:
        given: dict[str, str] = {}
        while len(given) < 2:
            head, body = gate.get("/t")
            made = cookie(head)
            assert made is not None
            assert made.endswith("; Path=/; Max-Age=60; HttpOnly; SameSite=Lax")
            given[variant_of(head, body)] = made.partition(";")[0]
        assert given["a"] != given["b"]
        for name, pair in given.items():
            assert shares(gate, 50, f"Cookie: {pair}") == {name: 50}
            assert cookie(gate.get("/t", f"Cookie: {pair}")[0]) is None  # it has it already


def variant_of(_: bytes, body: bytes) -> str:
    found = re.search(rb"X-Variant: (.*?)\r\n", body)
    assert found is not None
    return found[1].decode()


def test_a_cookie_is_made_by_the_gateway_only(stable, canary):
    config = divided(stable, canary, split={"sticky": {"secret": "s" * 32}})
    with serving(config) as gate:
        for forged in ("b", "", "a" * 5000, '"b"'):
            assert len(shares(gate, 60, f"Cookie: kairos_variant={forged}")) == 2
            assert cookie(gate.get("/t", f"Cookie: kairos_variant={forged}")[0]) is not None


def test_the_cookie_of_a_variant_that_was_called_off_counts_no_longer(stable, canary):
    sticky = {"sticky": {"secret": "s" * 32}}
    with serving(divided(stable, canary, {"weight": 0}, {"weight": 1}, split=sticky)) as gate:
        pair = str(cookie(gate.get("/t")[0])).partition(";")[0]
        gate.configure(divided(stable, canary, {"weight": 1}, {"weight": 0, "when": "header('x-b')"}, split=sticky))
        head, body = gate.get("/t", f"Cookie: {pair}")
        assert variant_of(head, body) == "a"
        assert cookie(head) is not None
        assert cookie(gate.get("/t", "X-B: 1")[0]) is None  # a condition decides each time anew


def test_a_hash_of_the_client_keeps_it_where_it_is(stable, canary):
    config = divided(stable, canary, {"weight": 1}, {"weight": 1}, split={"sticky": {"by": "client_ip"}})
    config["trusted_proxies"] = ["127.0.0.0/8"]
    with serving(config) as gate:
        found = {n: shares(gate, 3, f"X-Forwarded-For: 10.0.{n}.1") for n in range(200)}
        assert all(len(chosen) == 1 for chosen in found.values())
        ones = sum("a" in chosen for chosen in found.values())
        assert 70 < ones < 130
        gate.configure(config)
        assert {n: shares(gate, 1, f"X-Forwarded-For: 10.0.{n}.1").keys() for n in range(200)} == {
            n: chosen.keys() for n, chosen in found.items()
        }


def test_a_growing_canary_keeps_who_it_has(stable, canary):
    def chosen(gate: InProcess) -> set[int]:
        return {n for n in range(200) if "b" in shares(gate, 1, f"X-Forwarded-For: 10.0.{n}.1")}

    config, more = (
        divided(stable, canary, {"weight": 100 - n}, {"weight": n}, split={"sticky": {"by": "client_ip"}})
        for n in (20, 50)
    )
    config["trusted_proxies"] = more["trusted_proxies"] = ["127.0.0.0/8"]
    with serving(config) as gate:
        few = chosen(gate)
        gate.configure(more)
        assert few < chosen(gate)


def test_a_user_stays_whatever_the_address(stable, canary):
    config = divided(
        stable, canary, {"weight": 1}, {"weight": 1}, split={"sticky": {"by": "identity"}}, auth_required=True
    )
    config |= {"jwt": {"secret": SECRET}, "trusted_proxies": ["127.0.0.0/8"]}
    with serving(config) as gate:
        seen = set()
        for user in range(20):
            bearer = f"Authorization: Bearer {token(sub=f'user-{user}')}"
            found = {name for n in range(3) for name in shares(gate, 1, bearer, f"X-Forwarded-For: 10.0.{n}.1")}
            assert len(found) == 1
            seen |= found
        assert seen == {"a", "b"}


# ---- what else knows of variants


def test_backends_of_variants_are_checked_and_listed():
    checked_one = {"host": "http://b", "health_check_path": "/up"}
    split = {"variants": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1, "backends": [checked_one]}]}
    mirror = {"backends": [{"host": "http://m"}]}
    config = checked({"routers": [route("/t", "http://a:80", split=split, mirror=mirror)]})
    assert list(checks_of(config)) == ["http://b:80"]
    assert users(config) == {"http://a:80": ["/t", "/t@a"], "http://b:80": ["/t@b"], "http://m:80": ["/t@mirror"]}


def test_the_breaker_of_a_variant_is_its_own(stable):
    refusing = {"host": "http://127.0.0.1", "port": 1}
    config = divided(stable, stable, {"weight": 1}, {"when": "header('x-b')", "backends": [refusing]},
                     circuit_breaker={"failure_threshold": 2})  # fmt: skip
    with serving(config) as gate:
        codes = [json.loads(gate.get("/t", "X-B: 1")[1])["code"] for _ in range(4)]
        assert codes == ["connect_failed", "connect_failed", "circuit_open", "circuit_open"]
        assert gate.get("/t")[0].startswith(b"HTTP/1.1 200 ")


# ---- mirrors


class Recorder:
    """An origin that keeps what it got."""

    def __init__(self, response: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") -> None:
        self.got: list[tuple[bytes, bytes]] = []
        self.response = response

    def __call__(self, peer: Peer) -> None:
        while True:
            self.got.append(read_request(peer))
            peer.send(self.response)


def mirrored(main: ScriptedOrigin, copy: ScriptedOrigin, **members: Any) -> dict[str, Any]:
    mirror = {"backends": [{"host": copy.url.rpartition(":")[0], "port": copy.port}], **members}
    return {"routers": [route("/t/{id}", main.url, "/t/{id}", mirror=mirror)]}


def test_copies_go_to_the_mirror_without_credentials(stable):
    recorder = Recorder()
    with origin(recorder) as copy, serving(mirrored(stable, copy)) as gate:
        body = b"x" * 1000
        lines = ["Authorization: Bearer t", "Cookie: a=1", "X-A: 1", f"Content-Length: {len(body)}"]
        head, _ = gate.request("\r\n".join(["POST /t/7?q=1 HTTP/1.1", "Host: test", *lines, "", ""]).encode() + body)
        assert head.startswith(b"HTTP/1.1 200 ")
        gate.wait(lambda: len(recorder.got) == 1, "copy")
        head, got = recorder.got[0]
        assert head.startswith(b"POST /t/7?q=1 HTTP/1.1\r\n")
        assert got == body
        assert b"X-Mirrored-Request: 1\r\n" in head
        assert b"X-A: 1\r\n" in head
        assert b"X-Forwarded-For: 127.0.0.1\r\n" in head
        assert b"Authorization" not in head
        assert b"Cookie" not in head
        gate.wait(lambda: gate.route_cell(R_MIRRORED) == 1, "count")
        assert gate.route_cell(R_MIRROR_DROPPED) == 0
        gate.wait_access(path="/t/7")
        assert len(gate.access_lines()) == 1  # copies are nobody's requests


def test_copies_are_what_was_sent_upstream(stable):
    recorder = Recorder()
    with origin(recorder) as copy:
        config = mirrored(stable, copy, internal_path="/m/{id}", credentials=True, header=None)
        config["routers"][0]["request_transformation"] = {
            "headers": [{"action": "set", "name": "X-A", "value": "2"}, {"action": "remove", "name": "X-B"}],
            "body": {"set": {"/b": 2}},
        }
        with serving(config) as gate:
            gate.request(
                b"POST /t/7 HTTP/1.1\r\nHost: t\r\nCookie: a=1\r\nX-A: 1\r\nX-B: 1\r\n"
                b"Content-Type: application/json\r\n"
                b'Transfer-Encoding: chunked\r\n\r\n7\r\n{"a":1}\r\n0\r\n\r\n'
            )
            gate.wait(lambda: len(recorder.got) == 1, "copy")
            head, body = recorder.got[0]
            assert head.startswith(b"POST /m/7 HTTP/1.1\r\n")
            assert body == b'{"a":1,"b":2}'
            assert b"X-A: 2\r\n" in head
            assert b"X-B" not in head
            assert b"Cookie: a=1\r\n" in head
            assert b"X-Mirrored" not in head


def test_some_requests_are_copied(stable):
    recorder = Recorder()
    with origin(recorder) as copy, serving(mirrored(stable, copy, when="params.id == 'yes'")) as gate:
        for path in ("/t/no", "/t/yes", "/t/no"):
            gate.get(path)
        gate.wait(lambda: len(recorder.got) == 1, "copy")
        assert (gate.route_cell(R_MIRRORED), gate.route_cell(R_MIRROR_DROPPED)) == (1, 0)


@pytest.mark.parametrize(
    "framing", ["Content-Length: 100\r\n\r\n%b", "Transfer-Encoding: chunked\r\n\r\n64\r\n%b\r\n0\r\n\r\n"]
)
def test_large_bodies_are_not_copied_and_pass_all_the_same(stable, framing):
    recorder = Recorder()
    with origin(recorder) as copy, serving(mirrored(stable, copy, body_bytes=99)) as gate:
        body = gate.request(b"POST /t/7 HTTP/1.1\r\nHost: t\r\n" + framing.encode() % (b"x" * 100))[1]
        assert body.endswith(b"x" * 100)
        gate.wait(lambda: gate.route_cell(R_MIRROR_DROPPED) == 1, "count")
        assert recorder.got == []


def test_a_mirror_that_hangs_costs_nobody_anything(stable):
    def hang(peer: Peer) -> None:
        peer.receive_until(b"never")

    with origin(hang) as copy, serving(mirrored(stable, copy, max_in_flight=2)) as gate:
        for _ in range(5):
            assert gate.get("/t/7")[0].startswith(b"HTTP/1.1 200 ")
        gate.wait(lambda: gate.route_cell(R_MIRROR_DROPPED) == 3, "drop")
        assert gate.route_cell(R_MIRRORED) == 2


@pytest.mark.parametrize("response", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 500 X\r\nContent-Length: 5\r\n\r\nab"])
def test_a_broken_mirror_costs_nobody_anything(stable, response):
    def broken(peer: Peer) -> None:
        peer.receive_head()
        peer.send(response)

    with origin(broken) as copy, serving(mirrored(stable, copy)) as gate:
        for _ in range(3):
            assert gate.get("/t/7")[0].startswith(b"HTTP/1.1 200 ")
        gate.wait(lambda: gate.route_cell(R_MIRRORED) == 3, "copies")
        assert gate.reports == []


def test_a_mirror_nobody_listens_at_costs_nobody_anything(stable):
    config = mirrored(stable, stable)
    config["routers"][0]["mirror"]["backends"] = [{"host": "http://127.0.0.1", "port": 1}]
    with serving(config) as gate:
        for _ in range(8):
            assert gate.get("/t/7")[0].startswith(b"HTTP/1.1 200 ")
        gate.wait(lambda: gate.route_cell(R_MIRRORED) == 8, "copies")
        assert gate.reports == []
