"""What is answered without a backend: fixed answers, redirects, maintenance pages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import route
from tests.support.inprocess import serving
from tests.support.net import ScriptedOrigin, echo, origin

SECRET = "s" * 40


@pytest.fixture(scope="module")
def echoing() -> Iterator[ScriptedOrigin]:
    with origin(echo) as o:
        yield o


def bare(path: str = "/t", **policies: Any) -> dict[str, Any]:
    """A configuration of one route without a backend."""
    return {"routers": [{"external_path": path, "internal_path": "/", "methods": ["GET", "HEAD"], **policies}]}


def header(head: bytes, name: bytes) -> bytes | None:
    lines = [line.partition(b": ") for line in head.split(b"\r\n")[1:]]
    return next((value for key, _, value in lines if key.lower() == name.lower()), None)


# ---- fixed answers

ANSWERS: list[tuple[dict[str, Any], int, bytes, bytes | None]] = [
    ({}, 200, b"", None),
    ({"body": "hi {{ query.n }}"}, 200, b"hi <b>\"", b"text/plain; charset=utf-8"),
    ({"body": "<p>{{ query.n }}</p>", "content_type": "text/html"}, 200, b"<p>&lt;b&gt;&quot;</p>", b"text/html"),
    ({"body": '{"n":"{{ query.n }}"}', "headers": {"Content-Type": "application/json"}}, 200, b'{"n":"<b>\\""}',
     b"application/json"),
    ({"json": {"n": "{{ query.n }}", "p": ["{{ path }}"], "x": 1}, "status": 404}, 404,
     b'{"n":"<b>\\"","p":["/t"],"x":1}', b"application/json"),
    ({"status": 204}, 204, b"", None),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "status", "body", "kind"), ANSWERS)
def test_a_route_answers_without_a_backend(spec, status, body, kind):
    with serving(bare(respond=spec)) as gate:
        head, got = gate.get("/t?n=%3Cb%3E%22")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert (got, header(head, b"Content-Type")) == (body, kind)
        gate.wait_access(status=status, route="/t")


def test_a_file_is_sent_as_it_is(tmp_path):
    page = tmp_path / "page.html"
    page.write_bytes(b"<h1>{{ path }}\xff</h1>")
    with serving(bare(respond={"file": str(page), "headers": {"X-Who": "{{ client_ip }}"}})) as gate:
        head, body = gate.get("/t")
        assert (body, header(head, b"Content-Type")) == (b"<h1>{{ path }}\xff</h1>", b"text/html")
        assert header(head, b"X-Who") == b"127.0.0.1"


def test_fields_of_an_answer_cannot_be_broken_apart():
    with serving(bare(respond={"headers": {"X-Who": "{{ query.who }}"}})) as gate:
        head, body = gate.get("/t?who=a%0d%0aX-Evil:1")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["code"] == "bad_value"
        assert gate.reports == []


def test_a_condition_decides_whether_a_backend_is_asked(echoing):
    respond = {"when": "header('x-ping')", "body": "pong"}
    with serving({"routers": [route("/t", echoing.url, respond=respond)]}) as gate:
        assert gate.get("/t", "X-Ping: 1")[1] == b"pong"
        assert gate.get("/t")[1].startswith(b"GET /t ")


def test_an_answer_is_for_those_only_who_may_see_the_route():
    config = bare(respond={"body": "secret"}, auth_required=True) | {"jwt": {"secret": SECRET}}
    with serving(config) as gate:
        assert gate.get("/t")[0].startswith(b"HTTP/1.1 401 ")


# ---- redirects

REDIRECTS: list[tuple[dict[str, Any], str, int, bytes]] = [
    ({"target": "/new/{{ params.rest }}"}, "/old/a%20b/c?x=1", 302, b"/new/a%20b/c?x=1"),
    ({"target": "https://example.org{{ path }}", "status": 308}, "/old/a", 308, b"https://example.org/old/a"),
    ({"target": "https://example.org/?from={{ query.f }}#top", "status": 301}, "/old/a?f=%26%0d%0a", 301,
     b"https://example.org/?from=%26%0D%0A&f=%26%0d%0a#top"),
    ({"target": "/x", "keep_query": False, "status": 307}, "/old/a?x=1", 307, b"/x"),
    ({"target": "/{{ params.rest }}"}, "/old//evil.org/x", 302, b"/.//evil.org/x"),
    ({"target": "/{{ query.to }}"}, "/old/a?to=/evil.org", 302, b"/%2Fevil.org?to=/evil.org"),
    ({"target": "https://{{ host }}/{{ method }}", "status": 303}, "/old/a", 303, b"https://test/GET"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "path", "status", "location"), REDIRECTS)
def test_a_route_sends_the_client_elsewhere(spec, path, status, location):
    with serving(bare("/old/{rest:path}", redirect=spec)) as gate:
        head, body = gate.get(path)
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert (header(head, b"Location"), body) == (location, b"")


def test_a_redirect_may_depend_on_the_request(echoing):
    redirect = {"target": "https://m.example.org/", "when": "header('user-agent') =~ '(?i)mobile'", "keep_query": False}
    with serving({"routers": [route("/t", echoing.url, redirect=redirect)]}) as gate:
        assert header(gate.get("/t", "User-Agent: A Mobile")[0], b"Location") == b"https://m.example.org/"
        assert gate.get("/t", "User-Agent: other")[0].startswith(b"HTTP/1.1 200 ")


# ---- maintenance


def test_a_closed_route_says_when_to_come_again(echoing):
    with serving({"routers": [route("/t", echoing.url, maintenance={})]}) as gate:
        head, body = gate.get("/t")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert header(head, b"Retry-After") == b"300"
        assert json.loads(body)["code"] == "maintenance"
        gate.wait_access(status=503)


def test_a_closed_route_has_a_page_of_its_own(echoing):
    page = {"body": "back soon: {{ path }}", "status": 502, "retry_after": None, "headers": {"X-A": "1"}}
    with serving({"routers": [route("/t", echoing.url, maintenance=page)]}) as gate:
        head, body = gate.get("/t")
        assert head.startswith(b"HTTP/1.1 502 ")
        assert (body, header(head, b"Retry-After"), header(head, b"X-A")) == (b"back soon: /t", None, b"1")


@pytest.mark.parametrize(
    ("spec", "lines", "open_"),
    [
        ({"allow": ["127.0.0.0/8"]}, [], True),
        ({"allow": ["10.0.0.0/8"]}, [], False),
        ({"allow_headers": {"X-Pass": "s3cret"}}, ["X-Pass: s3cret"], True),
        ({"allow_headers": {"X-Pass": "s3cret"}}, ["X-Pass: wrong"], False),
        ({"allow_headers": {"X-Pass": "s3cret"}}, [], False),
        ({"enabled": False}, [], True),
    ],
)
def test_some_are_let_in(echoing, spec, lines, open_):
    with serving({"routers": [route("/t", echoing.url, maintenance=spec)]}) as gate:
        assert gate.get("/t", *lines)[0].startswith(b"HTTP/1.1 200 " if open_ else b"HTTP/1.1 503 ")


def test_all_routes_are_closed_but_one(echoing):
    open_ = route("/open", echoing.url, maintenance={"enabled": False})
    config = {"maintenance": {"retry_after": 5}, "routers": [route("/t", echoing.url), open_]}
    with serving(config) as gate:
        assert header(gate.get("/t")[0], b"Retry-After") == b"5"
        assert gate.get("/open")[0].startswith(b"HTTP/1.1 200 ")
