"""Transformation, as backends and clients see it: rules for headers, paths, queries, statuses and JSON bodies.

The first tables are the cases that kairos-rs's own tests assert of its rules.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import brotli
import pytest
from backports import zstd

from tests.support.gateway import route
from tests.support.inprocess import InProcess, serving
from tests.support.net import Peer, ScriptedOrigin, echo, origin, read_request


@pytest.fixture(scope="module")
def echoing() -> Iterator[ScriptedOrigin]:
    with origin(echo) as o:
        yield o


def answering(response: bytes) -> Any:
    """An origin's script: the same response to every request."""

    def play(peer: Peer) -> None:
        while True:
            read_request(peer)
            peer.send(response)

    return play


def answer(body: bytes = b"", *lines: str, status: int = 200) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} X", *lines, f"Content-Length: {len(body)}", "", ""])
    return head.encode() + body


OURS = (b"X-Forwarded-", b"X-Request-Id", b"X-Content-Type-Options", b"X-Frame-Options")


def fields(head: bytes) -> list[bytes]:
    """The X- field lines of a head but for the gateway's own, in order."""
    lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    return [line for line in lines if line[:2].upper() == b"X-" and not line.startswith(OURS)]


def sent(gate: InProcess, path: str, *lines: str) -> tuple[bytes, list[bytes]]:
    """Target and X- fields that the backend of an echoing route got."""
    seen = gate.get(path, *lines)[1]
    return seen.split(b" ")[1], fields(seen)


def ruled(o: ScriptedOrigin, *rules: dict[str, Any], path: str = "/t", **members: Any) -> dict[str, Any]:
    """A configuration of one route with these header rules for requests."""
    return {"routers": [route(path, o.url, request_transformation={"headers": list(rules), **members})]}


def rule(action: str, name: str, value: str | None = None, **members: str) -> dict[str, Any]:
    return {"action": action, "name": name, **({} if value is None else {"value": value}), **members}


# ---- request headers

HEADERS = [
    ([rule("add", "X-A", "1"), rule("add", "X-B", "2")], [], [b"X-A: 1", b"X-B: 2"]),
    ([rule("add", "X-A", "1")], ["X-A: 0"], [b"X-A: 0"]),
    ([rule("add", "X-A", "1"), rule("add", "X-A", "2")], [], [b"X-A: 1"]),
    ([rule("set", "X-A", "1")], ["x-a: 0", "X-A: 00"], [b"X-A: 1"]),
    ([rule("remove", "X-A")], ["X-A: 0", "X-B: 1", "x-A: 2"], [b"X-B: 1"]),
    ([rule("append", "X-A", "1")], ["X-A: 0"], [b"X-A: 0", b"X-A: 1"]),
    (
        [rule("replace", "X-Agent", pattern=r"Mozilla/(\d+\.\d+)", replacement="KairosGateway/5.0 (compatible)")],
        ["X-Agent: Mozilla/5.0 (X11)"],
        [b"X-Agent: KairosGateway/5.0 (compatible) (X11)"],
    ),
    ([rule("replace", "X-A", pattern="a", replacement="b")], ["X-A: aa", "X-A: ca"], [b"X-A: bb", b"X-A: cb"]),
    ([rule("replace", "X-A", pattern="a", replacement="b")], [], []),
    ([rule("replace", "X-A", pattern="z", replacement="b")], ["X-A: aa"], [b"X-A: aa"]),
    ([rule("set", "X-A"), rule("add", "X-B"), rule("replace", "X-C", pattern="a")], ["X-C: a"], [b"X-C: a"]),
    # in their order: what a rule made is what the next one finds
    ([rule("set", "X-B", "{{ headers.x-a }}"), rule("remove", "X-A")], ["X-A: 0"], [b"X-B: 0"]),
    ([rule("set", "X-A", "n"), rule("set", "X-B", "{{ headers.x-a }}")], ["X-A: 0"], [b"X-A: n", b"X-B: n"]),
    ([rule("set", "X-A", "aa"), rule("replace", "X-A", pattern="a$", replacement="{{ method }}")], [], [b"X-A: aGET"]),
    ([rule("remove", "X-A"), rule("add", "X-A", "new")], ["X-A: 0"], [b"X-A: new"]),
]


