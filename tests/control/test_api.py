"""Commands to a running gateway, as they come over its admin socket."""

import os
import signal
import socket
import stat
from urllib.parse import quote

import pytest

from kairos import __version__
from tests.support.gateway import gateway, route
from tests.support.net import Peer, echo, origin

OK = b"HTTP/1.1 200 OK"
ONE = {"routers": [route("/a", "http://127.0.0.1:9")]}


@pytest.fixture(scope="module")
def one():
    """A gateway before two origins, one of them with a health check."""
    with origin(echo) as first, origin(echo) as second:
        both = route("/a", f"{first.url},{second.url}")
        both["backends"][0]["health_check_path"] = "/health"
        with gateway({"routers": [both]}, workers=2) as g:
            g.urls = [first.url, second.url]
            yield g


def backend(g, number, rest=""):
    return f"/api/backends/{quote(g.urls[number], safe='')}{rest}"


def test_status(one):
    status, answer = one.admin("GET", "/api/status")
    assert status == 200
    assert (answer["version"], answer["pid"], answer["phase"]) == (__version__, one.process.pid, "running")
    assert (answer["config"], answer["state_dir"]) == (str(one.config_path), str(one.state_dir))
    assert [worker["slot"] for worker in answer["workers"]] == [0, 1]
    assert {worker["revision"] for worker in answer["workers"]} == {answer["revision"]}
    assert all(worker["pid"] > 0 and worker["started_at"] > 1e9 for worker in answer["workers"])
    assert answer["uptime"] > 0


def test_the_socket_is_the_users_own(one):
    assert stat.S_IMODE((one.state_dir / "admin.sock").stat().st_mode) == 0o600


def test_backends_are_listed_and_found(one):
    status, answer = one.admin("GET", "/api/backends")
    assert status == 200
    assert [found["key"] for found in answer] == one.urls
    assert one.admin("GET", backend(one, 1))[1]["key"] == one.urls[1]


def test_a_drained_backend_gets_nothing_until_it_is_activated(one):
    status, answer = one.admin("PATCH", backend(one, 0), {"state": "drain"})
    assert (status, answer["state"]) == (200, "draining")
    before = answer["attempts"]
    for _ in range(4):
        assert one.get("/a")[0].startswith(OK)
    assert one.admin("GET", backend(one, 0))[1]["attempts"] == before
    assert one.admin("PATCH", backend(one, 0), {"state": "active"})[1]["state"] == "healthy"


def test_weight_and_breaker(one):
    answer = one.admin("PATCH", backend(one, 1), {"weight": 50, "breaker": "open"})[1]
    assert (answer["weight"], answer["breaker_forced"]) == (50, "open")
    answer = one.admin("PATCH", backend(one, 1), {"weight": 100, "breaker": "auto"})[1]
    assert (answer["weight"], answer["breaker_forced"]) == (100, None)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[]", "Expected `object`"),
        ({"state": "gone"}, "Invalid enum value 'gone'"),
        ({"weight": 101}, "percentage"),
        ({"weight": "all"}, "Expected `int"),
        ({"stat": "drain"}, "unknown field `stat`"),
    ],
)
def test_a_change_that_makes_no_sense_changes_nothing(one, body, reason):
    before = one.admin("GET", backend(one, 0))[1]
    status, answer = one.admin("PATCH", backend(one, 0), body)
    assert (status, answer["status"], answer["title"]) == (422, 422, "Unprocessable Entity")
    assert reason in answer["detail"]
    assert one.admin("GET", backend(one, 0))[1]["state"] == before["state"]


def test_what_is_no_json_is_told_so(one):
    status, answer = one.admin("PATCH", backend(one, 0), b"{")
    assert (status, answer["status"], answer["title"]) == (400, 400, "Bad Request")


def test_a_backend_is_probed_now(one):
    before = one.admin("GET", backend(one, 0))[1]["checks"]
    status, answer = one.admin("POST", backend(one, 0, "/probe"))
    assert status == 200
    assert answer["checks"] > before
    assert answer["check"]["last_ok"]


def test_a_backend_without_a_check_is_not_probed(one):
    status, answer = one.admin("POST", backend(one, 1, "/probe"))
    assert status == 409
    assert "has no health check" in answer["detail"]


def test_a_backend_that_nobody_has(one):
    for method, rest in (("GET", ""), ("PATCH", ""), ("POST", "/probe")):
        status, answer = one.admin(
            method, f"/api/backends/http:%2F%2Fnobody:1{rest}", {"weight": 5} if not rest else b""
        )
        assert status == 404
        assert "no route has a backend 'http://nobody:1'" in answer["detail"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/api/revisions/x", 404), ("GET", "/api/revisions/99", 404),
     ("POST", "/api/status", 405), ("GET", "/api/reload", 405), ("DELETE", "/api/backends/x", 405)],
)  # fmt: skip
def test_what_there_is_not(one, method, path, status):
    got, answer = one.admin(method, path)
    assert (got, answer["status"]) == (status, status)


def test_workers_and_clients_cannot_command(one):
    for path in ("/api/status", "/metrics/../api/status", "/api/backends"):
        head, body = one.get(path)
        assert head.startswith(b"HTTP/1.1 404")
        assert b"phase" not in body


def raw(g):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(g.state_dir / "admin.sock"))
    return Peer(sock)


def test_a_body_that_is_too_large_is_not_read(one):
    with raw(one) as peer:
        peer.send(b"PATCH /api/backends/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n")
        assert peer.receive_response()[0].startswith(b"HTTP/1.1 413")


def test_connections_are_kept_and_commands_that_wait_answer_on_them(one):
    with raw(one) as peer:
        for request in (b"GET /api/status", b"POST /api/reload", b"GET /api/revisions", b"GET /api/status"):
            peer.send(request + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            assert peer.receive_response()[0].startswith(OK)


def test_who_leaves_before_the_answer_disturbs_nobody(one):
    with raw(one) as peer:
        peer.send(b"POST /api/reload HTTP/1.1\r\nHost: x\r\n\r\n")
    assert one.admin("POST", "/api/reload")[0] == 200


def test_what_is_no_http_is_told_so(one):
    with raw(one) as peer:
        peer.send(b"hello\r\n\r\n")
        head, _ = peer.receive_response()
    assert head.startswith(b"HTTP/1.1 400")


def test_commands_wait_for_the_next_control_process():
    with gateway(ONE) as g:
        before = g.child("kairos-control")
        os.kill(before, signal.SIGKILL)
        assert g.admin("GET", "/api/status")[0] == 200
        g.wait(lambda: g.child("kairos-control") not in (0, before), "another control process")


def test_the_socket_goes_with_the_gateway():
    with gateway(ONE) as g:
        pass
    assert not (g.state_dir / "admin.sock").exists()


def test_a_second_gateway_of_a_state_folder_runs_without():
    with gateway(ONE) as g, gateway(ONE, env={"KAIROS_STATE_DIR": str(g.state_dir)}) as other:
        other.wait_log("running without state")
        assert f"in use by process {g.process.pid}; give this gateway its own with --state-dir" in other.log
        assert g.admin("GET", "/api/status")[1]["pid"] == g.process.pid


def test_a_folder_whose_path_is_too_long_for_a_socket():
    with gateway(ONE) as short:
        folder = short.folder / ("x" * 100)
        with gateway(ONE, env={"KAIROS_STATE_DIR": str(folder)}) as g:
            g.wait_log("no admin socket")
            assert "more than 107 bytes; choose a shorter --state-dir" in g.log
            g.wait(lambda: list(folder.glob("revisions/*.meta")), "a kept revision")
