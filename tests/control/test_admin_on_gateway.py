"""The admin API on the gateway's own port: the same, under the same authentication, and only where it was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from litestar.handlers import HTTPRouteHandler

from kairos.cli.manage import main
from kairos.config.interpolate import interpolate
from kairos.config.load import judged, loads
from kairos.config.problems import ConfigError, Findings
from kairos.control.api.app import all_handlers
from tests.support.gateway import gateway, route
from tests.support.net import echo, origin
from tests.support.ws import handshake

HUSH = [f"hush-{number}-which-is-longer-than-thirty-two" for number in range(3)]
FEEDS = {"/api/events", "/api/events/metrics", "/api/tail", "/api/logs/tail"}


@pytest.fixture(scope="module")
def one():
    sso = {"issuer": "https://idp.test", "client_id": "x", "client_secret": HUSH[0]}
    admin = {"host": "127.0.0.1", "port": 0, "on_gateway": True, "allowed_hosts": ["test"], "sso": sso}
    with origin(echo) as backend:
        routes = [route("/api/{x:path}", backend.url), route("/api/own", backend.url), route("/a", backend.url)]
        config = {"routers": routes[1:], "admin": admin, "jwt": {"secret": HUSH[1]}, "redis": {"url": "${HUSH_URL}"}}
        with gateway(config, env={"HUSH_URL": f"redis://u:{HUSH[2]}@127.0.0.1:1"}) as g:
            g.wait(lambda: g.get("/docs")[0].startswith(b"HTTP/1.1 200"), "the admin API")
            made = {"name": "ann", "roles": ["viewer"], "password": "a long pass phrase"}
            g.wait(lambda: g.admin("POST", "/api/users", made)[0] == 201, "an account")
            g.token = g.admin("POST", "/api/users/ann/tokens", {"name": "t"})[1]["token"]
            yield g


def ask(g, method, path, *lines, body=b""):
    head = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}", *lines]
    answer, said = g.request("\r\n".join([*head, "", ""]).encode() + body)
    return int(answer.split()[1]), said


def test_nobody_may_do_anything(one):
    assert ask(one, "GET", "/api/status")[0] == 401
    assert ask(one, "GET", "/api/config")[0] == 401
    assert ask(one, "POST", "/api/reload")[0] == 401
    assert ask(one, "GET", "/api/status", "X-Forwarded-For: 127.0.0.1")[0] == 401


def test_a_token_may_do_what_its_user_may(one):
    bearer = f"Authorization: Bearer {one.token}"
    code, said = ask(one, "GET", "/api/status", bearer)
    assert (code, json.loads(said)["phase"]) == (200, "running")
    assert ask(one, "POST", "/api/reload", bearer)[0] == 403
    entries: list[dict[str, object]] = []

    def told():
        entries[:] = one.admin("GET", "/api/audit?actor=ann&outcome=refused")[1]["entries"]
        return entries

    one.wait(told, "the entry")
    assert entries[0]["address"] == "127.0.0.1"


def test_the_description_and_its_page(one):
    assert b'"openapi":"3.1' in ask(one, "GET", "/openapi.json")[1].replace(b" ", b"")
    assert ask(one, "GET", "/docs/assets/swagger-ui.css")[0] == 200


def test_a_websocket_feed_needs_a_token_too(one):
    for lines, granted in (((f"Authorization: Bearer {one.token}",), True), ((), False)):
        with one.connect() as peer:
            peer.send(handshake("/ws/metrics", *lines))
            assert peer.receive_head().startswith(b"HTTP/1.1 101") is granted


def test_routes_of_ones_own_are_as_they_were(one):
    assert ask(one, "GET", "/api/own")[0] == 200
    assert ask(one, "GET", "/a")[0] == 200


def test_a_route_to_the_admin_socket_makes_nobody_an_administrator(one):
    backend = {"host": f"unix:{one.state_dir / 'admin.sock'}"}
    hole = {**route("/hole", "http://127.0.0.1:1", "/api/users"), "backends": [backend]}
    status, said = one.admin("POST", "/api/routes", hole)
    assert status in (200, 201), said
    assert ask(one, "GET", "/hole")[0] == 502
    one.wait_log("does a route lead to it")
    assert one.admin("GET", "/api/users")[0] == 200


def bearer_of(g, role):
    made = {"name": f"an-{role}", "roles": [role], "password": "a long pass phrase"}
    assert g.admin("POST", "/api/users", made)[0] == 201
    return f"Authorization: Bearer {g.admin('POST', f'/api/users/an-{role}/tokens', {'name': 't'})[1]['token']}"


def send(g, bearer, method, path, document):
    lines = (bearer, "Content-Type: application/json")
    code, said = ask(g, method, path, *lines, body=json.dumps(document).encode())
    return code, json.loads(said)


def test_an_editor_makes_no_administrators_by_the_configuration(one):
    editor = bearer_of(one, "editor")
    mine = {"issuer": "https://idp.evil.test", "client_id": "x", "default_roles": ["admin"]}
    whole = one.admin("GET", "/api/config")[1]
    admin = {**whole["admin"], "sso": mine}
    for method, path, document in (
        ("PUT", "/api/config/sections/admin", admin),
        ("PUT", "/api/config", {**whole, "admin": admin}),
        ("PUT", "/api/config/sections/storage", {"node": "another"}),
        ("PUT", "/api/config?dry_run=1", {**whole, "admin": admin}),
    ):
        code, said = send(one, editor, method, path, document)
        assert (code, "only an administrator" in said["detail"]) == (403, True)
    assert ask(one, "DELETE", "/api/config/sections/admin", editor)[0] == 403
    assert send(one, editor, "PUT", "/api/config/sections/metrics", {"per_route": False})[0] == 200
    assert one.admin("PUT", "/api/config/sections/storage", {"node": "another"})[0] == 200
    before = one.admin("GET", "/api/revisions")[1][1]["number"]
    assert ask(one, "POST", f"/api/revisions/{before}/rollback", editor)[0] == 403
    assert one.admin("GET", "/api/config")[1]["admin"]["sso"]["issuer"] == "https://idp.test"


def test_to_try_a_configuration_gives_no_secrets_away(one):
    viewer = f"Authorization: Bearer {one.token}"
    made = route("/x", "http://127.0.0.1:1")
    (one.state_dir / "secret").write_text("hush hush")
    for reference in ("${PATH}", f"${{file:{one.state_dir / 'secret'}}}", "x${HOME:-}", "http://u:***@x.test"):
        tried = {**made, "methods": [reference]}
        for path, document in (("config", {"routers": [tried]}), ("routes", {"route": tried})):
            code, said = send(one, viewer, "POST", f"/api/{path}/validate", document)
            assert (code, "config:write" in said["detail"]) == (403, True)
            assert "hush" not in str(said)
    code, said = send(one, viewer, "POST", "/api/config/validate", {"routers": [{**made, "methods": ["LOOK"]}]})
    assert (code, "LOOK" in str(said)) == (200, True)


def test_secrets_are_shown_nowhere_but_in_a_backup(one):
    admin = bearer_of(one, "admin")
    paths = {path for handler in all_handlers() if isinstance(handler, HTTPRouteHandler) for path in handler.paths
             if "GET" in handler.http_methods and "{" not in path}  # fmt: skip
    more = ["/api/config?effective=1", "/api/config/sections/jwt", "/api/config/sections/admin", "/api/revisions/1",
            "/api/config?format=yaml", "/api/logs/recent?log=program", "/api/audit/export"]  # fmt: skip
    assert {"/api/config", "/api/revisions", "/api/status", "/api/plugins", "/api/nodes"} <= paths
    answered = 0
    for path in [*sorted(paths - FEEDS - {"/api/backup"}), *more]:
        code, said = ask(one, "GET", path, admin)
        answered += code == 200
        assert not [secret for secret in HUSH if secret.encode() in said], path
    assert answered > 30
    assert not [secret for secret in HUSH if secret in one.log]


def test_the_first_password_is_nothing_for_a_configuration(tmp_path):
    (tmp_path / "first").write_text("a long pass phrase")
    (tmp_path / "link").symlink_to("first")
    environ = {"KAIROS_ADMIN_PASSWORD": "x", "KAIROS_ADMIN_PASSWORD_FILE": str(tmp_path / "first")}
    for reference in ("${KAIROS_ADMIN_PASSWORD}", "${KAIROS_ADMIN_PASSWORD:-x}", f"${{file:{tmp_path / 'link'}}}"):
        found = Findings()
        assert interpolate({"a": reference}, found, environ, tmp_path) == {"a": reference}
        assert "first account's alone" in found.problems[0].message


def test_the_command_line_from_anywhere(one):
    def kairos(*arguments, code=0):
        done = CliRunner().invoke(main, [*arguments, "--url", f"http://127.0.0.1:{one.port}", "--token", one.token])
        assert done.exit_code == code, done.output
        return done.output

    assert "running for" in kairos("status")
    assert "it needs gateway:operate" in kairos("reload", code=4)
    wrong = CliRunner().invoke(main, ["status", "--url", f"http://127.0.0.1:{one.port}", "--token", "kairos_x_y"])
    assert wrong.exit_code == 4
    nobody = CliRunner().invoke(main, ["status", "--url", "http://127.0.0.1:1"])
    assert (nobody.exit_code, "no gateway answers at http://127.0.0.1:1" in nobody.output) == (2, True)


def test_a_route_in_its_place_is_refused_at_load():
    document = {"admin": {"on_gateway": True}, "routers": [route("/api/{any:path}", "http://127.0.0.1:1", "/")]}
    with pytest.raises(ConfigError, match="is the admin API's while"):
        judged(loads(json.dumps(document).encode(), "json", "config.json"))


def test_without_being_asked_for_it_is_not_there():
    with origin(echo) as backend, gateway({"routers": [route("/a", backend.url)]}) as g:
        assert ask(g, "GET", "/api/status")[0] == 404
        assert ask(g, "GET", "/docs")[0] == 404


def test_once_it_is_switched_off_its_socket_is_gone_and_on_again_it_is_back(one):
    assert (
        one.admin("POST", "/api/users", {"name": "eve", "roles": ["admin"], "password": "a long pass phrase"})[0] == 201
    )
    bearer = f"Authorization: Bearer {one.admin('POST', '/api/users/eve/tokens', {'name': 't'})[1]['token']}"
    admin = one.admin("GET", "/api/config/sections/admin")[1]
    sockets = {line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith("-admin")}
    code, said = send(one, bearer, "PUT", "/api/config/sections/admin", {**admin, "on_gateway": False})
    assert (code, said["success"]) == (200, True)  # by the way that it closes
    assert ask(one, "GET", "/api/status")[0] == 404
    (path,) = [name for name in sockets if not Path(name).exists()]
    assert one.admin("PUT", "/api/config/sections/admin", admin)[0] == 200
    assert Path(path).is_socket()
    one.wait(lambda: ask(one, "GET", "/api/status", bearer)[0] == 200, "the admin API again")