@pytest.mark.parametrize(("rules", "given", "expected"), HEADERS)
def test_request_headers_are_edited_in_the_order_of_the_rules(echoing, rules, given, expected):
    with serving(ruled(echoing, *rules)) as gate:
        assert sent(gate, "/t", *given)[1] == expected


TEMPLATES = [
    ("{{ params.id }}-{{ params.rest }}", b"a b-x/y"),
    ("{{ query.q }}|{{ query.none }}|{{ query['a b'] }}", b"1 +||2"),
    ("{{ cookies.sid }}", b"abc"),
    ("{{ method }} {{ host }} {{ path }} {{ scheme }}", b"GET test /u/a%20b/x/y http"),
    ("{{ client_ip }}", b"127.0.0.1"),
    ("{{ route }}", b"/u/{id}/{rest:path}"),
    ("{{ claims.sub ?? subject ?? 'nobody' }}", b"nobody"),
    ("{{ '{{' }}x{{ '}}' }} {y}", b"{{x}} {y}"),
    ("{{ header('Accept') }}", b"caf\xe9"),
]


@pytest.mark.parametrize(("template", "expected"), TEMPLATES)
def test_values_are_templates(echoing, template, expected):
    config = ruled(echoing, rule("set", "X-V", template), path="/u/{id}/{rest:path}")
    request = (
        b"GET /u/a%20b/x/y?q=1%20%2B&q=2&a+b=2 HTTP/1.1\r\nHost: test\r\nAccept: caf\xe9\r\n"
        b"Cookie: x=1; sid=abc\r\n\r\n"
    )
    with serving(config) as gate:
        assert fields(gate.request(request)[1]) == [b"X-V: " + expected]


@pytest.mark.parametrize("escape", ["%0d%0aX-Evil:%201", "%0a", "%00"])
def test_no_value_breaks_a_head_apart(echoing, escape):
    config = ruled(echoing, rule("set", "X-V", "{{ params.id }}"), path="/u/{id}")
    with serving(config) as gate:
        head, body = gate.get(f"/u/a{escape}b")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["code"] in ("bad_value", "bad_target")
        assert sent(gate, "/u/ab")[1] == [b"X-V: ab"]


def test_values_of_a_query_break_no_head_apart_either(echoing):
    with serving(ruled(echoing, rule("append", "X-V", "{{ query.v }}"))) as gate:
        head, body = gate.get("/t?v=a%0d%0aX-Evil:+1")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["code"] == "bad_value"
        assert gate.reports == []


# ---- path

PATHS = [
    ("/api/v1/(.+)", "/v2/$1", "/api/v1/users", b"/v2/users"),
    ("^/api", "", "/api/users", b"/users"),
    ("^/", "/prefix/", "/users", b"/prefix/users"),
    ("/api/v1/(\\w+)/(\\d+)", "/v1/api/$1/${2}", "/api/v1/users/123", b"/v1/api/users/123"),
    ("/nothing", "/x", "/users", b"/users"),
    ("a", "b", "/aaa", b"/baa"),
    ("(?P<word>se)", "$${word}-$word", "/users", b"/use-sers"),
    ("^/search/(.*)$", "/find?q=$1", "/search/x?n=1", b"/find?q=x&n=1"),
    ("^/(.*)$", "/{{ query.tenant }}/$1", "/a?tenant=x/y%20z", b"/x%2Fy%20z/a?tenant=x/y%20z"),
    ("^/strip", "/", "/strip//evil.org", b"/evil.org"),
    ("^(.*)$", "$1", "/a%2Fb/%41", b"/a%2Fb/A"),
]


@pytest.mark.parametrize(("pattern", "replacement", "path", "expected"), PATHS)
def test_the_first_match_in_the_path_is_replaced(echoing, pattern, replacement, path, expected):
    config = {
        "routers": [
            route("/{rest:path}", echoing.url, "/{rest}",
                  request_transformation={"path": {"pattern": pattern, "replacement": replacement}})
        ]
    }  # fmt: skip
    with serving(config) as gate:
        assert sent(gate, path)[0] == expected


