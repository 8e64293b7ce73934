"""Routes over the admin API: what comes of each call in every worker, in the file and in the answer."""

import json
import socket
from urllib.parse import quote

import pytest

from tests.support.gateway import gateway, route
from tests.support.net import Peer, echo, origin

SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def g():
    with origin(echo) as backend:
        old = {"host": backend.url.rpartition(":")[0], "port": int(backend.url.rpartition(":")[2])}
        legacy = {**old, "external_path": "/a", "internal_path": "/b", "methods": ["GET"]}
        split = [
            route("/split", backend.url, methods=["GET"]),
            route("/split", backend.url, methods=["POST"], hosts=["a.test"]),
        ]
        modern = route("/c/{id}", backend.url, "/{id}", retry={}, load_balancing_strategy="weighted")
        with gateway({"routers": [legacy, modern, *split]}, workers=2) as made:
            made.url, made.old = backend.url, old
            yield made


def ask(g, method, path, body=b"", status=200):
    found, answer = g.admin(method, path, body)
    assert found == status, answer
    return answer


def every_worker_says(g, path, status):
    """New connections go to both."""
    for _ in range(8):
        assert f" {status} ".encode() in g.get(path)[0].split(b"\r\n")[0], path


# --- kairos-rs's contract -------------------------------------------------------------------------------------------


def test_routes_are_listed_in_kairos_rs_s_form(g):
    answer = ask(g, "GET", "/api/routes")
    assert answer["success"] is True
    assert answer["message"] == f"Found {len(answer['routes'])} routes"
    shown = {key: value for key, value in answer["routes"][0].items() if key != "id"}
    assert shown == {
        **g.old, "protocol": "http", "load_balancing_strategy": "round_robin", "external_path": "/a",
        "internal_path": "/b", "methods": ["GET"], "auth_required": False,
    }  # fmt: skip
    modern = answer["routes"][1]
    assert modern["backends"][0] == {**g.old, "weight": 1, "health_check_path": None}
    assert modern["retry"]["retry_on_status_codes"] == [502, 503, 504]
    assert "host" not in modern


@pytest.mark.parametrize("path", ["c/{id}", quote("c/{id}", safe=""), quote("/c/{id}", safe=""), "c/%7Bid%7D"])
def test_a_path_may_be_raw_or_encoded_with_or_without_its_slash(g, path):
    answer = ask(g, "GET", f"/api/routes/{path}")
    assert (answer["message"], answer["route"]["external_path"]) == ("Route found", "/c/{id}")


def test_create_update_delete_hold_at_once_in_every_worker(g):
    new = route("/crud/x", g.url, methods=["GET"])
    made = ask(g, "POST", "/api/routes", new, 201)
    assert (made["success"], made["message"]) == (True, "Route created successfully")
    assert made["route"]["external_path"] == "/crud/x"
    every_worker_says(g, "/crud/x", 200)
    updated = ask(g, "PUT", "/api/routes/crud/x", {**made["route"], "methods": ["POST"]})
    assert updated["message"] == "Route updated successfully"
    every_worker_says(g, "/crud/x", 405)
    gone = ask(g, "DELETE", "/api/routes/%2Fcrud%2Fx")
    assert gone["message"] == "Route deleted successfully"
    every_worker_says(g, "/crud/x", 404)
    assert "/crud/x" not in g.config_path.read_text()


@pytest.mark.parametrize(
    ("method", "path", "change", "status", "message"),
    [
        ("POST", "", {"external_path": "no-slash"}, 400, "Route validation failed: "),
        ("POST", "", {"methods": ["get"]}, 400, "Route validation failed: "),
        ("POST", "", {"backends": []}, 400, "Route validation failed: "),
        ("POST", "", {"colour": "red"}, 400, "Route validation failed: "),
        ("POST", "", {"external_path": "/a"}, 409, "Route already exists: /a"),
        ("PUT", "/a", {"external_path": "/b"}, 400, "Route external_path must match URL parameter"),
        ("PUT", "/none", {"external_path": "/none"}, 404, "Route not found: /none"),
        ("DELETE", "/none", {}, 404, "Route not found: /none"),
        ("GET", "/none", {}, 404, "Route not found: /none"),
        ("PUT", "/split", {"external_path": "/split", "methods": ["PUT"]}, 409, "say which"),
    ],
)
def test_what_is_refused(g, method, path, change, status, message):
    before = g.config_path.read_bytes()
    answer = ask(g, method, f"/api/routes{path}", {**route("/refused", g.url), **change}, status)
    assert answer["success"] is False
    assert message in answer["message"]
    assert answer["message"] == answer["detail"]
    assert g.config_path.read_bytes() == before


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b""])
def test_what_is_no_route_at_all(g, body):
    for method, path in (("POST", ""), ("PUT", "/a"), ("POST", "/validate")):
        answer = ask(g, method, f"/api/routes{path}", body, 400)
        assert answer["success"] is False
        assert "Json deserialize error" in answer["message"]


