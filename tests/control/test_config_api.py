"""The configuration over the admin API, whole and by section: in force in every worker when it is answered."""

import json

import pytest

from tests.support.gateway import gateway, route
from tests.support.net import echo, origin

SECRET = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"


@pytest.fixture(scope="module")
def g():
    with origin(echo) as backend:
        config = {"version": 1, "_comment": "ours", "jwt": {"secret": SECRET, "issuer": "${ISSUER:-shop}"}}
        with gateway({**config, "routers": [route("/a", backend.url)]}, workers=2) as made:
            made.url = backend.url
            yield made


def ask(g, method, path, body=b"", status=200):
    found, answer = g.admin(method, path, body)
    assert found == status, answer
    assert SECRET not in json.dumps(answer)
    assert OTHER not in json.dumps(answer)
    return answer


def held(g):
    return json.loads(g.config_path.read_bytes())


# --- all of it ------------------------------------------------------------------------------------------------------


def test_it_is_shown_in_kairos_rs_s_form_with_secrets_masked(g):
    shown = ask(g, "GET", "/api/config")
    assert list(shown)[:5] == ["version", "jwt", "rate_limit", "ai", "routers"]
    assert shown["jwt"]["secret"] == "***"
    assert shown["jwt"]["issuer"] == "${ISSUER:-shop}"
    assert shown["routers"][0]["external_path"] == "/a"


def test_what_is_shown_can_be_written_back(g):
    before = g.config_path.read_bytes()
    answer = ask(g, "PUT", "/api/config", ask(g, "GET", "/api/config"))
    assert answer["changed"] is False, answer["diff"]
    assert g.config_path.read_bytes() == before


def test_with_defaults_and_overrides(g):
    shown = ask(g, "GET", "/api/config?effective=1")
    assert shown["server"]["workers"] == 2
    assert shown["timeouts"]["idle"] == 75.0
    assert shown["jwt"]["secret"] == "***"


@pytest.mark.parametrize(("kind", "text"), [
    ("application/yaml", "version: 1\nrouters:\n- external_path: /a\n  methods: [GET]\n  backends: [{host: 'http://h'}]\n"),
    ("application/toml", 'version = 1\n[[routers]]\nexternal_path = "/a"\nmethods = ["GET"]\n'
                         'backends = [{host = "http://h"}]\n'),
])  # fmt: skip
def test_documents_come_in_any_format(g, kind, text):
    status, answer = g.admin("POST", "/api/config/validate", text.encode(), kind)
    assert (status, answer["valid"]) == (200, True), answer


def test_a_proposal_is_judged_and_nothing_changes(g):
    before = g.config_path.read_bytes()
    bad = ask(g, "POST", "/api/config/validate", {"routers": [{"external_path": "x"}], "colour": 1})
    assert bad["valid"] is False
    assert {"colour", "routers[0]"} <= {place.get("path") for place in bad["problems"]}
    good = ask(g, "POST", "/api/config/validate", ask(g, "GET", "/api/config"))
    assert good["valid"] is True
    assert g.config_path.read_bytes() == before


def test_the_schema_names_every_section(g):
    assert {"routers", "jwt", "server"} <= set(ask(g, "GET", "/api/config/schema")["$defs"]["Config"]["properties"])


def test_status_and_reload(g):
    status = ask(g, "GET", "/api/config/status")
    assert (status["success"], status["version"]) == (True, status["revision"])
    assert status["timestamp"].endswith("Z")
    assert ask(g, "POST", "/api/config/reload")["success"] is True
    g.config_path.write_text(json.dumps({**held(g), "limits": {"line_bytes": 1}}))
    try:
        refused = ask(g, "POST", "/api/config/reload", status=422)
        assert "limits.line_bytes" in refused["problems"][0]
        assert ask(g, "GET", "/api/config/status")["problems"] == refused["problems"]
    finally:
        g.config_path.write_text(json.dumps({name: item for name, item in held(g).items() if name != "limits"}))
        assert ask(g, "POST", "/api/config/reload")["success"] is True