def test_the_path_is_edited_after_the_internal_path_was_filled_in(echoing):
    config = ruled(echoing, path="/old/{id}")
    config["routers"][0]["internal_path"] = "/new/{id}?v=1"
    config["routers"][0]["request_transformation"] = {"path": {"pattern": "^/new", "replacement": "/newer"}}
    with serving(config) as gate:
        assert sent(gate, "/old/7?x=2")[0] == b"/newer/7?v=1&x=2"


@pytest.mark.parametrize("value", ["..", ".", "%2e%2e", "%252e%252e/x"])
def test_no_value_leads_out_of_a_path(echoing, value):
    config = ruled(echoing)
    config["routers"][0]["request_transformation"] = {
        "path": {"pattern": "^.*$", "replacement": "/files/{{ query.name }}/x"}
    }
    with serving(config) as gate:
        head, body = gate.get(f"/t?name={value}")
        if head.startswith(b"HTTP/1.1 400 "):
            assert json.loads(body)["code"] == "bad_target"
        else:  # still one segment below /files/
            assert body.startswith(b"GET /files/%252e%252e%2Fx/x?")


# ---- query

QUERIES = [
    ([rule("add", "a", "1"), rule("add", "b", "2")], "", b"?a=1&b=2"),
    ([rule("add", "a", "1")], "?a=0&a=00", b"?a=0&a=00"),
    ([rule("set", "a", "1")], "?a=0&b=2&a=3&c", b"?a=1&b=2&c"),
    ([rule("set", "a", "1")], "?b=2", b"?b=2&a=1"),
    ([rule("remove", "a")], "?a=0&b=%20&a=3", b"?b=%20"),
    ([rule("remove", "a")], "?a=0", b""),
    ([rule("append", "a", "x y&z")], "?a=0", b"?a=0&a=x%20y%26z"),
    ([rule("replace", "a", pattern="(x) y", replacement="$1-{{ method }}")], "?a=x+y&b=x+y&a=n", b"?a=x-GET&b=x+y&a=n"),
    ([rule("remove", "a b")], "?a+b=1&a%20b=2&c=3", b"?c=3"),
    ([rule("set", "who", "{{ query.a }}")], "?a=%C3%A9", b"?a=%C3%A9&who=%C3%A9"),
    ([rule("set", "a"), rule("replace", "b", pattern="x")], "?a=1&b=x", b"?a=1&b=x"),
]


@pytest.mark.parametrize(("rules", "query", "expected"), QUERIES)
def test_query_parameters_are_edited_and_others_left_alone(echoing, rules, query, expected):
    config = {"routers": [route("/t", echoing.url, request_transformation={"query_params": rules})]}
    with serving(config) as gate:
        assert sent(gate, f"/t{query}")[0] == b"/t" + expected


# ---- responses

OLD = [b"X-Old: 1", b"X-Old: 11"]
RESPONSES = [
    ([rule("add", "X-Powered-By", "Kairos"), rule("remove", "X-Server")], [*OLD, b"X-Powered-By: Kairos"]),
    ([rule("add", "X-Old", "2")], [b"X-Server: nginx", *OLD]),
    ([rule("set", "X-Old", "{{ status }}-{{ response_headers.x-server }}")], [b"X-Server: nginx", b"X-Old: 200-nginx"]),
    ([rule("replace", "X-Old", pattern="1", replacement="2")], [b"X-Server: nginx", b"X-Old: 2", b"X-Old: 22"]),
    ([rule("append", "X-Old", "3")], [b"X-Server: nginx", *OLD, b"X-Old: 3"]),
    ([rule("set", "X-New", "{{ headers.x-q }}")], [b"X-Server: nginx", *OLD, b"X-New: q"]),
]


@pytest.mark.parametrize(("rules", "expected"), RESPONSES)
def test_response_headers_are_edited(rules, expected):
    lines = ["X-Server: nginx", "X-Old: 1", "X-Old: 11", "Content-Type: text/plain"]
    with origin(answering(answer(b"hi", *lines))) as o:
        config = {"routers": [route("/t", o.url, response_transformation={"headers": rules})]}
        with serving(config) as gate:
            head, body = gate.get("/t", "X-Q: q")
            assert fields(head) == expected
            assert b"Content-Type: text/plain\r\n" in head
            assert body == b"hi"


