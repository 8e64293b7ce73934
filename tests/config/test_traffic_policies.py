"""What is said of transformations, answers, splits and mirrors at load, and what is not shown of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kairos.config.check import check
from kairos.config.load import loads
from kairos.config.mask import masked
from tests.support.inprocess import checked


def said(**policies: Any) -> list[str]:
    """Problems of a route with these policies, as `severity path: message`."""
    route = {"external_path": "/a", "internal_path": "/a", "methods": ["GET"], "backends": [{"host": "https://a"}]}
    config = loads(json.dumps({"routers": [route | policies]}).encode(), "json", "config.json").config
    found = [p for p in check(config) if p.path.startswith("routers[0].") and "external_path" not in p.path]
    return [f"{p.severity} {p.path.removeprefix('routers[0].')}: {p.message}" for p in found]


def request(*rules: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"request_transformation": {"headers": list(rules), **members}}


def response(**members: Any) -> dict[str, Any]:
    return {"response_transformation": members}


SET = {"action": "set", "name": "X-A", "value": "1"}
VARIANT = {"name": "a", "weight": 1}
PROBLEMS: list[tuple[dict[str, Any], str]] = [
    (request({**SET, "name": "X A"}), "error request_transformation.headers[0].name: 'X A' is no header name"),
    (request({**SET, "name": "host"}), "error request_transformation.headers[0].name: host is written by the gateway"),
    (request({**SET, "value": "a\nb"}), "error request_transformation.headers[0].name: the value of X-A holds a line"),
    (request({**SET, "value": "{{ nope }}"}), "error request_transformation.headers[0].value: no template: 'nope'"),
    (request({**SET, "value": "{{ status }}"}), "error request_transformation.headers[0].value: no template: 'status'"),
    (request({"action": "set", "name": "X"}), "warning request_transformation.headers[0]: does nothing: 'set'"),
    (request({"action": "replace", "name": "X"}), "warning request_transformation.headers[0]: does nothing: 'replace'"),
    (request({"action": "replace", "name": "X", "pattern": "a(", "replacement": ""}),
     "error request_transformation.headers[0].pattern: no regular expression: missing ): a( at character 1"),
    (request(path={"pattern": "(a)", "replacement": "$1x"}),
     "warning request_transformation.path.replacement: '1x' is no group of the pattern, so it is empty: write ${1}"),
    (request(path={"pattern": "(a)", "replacement": "$2"}),
     "warning request_transformation.path.replacement: '2' is no group of the pattern, so it is empty"),
    (request(query_params=[{"action": "set", "name": "a", "value": "{{"}]),
     "error request_transformation.query_params[0].value: no template"),
    (request(body={"set": {"a/b": 1}}), "error request_transformation.body.set['a/b']: 'a/b' is no JSON Pointer"),
    (request(body={"remove": ["/a~2"]}), "error request_transformation.body.remove[0]: '/a~2' is no JSON Pointer"),
    (request(body={"template": {"a": ["{{ x }}"]}}), "error request_transformation.body.template.a[0]: no template"),
    (request(body={}), "warning request_transformation.body: does nothing"),
    (response(status_code_mappings=[{"from": 404, "to": 204}]),
     "error response_transformation.status_code_mappings[0].to: an answer with status 204 has no body"),
    (response(status_code_mappings=[{"from": 404, "to": 700}]),
     "error response_transformation.status_code_mappings[0].to: 700 is not the status of an answer"),
    (response(status_code_mappings=[{"from": 404, "to": 200, "condition": "path = '/'"}]),
     "error response_transformation.status_code_mappings[0].condition: no condition: cannot be read at character 6"),
    ({"respond": {"body": "a", "json": {}}}, "error respond: give one of body and json"),
    ({"respond": {"file": "/nowhere"}}, "error respond.file: cannot read /nowhere: No such file"),
    ({"respond": {"file": "/dev/null"}}, "error respond.file: /dev/null is not a regular file"),
    ({"respond": {"status": 204, "body": "x"}}, "error respond.status: an answer with status 204 has no body"),
    ({"respond": {"headers": {"Content-Length": "1"}}}, "error respond.headers.Content-Length: Content-Length"),
    ({"respond": {"when": "("}}, "error respond.when: no condition"),
    ({"redirect": {"target": "{{ query.to }}"}}, "error redirect.target: must begin with '/', 'http://' or 'https://'"),
    ({"redirect": {"target": "https://{{ host }}/"}}, "warning redirect.target: who chooses the host here"),
    ({"redirect": {"target": "/", "status": 304}}, "error redirect.status: 304 sends nobody elsewhere"),
    ({"maintenance": {"allow": ["10.0.0.1/8"]}}, "error maintenance.allow[0]: '10.0.0.1/8' has bits set"),
    ({"maintenance": {"allow_headers": {"X-A": ""}}}, "error maintenance.allow_headers.X-A: an empty value lets"),
    ({"split": {"variants": []}}, "error split.variants: at least one variant"),
    ({"split": {"variants": [{"name": "a", "when": "path"}]}}, "error split.variants: no variant has a weight"),
    ({"split": {"variants": [VARIANT, VARIANT]}}, "error split.variants[1].name: 'a' is the name of another"),
    ({"split": {"variants": [VARIANT, {"name": "b"}]}}, "hint split.variants[1]: gets no requests"),
    ({"split": {"variants": [{**VARIANT, "name": "mirror"}]}}, "error split.variants[0].name: 'mirror' is the name of"),
    ({"split": {"variants": [{**VARIANT, "backends": [{"host": "b"}]}]}}, "error split.variants[0].backends[0].host"),
    ({"split": {"variants": [VARIANT], "sticky": {"secret": "short"}}}, "error split.sticky.secret: must have 16"),
    ({"split": {"variants": [VARIANT], "header": "Host"}}, "error split.header: Host is written by the gateway itself"),
    ({"mirror": {"backends": []}}, "error mirror.backends: at least one"),
    ({"mirror": {"backends": [{"host": "ftp://b"}]}}, "error mirror.backends[0].host"),
    ({"mirror": {"backends": [{"host": "http://b"}], "credentials": True}}, "warning mirror.credentials: copies carry"),
]  # fmt: skip


@pytest.mark.parametrize(("policies", "phrase"), PROBLEMS, ids=[phrase[:60] for _, phrase in PROBLEMS])
def test_problems_are_told_where_they_are(policies, phrase):
    assert any(text.startswith(phrase) for text in said(**policies)), said(**policies)


def test_what_is_right_is_not_remarked_on():
    assert said(
        **request(SET, path={"pattern": "^/a/(.*)", "replacement": "/b/${1}"}, body={"remove": ["/x"]}),
        **response(status_code_mappings=[{"from": 404, "to": 200, "condition": "path == '/health'"}]),
        split={"variants": [VARIANT]}, mirror={"backends": [{"host": "https://b"}]},
        redirect={"target": "/b", "when": "query('x')"},
    ) == []  # fmt: skip


@pytest.mark.parametrize(
    "policies",
    [
        {"respond": {}},
        {"redirect": {"target": "/b"}},
        {"split": {"variants": [{**VARIANT, "backends": [{"host": "https://b"}]}]}},
    ],
)
def test_a_route_whose_requests_go_elsewhere_needs_no_backends(policies):
    route = {"external_path": "/a", "methods": ["GET"], **policies}
    assert checked({"routers": [route]}).routers[0].backends == []


def test_a_route_that_is_answered_sometimes_needs_backends():
    assert any("At least one backend" in text for text in said(respond={"when": "path"}, backends=[]) + [
        str(p) for p in check(loads(json.dumps({"routers": [
            {"external_path": "/a", "methods": ["GET"], "respond": {"when": "path"}}]}).encode(), "json", "c").config)
    ])  # fmt: skip


def test_secrets_of_these_policies_are_not_shown():
    route = {
        "external_path": "/a", "methods": ["GET"], "backends": [{"host": "https://a"}],
        "maintenance": {"allow_headers": {"X-Pass": "s3cret"}},
        "split": {"variants": [{**VARIANT, "headers": {"Authorization": "Basic s3cret", "X-A": "seen"}}],
                  "sticky": {"secret": "s3cret-s3cret-s3cret"}},
        "respond": {"when": "path", "headers": {"Set-Cookie": "s3cret"}},
    }  # fmt: skip
    shown = json.dumps(masked(checked({"routers": [route]})))
    assert "s3cret" not in shown
    assert "seen" in shown