# --- kairos-rs's sections -------------------------------------------------------------------------------------------


def test_jwt_keeps_what_is_not_said_and_masks_what_is_secret(g):
    ask(g, "POST", "/api/config/jwt", {"secret": "***", "audience": "all"})
    assert held(g)["jwt"] == {"secret": SECRET, "issuer": "${ISSUER:-shop}", "audience": "all"}
    ask(g, "POST", "/api/config/jwt", {"secret": OTHER, "issuer": None})
    assert held(g)["jwt"] == {"secret": OTHER, "audience": "all"}
    assert held(g)["_comment"] == "ours"


@pytest.mark.parametrize("secret", ["", "please-change-this-secret", "short"])
def test_the_rules_for_secrets(g, secret):
    answer = ask(g, "POST", "/api/config/jwt", {"secret": secret}, 400)
    assert answer["success"] is False
    assert "secret" in answer["message"].lower()


def test_a_rate_limit_holds_at_once(g):
    limit = {"strategy": "PerIP", "requests_per_window": 1, "window_duration": 3600, "burst_allowance": 0,
             "window_type": "FixedWindow", "enable_redis": False, "redis_key_prefix": "kairos_rl"}  # fmt: skip
    assert ask(g, "POST", "/api/config/rate-limit", limit)["message"] == "Rate limit updated successfully"
    assert [b" 429 " in g.get("/a")[0] for _ in range(3)][1:] == [True, True]
    ask(g, "POST", "/api/config/rate-limit", b"null")
    assert b" 200 " in g.get("/a")[0]
    assert held(g).get("rate_limit") is None


def test_cors_holds_at_once(g):
    cors = {"allowed_origins": ["https://app.test"], "allowed_methods": ["GET"], "allowed_headers": ["X-A"],
            "allow_credentials": False, "enabled": True, "max_age_secs": 60}  # fmt: skip
    ask(g, "POST", "/api/config/cors", cors)
    for _ in range(6):
        assert b"access-control-allow-origin: https://app.test" in g.get("/a", Origin="https://app.test")[0].lower()
    assert held(g)["cors"]["max_age"] == 60


@pytest.mark.parametrize(
    "given",
    [
        {"endpoint": "/numbers", "enable_per_route_metrics": False},
        {"enabled": True, "prometheus_endpoint": "/digits", "collect_per_route": True},
    ],
)
def test_metrics_by_both_names(g, given):
    ask(g, "POST", "/api/config/metrics", given)
    path = given.get("endpoint") or given["prometheus_endpoint"]
    assert b" 200 " in g.get(path)[0]
    assert held(g)["metrics"]["path"] == path


def test_server_says_what_needs_a_restart(g):
    answer = ask(g, "POST", "/api/config/server", {"backlog": 100, "keep_alive_secs": 33})
    assert answer["restart_required"] == ["server.backlog"]
    assert "Restart required" in answer["message"]
    assert ask(g, "GET", "/api/config/status")["restart_required"] == ["server.backlog"]
    assert ask(g, "GET", "/api/config?effective=1")["timeouts"]["idle"] == 33
    assert held(g)["server"]["watch"] is False, "what was not said stays"


@pytest.mark.parametrize("given", [{"port": 0}, {"workers": 0}, {"port": 70_000}, {"host": 5}])
def test_server_refuses(g, given):
    assert ask(g, "POST", "/api/config/server", given, 400)["success"] is False


def test_ai_keeps_its_key(g):
    ask(g, "POST", "/api/config/ai", {"provider": "openai", "model": "m", "api_key": OTHER})
    ask(g, "POST", "/api/config/ai", {"provider": "openai", "model": "n", "api_key": "***"})
    assert held(g)["ai"] == {"provider": "openai", "model": "n", "api_key": OTHER}


# --- every section --------------------------------------------------------------------------------------------------