MAPPED = [
    (404, [{"from": 404, "to": 200}], 200),
    (502, [{"from": 404, "to": 200}, {"from": 502, "to": 503}], 503),
    (200, [{"from": 404, "to": 200}], 200),
    (404, [{"from": 404, "to": 410}, {"from": 404, "to": 200}], 410),
    (404, [{"from": 404, "to": 410, "condition": "path == '/other'"}, {"from": 404, "to": 200}], 200),
    (404, [{"from": 404, "to": 200, "condition": "path == '/t' and method in ('GET', 'HEAD')"}], 200),
    (404, [{"from": 404, "to": 200, "condition": "header('x-q') =~ '^q+$' and status >= 400"}], 200),
    (404, [{"from": 404, "to": 200, "condition": "not response_header('x-gone')"}], 404),
    (404, [{"from": 404, "to": 200, "condition": "query('n') > 9 or query('n') != '10'"}], 200),
    (404, [{"from": 404, "to": 200, "condition": "query('none') < 5"}], 404),
]


@pytest.mark.parametrize(("status", "mappings", "shown"), MAPPED)
def test_a_status_is_shown_as_another_where_its_condition_holds(status, mappings, shown):
    with origin(answering(answer(b"body", "X-Gone: yes", status=status))) as o:
        config = {"routers": [route("/t", o.url, response_transformation={"status_code_mappings": mappings})]}
        with serving(config) as gate:
            head, body = gate.get("/t?n=10", "X-Q: qq")
            assert head.startswith(b"HTTP/1.1 %d " % shown)
            assert body == b"body"
            gate.wait_access(status=shown)


def test_combined_rules_work_together(echoing):
    config = ruled(echoing, rule("set", "X-Gateway", "kairos"), rule("remove", "X-Debug"), path="/api/{id}")
    config["routers"][0]["request_transformation"] |= {
        "path": {"pattern": "^/api/(.*)", "replacement": "/v2/$1"},
        "query_params": [rule("set", "v", "2")],
    }
    config["routers"][0]["response_transformation"] = {
        "headers": [rule("add", "X-Answered-By", "kairos")],
        "status_code_mappings": [{"from": 200, "to": 203}],
    }
    with serving(config) as gate:
        head, seen = gate.get("/api/7?v=1", "X-Debug: 1")
        assert head.startswith(b"HTTP/1.1 203 ")
        assert fields(head) == [b"X-Answered-By: kairos"]
        assert seen.startswith(b"GET /v2/7?v=2 HTTP/1.1\r\n")
        assert fields(seen) == [b"X-Gateway: kairos"]


# ---- bodies


def post(body: bytes, *lines: str, path: str = "/t") -> bytes:
    typed = any(line.startswith("Content-Type") for line in lines)
    given = lines if typed else ("Content-Type: application/json", *lines)
    head = [f"POST {path} HTTP/1.1", "Host: test", *given, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


BODIES: list[tuple[dict[str, Any], Any, Any]] = [
    ({"template": {"data": "{{ body }}", "who": "{{ headers.x-user }}"}}, [1, None], {"data": [1, None], "who": 'a"b'}),
    ({"template": {"n": "{{ body.user.age }}", "t": "age: {{ body.user.age }}"}}, {"user": {"age": 7}},
     {"n": 7, "t": "age: 7"}),
    ({"template": {"first": "{{ body.items[0].id }}", "none": "{{ body.no.thing }}"}}, {"items": [{"id": "x"}]},
     {"first": "x", "none": None}),
    ({"template": {"d": "{{ body.no ?? 'default' }}", "k": ["{{ method }}", 1, True]}}, {},
     {"d": "default", "k": ["POST", 1, True]}),
    ({"remove": ["/password", "/user/secret", "/list/0", "/not/there"]},
     {"password": 1, "user": {"secret": 2, "a": 3}, "list": [1, 2]}, {"user": {"a": 3}, "list": [2]}),
    ({"set": {"/user/id": "{{ headers.x-user }}", "/a~1b": 1, "/list/-": "{{ body.n }}"}}, {"list": [], "n": 1.5},
     {"list": [1.5], "n": 1.5, "user": {"id": 'a"b'}, "a/b": 1}),
    ({"set": {"/x/y": 1}}, {"x": "text"}, {"x": {"y": 1}}),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "given", "expected"), BODIES)