def test_validation_changes_nothing(g):
    before = g.config_path.read_bytes()
    assert ask(g, "POST", "/api/routes/validate", {"route": route("/checked", g.url)})["valid"] is True
    there = {**g.old, "external_path": "/a", "methods": ["GET"]}
    assert ask(g, "POST", "/api/routes/validate", {"route": there})["valid"] is True
    bad = ask(g, "POST", "/api/routes/validate", {"route": route("/checked", "http://127.0.0.1:0")})
    assert bad["valid"] is False
    assert "port" in bad["error"].lower()
    assert "nothing has changed" not in bad["error"]  # who only asks did not want it to
    assert ask(g, "POST", "/api/routes/validate", {}, 400)["problems"]
    assert g.config_path.read_bytes() == before


# --- beyond it ------------------------------------------------------------------------------------------------------


def test_routes_of_one_path_are_told_apart(g):
    both = ask(g, "GET", "/api/routes?path=/split")["routes"]
    assert len(both) == 2
    assert ask(g, "GET", "/api/routes/split?methods=POST")["route"]["hosts"] == ["a.test"]
    assert ask(g, "GET", "/api/routes/split?host=a.test")["route"]["methods"] == ["POST"]
    for found in both:
        assert ask(g, "GET", f"/api/routes/split?id={found['id']}")["route"] == found
    changed = ask(g, "PUT", "/api/routes/split", {**both[0], "priority": 7})
    assert changed["diff"][0]["route"] == "GET /split"


def test_lists_are_filtered_and_paged(g):
    every = ask(g, "GET", "/api/routes")["routes"]
    page = ask(g, "GET", "/api/routes?limit=1&offset=1")
    assert (page["routes"], page["total"]) == (every[1:2], len(every))
    assert [one["external_path"] for one in ask(g, "GET", "/api/routes?host=a.test")["routes"]] == ["/split"]
    assert ask(g, "GET", "/api/routes?protocol=websocket")["routes"] == []
    assert len(ask(g, "GET", f"/api/routes?backend={g.url.rpartition(':')[0]}")["routes"]) == len(every)


def with_headers(g, method, path, body=b"", **headers):
    """Head and answer on the admin socket."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(g.state_dir / "admin.sock"))
        peer = Peer(sock)
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\nConnection: close\r\n{lines}\r\n"
        peer.send(head.encode() + data)
        return peer.receive_response()


def test_a_tag_holds_a_change_to_what_was_looked_at(g):
    head = with_headers(g, "GET", "/api/routes/a")[0].decode()
    tag = next(line[6:] for line in head.split("\r\n") if line.lower().startswith("etag: "))
    assert b" 304 " in with_headers(g, "GET", "/api/config", If_None_Match=tag)[0].split(b"\r\n")[0]
    made = with_headers(g, "POST", "/api/routes", route("/tagged", g.url), If_Match=tag)
    assert b" 201 " in made[0].split(b"\r\n")[0]
    late = with_headers(g, "DELETE", "/api/routes/tagged", If_Match=tag)
    assert b" 412 " in late[0].split(b"\r\n")[0]
    assert json.loads(late[1])["success"] is False
    now = f'"old", "{json.loads(made[1])["etag"]}"'
    assert b" 200 " in with_headers(g, "DELETE", "/api/routes/tagged", If_Match=now)[0].split(b"\r\n")[0]


def test_secrets_are_masked_and_a_mask_written_back_keeps_them(g):
    rules = [{"action": "set", "name": "Authorization", "value": f"Bearer {SECRET}"}]
    new = route("/masked", g.url, request_transformation={"headers": rules})
    made = ask(g, "POST", "/api/routes", new, 201)
    assert SECRET not in json.dumps(made)
    again = ask(g, "PUT", "/api/routes/masked", {**made["route"], "priority": 3})
    assert SECRET not in json.dumps(again)
    assert SECRET in g.config_path.read_text()
    refused = ask(g, "POST", "/api/routes", {**made["route"], "external_path": "/elsewhere"}, 400)
    assert "is a mask" in refused["message"]