def test_a_section_is_set_shown_and_removed(g):
    assert ask(g, "GET", "/api/config/sections/limits") is None
    ask(g, "PUT", "/api/config/sections/limits", {"line_bytes": 300})
    assert ask(g, "GET", "/api/config/sections/limits") == {"line_bytes": 300}
    assert b" 414 " in g.get("/" + "x" * 400)[0]
    ask(g, "DELETE", "/api/config/sections/limits")
    assert "limits" not in held(g)
    assert b" 404 " in g.get("/" + "x" * 400)[0]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_section_that_there_is_not(g, method):
    assert "no section is called" in ask(g, method, "/api/config/sections/colour", b"1", 404)["message"]


# --- what the gateway consists of -----------------------------------------------------------------------------------


def test_workers_and_their_connections(g):
    workers = ask(g, "GET", "/api/workers")
    assert [worker["slot"] for worker in workers] == [0, 1]
    with g.connect():
        g.wait(lambda: ask(g, "GET", "/api/connections")["connections"] == 1, "the connection")
        shown = ask(g, "GET", "/api/connections")
        assert sum(worker["connections"] for worker in shown["workers"]) == 1


def test_certificates_and_plugins(g):
    assert ask(g, "GET", "/api/certificates") == []
    plugin = g.folder / "mark.lua"
    plugin.write_text("function on_request(request) end\n")
    made = ask(g, "POST", "/api/routes", route("/marked", g.url, plugins=[{"file": str(plugin)}]), 201)
    assert made["changed"] is True
    assert ask(g, "GET", "/api/plugins") == [{"plugin": str(plugin), "kind": "lua", "used_by": ["/marked"]}]


# --- hostile bodies -------------------------------------------------------------------------------------------------

ODD = [
    1, "x", [1], {}, {"routers": 1}, {"routers": [1, None, []]}, {"routers": [{"methods": 5, "external_path": 7}]},
    {"jwt_secret": {}, "jwt": []}, {"server": {"keep_alive": {}}}, {"external_path": None},
    {"external_path": [], "methods": {}, "hosts": 3, "backends": "x"}, {"external_path": "/a", "backends": [1]},
    {"external_path": "/a", "retry": 5, "rate_limit": 7, "cors": []}, {"a": "\ud800"}, {"strategy": {"Composite": [1]}},
    {"groups": [1]}, {"plugins": "***"}, {"secret": "***"},
]  # fmt: skip
BODIES = [*(json.dumps(value).encode() for value in ODD), b"", b"{", b"\xff\xfe", b"[" * 5000]
WRITES = [
    ("POST", "/api/routes"), ("PUT", "/api/routes/a"), ("POST", "/api/routes/validate"), ("PUT", "/api/config"),
    ("POST", "/api/config/validate"), ("POST", "/api/config/jwt"), ("PUT", "/api/config/rate-limit"),
    ("POST", "/api/config/server"), ("PUT", "/api/config/sections/routers"), ("PUT", "/api/config/sections/groups"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_no_body_is_too_odd_for_an_answer(g, method, path):
    for body in BODIES:
        status, answer = g.admin(method, f"{path}?dry_run=1", body)
        assert status < 500, (body, answer)


@pytest.mark.parametrize(
    ("format_", "body", "said"),
    [
        ("json", b'{"version": 1,\n', "the body is no JSON: line 2: "),
        ("json", b'{"a": 1,\n"a": 2}', "the body is no JSON: line 2: a: this key stands twice"),
        ("json", b"[]", "the body is no JSON: the text must hold an object"),
        ("yaml", b"version: 1\nrouters: [}\n", "the body is no YAML: line 2: "),
        ("toml", b"version = 1\nrouters", "the body is no TOML: Expected "),
    ],
)
def test_a_body_that_is_no_document_is_the_sender_s_mistake_and_says_where(g, format_, body, said):
    for query in ("", "?verbatim=1", "?dry_run=1"):
        status, answer = g.admin("PUT", f"/api/config{query}", body, f"application/{format_}")
        assert (status, answer["detail"][: len(said)]) == (400, said)