def test_json_bodies_of_requests_are_made_anew(echoing, rules, given, expected):
    with serving(ruled(echoing, body=rules)) as gate:
        head, seen = gate.request(post(json.dumps(given).encode(), 'X-User: a"b'))
        assert head.startswith(b"HTTP/1.1 200 ")
        assert json.loads(seen.partition(b"\r\n\r\n")[2]) == expected
        assert gate.reports == []


@pytest.mark.parametrize(("rules", "given", "expected"), BODIES[1:4])
def test_json_bodies_of_responses_are_made_anew(rules, given, expected):
    body = json.dumps(given).encode()
    with origin(answering(answer(body, "Content-Type: application/vnd.api+json", 'ETag: "1"'))) as o:
        config = {"routers": [route("/t", o.url, response_transformation={"body": rules})]}
        with serving(config) as gate:
            head, shown = gate.request(post(b"{}"))
            assert json.loads(shown) == expected
            assert b"ETag" not in head


REFUSED = [
    (post(b"a=1", "Content-Type: application/x-www-form-urlencoded"), 415),
    (post(b"\x1f\x8b", "Content-Encoding: gzip"), 400),
    (post(b"{}", "Content-Encoding: rot13"), 415),
    (post(b"{nope"), 400),
    (post(b"[" * 300 + b"]" * 300), 400),
    (post(b'"' + b"x" * 100 + b'"'), 413),
    (b"POST /t HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
     b"64\r\n" + b"1" * 100 + b"\r\n0\r\n\r\n", 413),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "status"), REFUSED)
def test_bodies_that_the_rules_cannot_be_applied_to_are_refused(echoing, request_, status):
    with serving(ruled(echoing, body={"remove": ["/role"], "limit": 64 if status == 413 else 1000})) as gate:
        assert gate.request(request_)[0].startswith(b"HTTP/1.1 %d " % status)
        assert gate.reports == []


def test_bodies_that_the_rules_cannot_be_applied_to_may_pass(echoing):
    with serving(ruled(echoing, body={"remove": ["/role"], "limit": 10, "others": "pass"})) as gate:
        for request in (REFUSED[0][0], REFUSED[5][0]):
            assert gate.request(request)[0].startswith(b"HTTP/1.1 200 ")


def test_a_body_that_is_sent_encoded_is_edited_all_the_same(echoing):
    with serving(ruled(echoing, body={"remove": ["/role"]})) as gate:
        body = gzip.compress(b'{"role":"admin","a":1}')
        seen = gate.request(post(body, "Content-Encoding: gzip"))[1]
    assert seen.endswith(b'\r\n\r\n{"a":1}')
    assert b"Content-Encoding" not in seen


def test_requests_without_a_body_pass(echoing):
    with serving(ruled(echoing, body={"remove": ["/role"]})) as gate:
        assert gate.get("/t")[0].startswith(b"HTTP/1.1 200 ")
        assert gate.request(post(b""))[0].startswith(b"HTTP/1.1 200 ")


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(echoing):
    with serving(ruled(echoing, body={"set": {"/a": 2}})) as gate, gate.connect() as peer:
        peer.send(b"POST /t HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: 7\r\n"
                  b"Expect: 100-continue\r\n\r\n")  # fmt: skip
        assert peer.receive_head().startswith(b"HTTP/1.1 100 ")
        peer.send(b'{"a":1}')
        assert peer.receive_response()[1].endswith(b'{"a":2}')


ODD = [
    (answer(b"<html>", "Content-Type: text/html"), "upstream_body"),
    (answer(b"\x1f\x8b", "Content-Type: application/json", "Content-Encoding: gzip"), "upstream_body"),
    (answer(b'"' + b"x" * 200 + b'"', "Content-Type: application/json"), "upstream_body"),
]


@pytest.mark.parametrize(("response", "code"), ODD)
def test_responses_that_the_rules_cannot_be_applied_to_are_not_shown(response, code):
    for others in ("reject", "pass"):
        rules = {"remove": ["/secret"], "limit": 100, "others": others}
        with origin(answering(response)) as o:
            config = {"routers": [route("/t", o.url, response_transformation={"body": rules})]}
            with serving(config) as gate:
                head, body = gate.get("/t")
                if others == "reject":
                    assert head.startswith(b"HTTP/1.1 502 ")
                    assert json.loads(body)["code"] == code
                else:
                    assert body == response.partition(b"\r\n\r\n")[2]
                assert gate.reports == []


