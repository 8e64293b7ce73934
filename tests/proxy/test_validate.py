"""Requests held against rules, schemas and OpenAPI documents: what passes, what is refused, what the refusal says."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import brotli
import msgspec
import pytest

from kairos._speedups.cells import R_INVALID
from kairos.config.policies.validation import Validation
from kairos.proxy.exchange import Exchange, Handler, Response
from kairos.proxy.filters import validate
from tests.support.gateway import route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, origin, read_request, status_of
from tests.support.ws import header

USER = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0}, "tags": {}},
    "additionalProperties": False,
}


class Reads(Handler):
    """Answers with the body it got."""

    async def handle(self, x: Exchange) -> Response:
        return Response(200, await x.read())


class Site:
    """What build() looks at."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.policies = self
        self.validation = msgspec.convert(settings, Validation)

    def kept(self, key: Any, make: Any) -> Any:
        return make()


def made(**settings: Any) -> validate.Validate:
    found = validate.build(Site(settings))  # type: ignore[arg-type]
    assert isinstance(found, validate.Validate)
    return found


class Stage:
    def __init__(self, gate: InProcess) -> None:
        self.gate = gate

    def send(
        self, body: bytes | Any = b"", *lines: str, method: str = "POST", path: str = "/a", kind: str | None = None
    ) -> tuple[int, Any]:
        """Status, and the body or problem that came back."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        types = [f"Content-Type: {kind or 'application/json'}"] if kind != "" and data else []
        head = [f"{method} {path} HTTP/1.1", "Host: test", *lines, *types, f"Content-Length: {len(data)}", "", ""]
        self.head, back = self.gate.request("\r\n".join(head).encode() + data)
        problem = (header(self.head, b"content-type") or b"").startswith(b"application/problem")
        return status_of(self.head), json.loads(back) if problem else back


@contextmanager
def stage(**settings: Any) -> Iterator[Stage]:
    path = "/a" if "openapi" not in settings else "/{rest:path}"
    with in_process(Chain(path, Reads(), made(**settings))) as gate:
        yield Stage(gate)
        assert gate.reports == []


@pytest.fixture(scope="module")
def users() -> Iterator[Stage]:
    with stage(schema=USER) as made_:
        yield made_


# --- a JSON Schema ---


@pytest.mark.parametrize(
    "kind", ["application/json", "application/merge-patch+json", 'Application/JSON; charset="UTF-8"']
)
def test_what_fits_reaches_the_backend_as_it_came(users: Stage, kind: str) -> None:
    body = b' {"name" : "J\xc3\xb6rg", "age":3}\n'
    assert users.send(body, kind=kind) == (200, body)


def test_what_does_not_is_told_by_pointer(users: Stage) -> None:
    status, told = users.send({"age": -1, "pass/word": "hunter2", "tags": [1]})
    assert (status, told["code"], told["type"]) == (422, "invalid_body", "invalid_request")
    assert sorted((one["pointer"], one["detail"]) for one in told["errors"]) == [
        ("#", '"name" is a required property'),
        ("#", "Additional properties are not allowed ('pass/word' was unexpected)"),
        ("#/age", "the value is less than the minimum of 0"),
    ]
    assert "hunter2" not in json.dumps(told)
    assert users.send({"name": 3})[1]["errors"] == [
        {"pointer": "#/name", "detail": 'the value is not of type "string"'}
    ]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "no JSON"),
        (b"x", "no JSON"),
        (b'{"name": "x",}', "no JSON"),
        (b'{"name": NaN}', "no JSON"),
        (b'{"name": "\xff"}', "no JSON"),
        (b'{"name": "\\ud800"}', "no JSON"),
        (b'\xef\xbb\xbf{"name": "x"}', "no JSON"),
        (b'{"name": "x"} {}', "no JSON"),
        (b'{"name": "x", "name": "y"}', "two members of the same name"),
        (b'{"name": "x", "n\\u0061me": "y"}', "two members of the same name"),
        (b'{"name": "x", "tags": [{"a": 1, "a": 1}]}', "two members of the same name"),
        (b"[" * 65 + b"]" * 65, "deeper than 64"),
        (b"[" * 500_000, "deeper than 64"),
        (json.dumps({"name": "x"}).encode("utf-16"), "no JSON"),
    ],
)
def test_bodies_that_are_no_json_or_can_be_read_in_two_ways(users: Stage, body: bytes, text: str) -> None:
    status, told = users.send(body)
    assert (status, told["code"]) == (400, "bad_body")
    assert text in told["detail"]


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("text/plain", []),
        ("", []),
        ("application/json; charset=utf-7", []),
        ("application/json; charset=iso-8859-1", []),
        ("application/jsonx", []),
        ("application/json", ["Content-Type: text/plain"]),
        ("application/json", ["Content-Encoding: aes128gcm"]),
        ("application/json", ["Content-Encoding: gzip, gzip"]),
    ],
)
def test_another_type_is_no_way_around_the_schema(users: Stage, kind: str, lines: list[str]) -> None:
    status, told = users.send({"name": "x"}, *lines, kind=kind)
    assert (status, told["code"]) == (415, "unsupported_media_type")
    if kind == "text/plain":
        assert header(users.head, b"accept") == b"application/json, application/*+json"
    if any("Encoding" in line for line in lines):
        assert header(users.head, b"accept-encoding") == b"gzip, deflate, br, zstd"


def test_a_request_without_a_body_is_none_of_the_schemas_business(users: Stage) -> None:
    assert users.send(method="GET") == (200, b"")
    with stage(schema=USER, body_required=True) as s:
        assert s.send()[0] == 400
        assert s.send({"name": "x"})[0] == 200


@pytest.mark.parametrize(("name", "write"), [("gzip", gzip.compress), ("br", brotli.compress)])
def test_a_compressed_body_is_judged_and_sent_on_compressed(users: Stage, name: str, write: Any) -> None:
    body = write(b'{"name": "x"}')
    assert users.send(body, f"Content-Encoding: {name}") == (200, body)
    assert users.send(write(b'{"name": 3}'), f"Content-Encoding: {name}")[0] == 422
    assert users.send(body[:-4], f"Content-Encoding: {name}")[0] == 400
    bomb = write(b'{"name": "' + b"x" * (20 << 20) + b'"}')
    status, told = users.send(bomb, f"Content-Encoding: {name}")
    assert (status, told["code"]) == (413, "payload_too_large")


def test_bodies_are_bounded_with_and_without_a_length() -> None:
    with stage(schema=USER, max_body=100) as s:
        assert s.send(b'{"name": "%s"}' % (b" " * 200))[0] == 413
        with s.gate.connect() as peer:
            peer.send(b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\n")
            peer.send(b"Transfer-Encoding: chunked\r\n\r\n" + b"32\r\n%s\r\n" % (b" " * 50) * 3)
            assert status_of(peer.receive_head()) == 413


def test_a_chunked_body_is_judged_however_it_is_cut(users: Stage) -> None:
    for body, expected in ((b'{"name":"x"}', 200), (b'{"name":1}', 422)):
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
        head = b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert status_of(users.gate.request(head + chunks)[0]) == expected


def test_a_client_that_waits_to_be_asked_is_asked(users: Stage) -> None:
    with users.gate.connect() as peer:
        peer.send(b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n")
        peer.send(b"Content-Length: 12\r\n\r\n")
        assert status_of(peer.receive_head()) == 100
        peer.send(b'{"name":"x"}')
        assert peer.receive_response()[1] == b'{"name":"x"}'


def test_errors_are_bounded_in_number_and_length() -> None:
    with stage(schema={"additionalProperties": {"type": "integer"}}, max_errors=3) as s:
        _, told = s.send({f"{number}" + "x" * 5000: "no" for number in range(50)})
        assert len(told["errors"]) == 3
        assert len(json.dumps(told)) < 3000


def test_the_last_of_two_members_by_choice() -> None:
    with stage(schema=USER, duplicate_members="last") as s:
        assert s.send(b'{"name": 3, "name": "x"}')[0] == 200
        assert s.send(b'{"name": "x", "name": 3}')[0] == 422


def test_a_pattern_takes_linear_time() -> None:
    with stage(schema={"pattern": "^(a+)+$"}) as s:
        assert s.send("a" * 100_000 + "b")[0] == 422


def test_a_schema_of_a_file(tmp_path: Path) -> None:
    tmp_path.joinpath("user.yaml").write_text("properties: {mail: {$ref: 'mail.json#/mail'}}")
    tmp_path.joinpath("mail.json").write_text('{"mail": {"format": "email"}}')
    with stage(schema_file=str(tmp_path / "user.yaml")) as s:
        assert s.send({"mail": "a@example.com"})[0] == 200
        assert s.send({"mail": "nobody"})[1]["errors"][0]["pointer"] == "#/mail"


# --- types, fields and parameters ---


def test_types_that_are_listed_pass_unlooked_at_unless_they_are_json() -> None:
    with stage(schema=USER, content_types=["application/json", "text/*"]) as s:
        assert s.send(b"anything", kind="text/csv") == (200, b"anything")
        assert s.send({"name": 1})[0] == 422
        assert s.send(b"x", kind="image/png")[0] == 415
        assert header(s.head, b"accept") == b"application/json, text/*"
        assert s.send(b"x", kind="")[0] == 415
        assert s.send(method="GET")[0] == 200


RULES: list[tuple[dict[str, Any], str, str | None]] = [
    ({"required": True}, "", "is required"),
    ({"required": True}, "n=", None),
    ({}, "", None),
    ({}, "n=1&n=2", "is given more than once"),
    ({"repeated": True, "type": "integer"}, "n=1&n=2", None),
    ({"repeated": True, "type": "integer"}, "n=1&n=x", "is no integer"),
    ({"type": "integer", "min": 1, "max": 10}, "n=10", None),
    ({"type": "integer", "min": 1, "max": 10}, "n=0", "is less than 1"),
    ({"type": "integer", "min": 1, "max": 10}, "n=11", "is greater than 10"),
    ({"type": "integer"}, "n=01", "is no integer"),
    ({"type": "integer"}, "n=+1", "is no integer"),
    ({"type": "integer"}, "n=1.0", "is no integer"),
    ({"type": "integer"}, "n=%D9%A1", "is no integer"),
    ({"type": "number", "max": 2}, "n=1e3", "is greater than 2"),
    ({"type": "number"}, "n=-1.5", None),
    ({"type": "number"}, "n=NaN", "is no number"),
    ({"type": "boolean"}, "n=true", None),
    ({"type": "boolean"}, "n=yes", "is no boolean"),
    ({"enum": ["a", "b c"]}, "n=b+c", None),
    ({"enum": ["a", "b"]}, "n=hunter2", "is none of the values it may have"),
    ({"pattern": "^[a-z]+$"}, "n=abc", None),
    ({"pattern": "^[a-z]+$"}, "n=ab1", "does not match ^[a-z]+$"),
    ({"min_length": 2, "max_length": 3}, "n=a", "has fewer than 2 characters"),
    ({"min_length": 2, "max_length": 3}, "n=abcd", "has more than 3 characters"),
    ({"max_length": 3}, "n=%C3%B6%C3%B6%C3%B6", None),
    ({}, "%6E=1&n=2", "is given more than once"),
]


@pytest.mark.parametrize(("rule", "query", "problem"), RULES)
def test_query_rules(rule: dict[str, Any], query: str, problem: str | None) -> None:
    with stage(query=[{"name": "n", **rule}]) as s:
        status, told = s.send(method="GET", path=f"/a?{query}")
        if problem is None:
            assert status == 200
        else:
            assert (status, told["code"]) == (400, "invalid_request")
            assert told["errors"] == [{"in": "query", "name": "n", "detail": problem}]


def test_header_rules() -> None:
    rules = [{"name": "X-Tenant", "required": True, "pattern": "^t-[0-9]+$"}, {"name": "X-Level", "type": "integer"}]
    with stage(headers=rules) as s:
        assert s.send(b"", "x-tenant: t-1")[0] == 200
        _, told = s.send(b"", "X-Level: high")
        assert told["errors"] == [
            {"in": "header", "name": "X-Tenant", "detail": "is required"},
            {"in": "header", "name": "X-Level", "detail": "is no integer"},
        ]
        _, told = s.send(b"", "X-Tenant: t-1", "X-Tenant: evil")
        assert told["errors"][0]["detail"] == "is given more than once"


def test_unknown_query_parameters() -> None:
    with stage(query=[{"name": "a"}], unknown_query="refuse") as s:
        assert s.send(path="/a?a=1")[0] == 200
        assert s.send(path="/a?")[0] == 200
        status, told = s.send(path="/a?a=1&b=2&%63=3")
        assert status == 400
        assert [one["name"] for one in told["errors"]] == ["b", "c"]
        assert s.send(path="/a?" + "&".join(f"{n}" * 999 for n in range(5)))[1]["errors"][0]["detail"] == "is not known"


def test_a_query_that_cannot_be_read() -> None:
    with stage(query=[{"name": "a"}]) as s:
        assert s.send(path="/a?a=%FF")[1]["errors"] == [{"in": "query", "detail": "not UTF-8"}]
        assert s.send(path="/a?" + "a&" * 1001)[1]["errors"] == [{"in": "query", "detail": "more than 1000 parameters"}]


# --- OpenAPI ---

API = """
openapi: 3.1.0
servers: [{url: /v1}]
paths:
  /pets:
    get:
      parameters:
        - {name: limit, in: query, schema: {type: integer, minimum: 1, maximum: 100}}
        - {name: tags, in: query, schema: {type: array, items: {type: string, minLength: 2}}}
        - {name: ids, in: query, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: pipes, in: query, style: pipeDelimited, explode: false, schema: {type: array, items: {type: integer}}}
        - {name: filter, in: query, style: deepObject,
           schema: {type: object, properties: {age: {type: integer}}, additionalProperties: false}}
        - {name: range, in: query, schema: {type: object, properties: {from: {type: integer}, to: {type: integer}}}}
        - {name: json, in: query, content: {application/json: {schema: {type: object}}}}
        - {name: X-Trace, in: header, schema: {type: string, pattern: '^[0-9a-f]+$'}}
        - {name: X-List, in: header, schema: {type: array, items: {type: integer}}}
        - {name: session, in: cookie, schema: {type: string, minLength: 4}}
        - {name: need, in: query, required: true, schema: {type: boolean}}
    post:
      requestBody:
        required: true
        content:
          application/json: {schema: {$ref: '#/components/schemas/Pet'}}
          application/x-www-form-urlencoded: {schema: {$ref: '#/components/schemas/Pet'}}
          image/*: {}
          text/plain: {schema: {type: string, maxLength: 3}}
      responses:
        '201': {content: {application/json: {schema: {$ref: '#/components/schemas/Pet'}}}}
        4XX: {content: {application/json: {schema: {type: string}}}}
  /pets/{pet-id}:
    parameters: [{name: pet-id, in: path, required: true, schema: {type: integer}}]
    get: {}
  /pets/mine: {get: {}}
  /m/{v}:
    get: {parameters: [{name: v, in: path, required: true, style: matrix, explode: true,
                        schema: {type: array, items: {type: integer}}}]}
  /l/{v}:
    get: {parameters: [{name: v, in: path, required: true, style: label,
                        schema: {type: object, properties: {a: {type: integer}}, required: [a]}}]}
components:
  schemas:
    Pet:
      type: object
      required: [name]
      properties: {name: {type: string}, age: {type: integer}, tags: {type: array, items: {type: string}}}
      additionalProperties: false
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("api") / "pets.yaml"
    path.write_text(API)
    return str(path)


@pytest.fixture(scope="module")
def pets(document: str) -> Iterator[Stage]:
    with stage(openapi={"file": document}) as made_:
        yield made_


@pytest.mark.parametrize(
    ("query", "lines", "error"),
    [
        ("", [], None),
        ("limit=5&tags=ab&tags=cd&ids=1,2,3&pipes=1|2&filter[age]=3&from=1&to=2&json=%7B%7D", [], None),
        ("limit=0", [], {"in": "query", "name": "limit", "detail": "the value is less than the minimum of 1"}),
        ("limit=x", [], {"in": "query", "name": "limit", "detail": 'the value is not of type "integer"'}),
        ("limit=1&limit=2", [], {"in": "query", "name": "limit", "detail": "is given more than once"}),
        ("tags=ab&tags=c", [], {"in": "query", "name": "tags", "pointer": "#/1"}),
        ("ids=1,x", [], {"in": "query", "name": "ids", "pointer": "#/1"}),
        ("pipes=1%7Cx", [], {"in": "query", "name": "pipes", "pointer": "#/1"}),
        ("filter[age]=x", [], {"in": "query", "name": "filter", "pointer": "#/age"}),
        ("filter%5Bnone%5D=x", [], {"in": "query", "name": "filter"}),
        ("from=x", [], {"in": "query", "name": "range", "pointer": "#/from"}),
        ("json=%5B%5D", [], {"in": "query", "name": "json"}),
        ("json=%7B", [], {"in": "query", "name": "json", "detail": "is no JSON"}),
        ("", ["X-Trace: 0af"], None),
        ("", ["X-Trace: zz"], {"in": "header", "name": "x-trace"}),
        ("", ["X-List: 1, 2", "X-List: 3"], None),
        ("", ["X-List: 1, b"], {"in": "header", "name": "x-list", "pointer": "#/1"}),
        ("", ["Cookie: a=b; session=1234"], None),
        ("", ['Cookie: session="123"'], {"in": "cookie", "name": "session"}),
    ],
)
def test_parameters(pets: Stage, query: str, lines: list[str], error: dict[str, str] | None) -> None:
    status, told = pets.send(b"", *lines, method="GET", path=f"/v1/pets?need=true&{query}")
    if error is None:
        assert status == 200, told
    else:
        (found,) = told["errors"]
        assert status == 400
        assert error.items() <= found.items()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/pets/7", 200),
        ("/v1/pets/%37", 200),
        ("/v1/pets/x", 400),
        ("/v1/pets/7%2F8", 400),
        ("/v1/pets/mine", 200),
        ("/v1/pets/7/8", 404),
        ("/pets/7", 404),
        ("/v1/m/;v=1;v=2", 200),
        ("/v1/m/;v=1;v=x", 400),
        ("/v1/m/1", 400),
        ("/v1/l/.a,1", 200),
        ("/v1/l/.a,x", 400),
        ("/v1/l/.a", 400),
        ("/v1/l/a,1", 400),
    ],
)
def test_paths(pets: Stage, path: str, expected: int) -> None:
    assert pets.send(method="GET", path=path)[0] == expected


def test_a_required_parameter_and_another_method(pets: Stage) -> None:
    _, told = pets.send(method="GET", path="/v1/pets")
    assert told["errors"] == [{"in": "query", "name": "need", "detail": "is required"}]
    assert pets.send(method="DELETE", path="/v1/pets")[0] == 405
    assert header(pets.head, b"allow") == b"GET, HEAD, POST, OPTIONS"


@pytest.mark.parametrize(
    ("body", "kind", "status", "pointers"),
    [
        (b'{"name": "x"}', None, 200, []),
        (b'{"age": "x"}', None, 422, ["#", "#/age"]),
        (b"name=x&age=3&tags=a&tags=b", "application/x-www-form-urlencoded", 200, []),
        (b"name=x&age=y", "application/x-www-form-urlencoded", 422, ["#/age"]),
        (b"name=x&name=y", "application/x-www-form-urlencoded", 400, []),
        (b"name=%FF", "application/x-www-form-urlencoded", 400, []),
        (b"\x89PNG", "image/png", 200, []),
        (b"abc", "text/plain", 200, []),
        (b"abcd", "text/plain", 422, ["#"]),
        (b"\xff", "text/plain", 400, []),
        (b"<a/>", "application/xml", 415, []),
        (b"", None, 400, []),
    ],
)
def test_bodies(pets: Stage, body: bytes, kind: str | None, status: int, pointers: list[str]) -> None:
    found, told = pets.send(body, path="/v1/pets", kind=kind)
    assert found == status
    if status != 200:
        assert sorted(one["pointer"] for one in told.get("errors", ())) == pointers
    if status == 415:
        assert b"image/*" in (header(pets.head, b"accept") or b"")


def test_what_the_document_does_not_know_by_choice(document: str) -> None:
    with stage(openapi={"file": document, "unknown": "pass", "unknown_query": "refuse"}) as s:
        assert s.send(b"x", path="/other", kind="text/plain") == (200, b"x")
        assert s.send(method="GET", path="/v1/pets/7?x=1")[1]["errors"][0]["name"] == "x"
        known = "need=true&filter%5Bage%5D=1&from=1&limit=2"
        assert s.send(method="GET", path=f"/v1/pets?{known}")[0] == 200
        assert s.send(method="GET", path="/other?x=1")[0] == 200


def test_a_document_and_rules_of_the_route_together(document: str) -> None:
    with stage(openapi={"file": document}, headers=[{"name": "X-Key", "required": True}], max_errors=5) as s:
        _, told = s.send(method="GET", path="/v1/pets")
        assert [one["name"] for one in told["errors"]] == ["X-Key", "need"]


# --- only reported ---


def echoes(status: str, body: bytes) -> Any:
    def script(peer: Peer) -> None:
        while read_request(peer):
            peer.send(b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n" % status.encode())
            peer.send(b"Content-Length: %d\r\n\r\n" % len(body) + body)

    return script


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    lines: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(validate, "LOG_EVERY_S", 0.0)

    class Log:
        def warning(self, event: str, **more: Any) -> None:
            lines.append((event, more))

    monkeypatch.setattr(validate, "log", Log())
    return lines


def test_what_is_only_reported_passes_and_is_counted(said: list[Any]) -> None:
    filter_ = made(schema=USER, report_only=True, max_body=100, query=[{"name": "n", "type": "integer"}])
    with (
        origin(echoes("200 OK", b"ok")) as o,
        in_process(Chain("/a", route("/a", o.url, methods=["POST"]), filter_)) as gate,
    ):
        s = Stage(gate)
        bodies: list[Any] = [{"name": "x"}, {"name": 3}, b"{", b" " * 200]
        assert [s.send(body) for body in bodies] == [(200, b"ok")] * 4
        assert s.send(path="/a?n=x") == (200, b"ok")
        assert s.send(gzip.compress(b'{"name": 3}'), "Content-Encoding: gzip") == (200, b"ok")
        gate.wait(lambda: gate.route_cell(R_INVALID) == 4, "four reports")
    assert [more["code"] for _, more in said] == ["invalid_body", "bad_body", "invalid_request", "invalid_body"]
    assert said[0][1]["errors"] == [{"pointer": "#/name", "detail": 'the value is not of type "string"'}]


@pytest.mark.parametrize(
    ("coding", "body", "reported"),
    [
        (b"gzip", gzip.compress(b'{"name": 3}'), "invalid_body"),
        (b"br", brotli.compress(b'{"name": 3}'), "invalid_body"),
        (b"gzip", gzip.compress(b'{"name": "x"}'), None),
        (b"gzip", gzip.compress(b'{"name": "x"}')[:-4], "bad_body"),
        (b"gzip", gzip.compress(b'{"name": "' + b"x" * 5000 + b'"}'), None),
        (b"gzip, br", b"x", None),
        (b"rot13", b"x", None),
    ],
    ids=["gzip", "br", "fits", "broken", "too large", "two", "unknown"],
)
def test_compressed_responses_are_looked_into(
    document: str, said: list[Any], coding: bytes, body: bytes, reported: str | None
) -> None:
    def script(peer: Peer) -> None:
        head = b"HTTP/1.1 201 X\r\nContent-Type: application/json\r\nContent-Encoding: %b\r\nContent-Length: %d\r\n\r\n"
        while read_request(peer):
            peer.send(head % (coding, len(body)) + body)

    filter_ = made(openapi={"file": document, "responses": "log"}, max_body=1000)
    with (
        origin(script) as o,
        in_process(Chain("/v1/pets", route("/v1/pets", o.url, methods=["POST"]), filter_)) as gate,
    ):
        s = Stage(gate)
        assert s.send({"name": "x"}, path="/v1/pets") == (201, body)
        gate.wait(lambda: gate.route_cell(R_INVALID) == (reported is not None), "count")
    assert [more["code"] for _, more in said] == ([reported] if reported else [])


@pytest.mark.parametrize(
    ("status", "body", "reported"),
    [
        ("201 Created", b'{"name": "x"}', None),
        ("201 Created", b'{"name": 3}', "invalid_body"),
        ("201 Created", b"{", "bad_body"),
        ("404 Not Found", b"3", "invalid_body"),
        ("404 Not Found", b'"gone"', None),
        ("500 Oops", b"{", None),
        ("201 Created", b"[" + b" " * 2000 + b"]", None),
    ],
)
def test_responses_are_logged_and_never_changed(
    document: str, said: list[Any], status: str, body: bytes, reported: str | None
) -> None:
    filter_ = made(openapi={"file": document, "responses": "log"}, max_body=1000)
    with (
        origin(echoes(status, body)) as o,
        in_process(Chain("/v1/pets", route("/v1/pets", o.url, methods=["POST"]), filter_)) as gate,
    ):
        s = Stage(gate)
        assert s.send({"name": "x"}, path="/v1/pets") == (int(status[:3]), body)
        assert header(s.head, b"content-length") == b"%d" % len(body)
        gate.wait(lambda: gate.route_cell(R_INVALID) == (reported is not None), "count")
    assert [(event, more["code"]) for event, more in said] == (
        [("response does not fit", reported)] if reported else []
    )


# --- through the configuration ---


def test_a_route_without_the_policy_has_no_filter() -> None:
    site = Site({})
    site.validation = None  # type: ignore[assignment]
    assert validate.build(site) is None  # type: ignore[arg-type]


class Keeping(Site):
    """A snapshot after another: what was made under a key is there."""

    def __init__(self, settings: dict[str, Any], shelf: dict[Any, Any]) -> None:
        super().__init__(settings)
        self.shelf = shelf

    def kept(self, key: Any, make: Any) -> Any:
        if key not in self.shelf:
            self.shelf[key] = make()
        return self.shelf[key]


def test_a_document_is_read_once_for_all_routes_and_again_when_a_file_of_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("part.yaml").write_text("type: integer")
    document = tmp_path / "api.yaml"
    document.write_text(API.replace("{$ref: '#/components/schemas/Pet'}", "{$ref: part.yaml}"))
    reads = []
    read = validate.openapi_of
    monkeypatch.setattr(validate, "openapi_of", lambda spec: reads.append(1) or read(spec))
    shelf: dict[Any, Any] = {}
    for _ in range(3):
        validate.build(Keeping({"openapi": {"file": str(document)}}, shelf))  # type: ignore[arg-type]
    assert len(reads) == 1
    tmp_path.joinpath("part.yaml").write_text("type: string # now")
    for _ in range(3):
        validate.build(Keeping({"openapi": {"file": str(document)}}, shelf))  # type: ignore[arg-type]
    assert len(reads) == 2