CODED = [("gzip", gzip.compress, gzip.decompress), ("br", brotli.compress, brotli.decompress),
         ("zstd", zstd.compress, zstd.decompress), ("x-gzip", gzip.compress, gzip.decompress)]  # fmt: skip


@pytest.mark.parametrize(("coding", "write", "read"), CODED, ids=[name for name, _, _ in CODED])
def test_a_body_that_comes_compressed_all_the_same_is_rewritten_and_stays_so(coding: str, write: Any, read: Any):
    body = write(b'{"secret": 1, "a": "' + b"x" * 500 + b'"}')
    fields = ("Content-Type: application/json", f"Content-Encoding: {coding}", 'ETag: "1"')
    with origin(answering(answer(body, *fields))) as o:
        config = {"routers": [route("/t", o.url, response_transformation={"body": {"remove": ["/secret"]}})]}
        with serving(config) as gate:
            head, got = gate.get("/t", "Accept-Encoding: gzip, br, zstd")
    assert json.loads(read(got)) == {"a": "x" * 500}
    assert f"Content-Encoding: {coding}".encode() in head
    assert b"ETag" not in head


BOMB = b'{"a": "' + b"x" * 200_000 + b'"}'


@pytest.mark.parametrize("others", ["reject", "pass"])
@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(b'{"a": 1}')[:-6]),
        ("br", b"\xff\xff\xff"),
        ("zstd", gzip.compress(b"{}")),
        ("gzip", gzip.compress(BOMB)),
        ("zstd", zstd.compress(BOMB)),
        ("gzip", gzip.compress(b"<html>")),
        ("deflate", b"x"),
        ("gzip, br", b"x"),
    ],
    ids=["cut", "no brotli", "no zstd", "a gzip bomb", "a zstd bomb", "no JSON in it", "deflate", "two"],
)
def test_compressed_bodies_that_cannot_be_read_pass_or_not(coding: str, body: bytes, others: str):
    rules = {"remove": ["/secret"], "limit": 100_000, "others": others}
    fields = ("Content-Type: application/json", f"Content-Encoding: {coding}")
    with origin(answering(answer(body, *fields))) as o:
        config = {"routers": [route("/t", o.url, response_transformation={"body": rules})]}
        with serving(config) as gate:
            head, got = gate.get("/t")
            if others == "pass":
                assert got == body
                assert f"Content-Encoding: {coding}".encode() in head
            else:
                assert head.startswith(b"HTTP/1.1 502 ")
            assert gate.reports == []


@pytest.mark.parametrize("body", [b"{nope", b'"' + b"x" * 200 + b'"'])
@pytest.mark.parametrize("others", ["reject", "pass"])
def test_what_turns_out_to_be_no_json_is_cut_or_passes(body: bytes, others: str):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    response = head + b"%x\r\n%b\r\n0\r\n\r\n"
    rules = {"remove": ["/secret"], "limit": 100, "others": others}
    with origin(answering(response % (len(body), body))) as o:
        config = {"routers": [route("/t", o.url, response_transformation={"body": rules})]}
        with serving(config) as gate, gate.connect() as peer:
            peer.send(b"GET /t HTTP/1.1\r\nHost: t\r\n\r\n")
            if others == "pass":
                assert peer.receive_response()[1] == body
            else:
                with pytest.raises((EOFError, AssertionError, ValueError)):
                    assert peer.receive_response()[0].startswith(b"HTTP/1.1 200 ")
            assert gate.reports == []


def test_backends_are_asked_for_bodies_that_can_be_read(echoing):
    rules = {"remove": ["/secret"], "others": "pass"}
    config = {"routers": [route("/t", echoing.url, response_transformation={"body": rules})]}
    with serving(config) as gate:
        seen = gate.get("/t", "Accept-Encoding: gzip", "Range: bytes=0-1")[1]
    assert b"Accept-Encoding: identity\r\n" in seen
    assert b"Range" not in seen
