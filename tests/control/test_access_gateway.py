"""The admin port of a real gateway, over TLS: the first account, its password, the next start, and the socket."""

import json
import re
import shutil
import socket
import ssl

import httpx
import pytest

from tests.support.gateway import gateway, route
from tests.support.net import free_port
from tests.support.tls import Authority, client_context

PASSWORD = "a long enough one"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A gateway whose admin port speaks TLS."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    admin = {"port": free_port(), "tls": {"cert_file": authority.file("localhost")}}
    config = {"routers": [route("/a", "http://127.0.0.1:9")], "admin": admin}
    with gateway(config) as g:
        g.wait_log("admin API ready")
        g.url = f"https://localhost:{admin['port']}"
        g.context = client_context(authority)
        g.authority, g.certificate = authority, admin["tls"]["cert_file"]
        yield g


@pytest.fixture
def client(one):
    with httpx.Client(base_url=one.url, verify=one.context, trust_env=False) as made:
        yield made


def one_time_password(g):
    g.wait_log("Kairos made its first account")
    g.wait_log("Lost?")
    (password,) = re.findall(r"^ +password +(\S+)$", g.log, re.M)
    return password


def entries(g):
    return [entry["action"] for entry in g.admin("GET", "/api/audit?actor=admin&outcome=done")[1]["entries"]]


def test_the_first_account_from_the_start_on(one, client):
    password = one_time_password(one)
    assert all(password not in line for line in one.log.splitlines() if line.startswith("{"))
    assert client.get("/api/status").status_code == 401
    made = client.post("/api/login", json={"name": "admin", "password": password})
    assert (made.status_code, made.json()["must_change"]) == (200, True)
    assert "__Host-kairos_session" in client.cookies
    client.headers["X-CSRF-Token"] = made.json()["csrf"]
    assert client.get("/api/status").status_code == 403
    words = {"current_password": password, "new_password": PASSWORD}
    changed = client.post("/api/me/password", json=words)
    client.headers["X-CSRF-Token"] = changed.json()["csrf"]
    assert client.get("/api/status").json()["phase"] == "running"
    assert client.post("/api/reload").status_code == 200
    one.wait(lambda: entries(one)[:2] == ["gateway.reload", "user.password"], "the entry of the reload")
    assert password not in json.dumps(one.admin("GET", "/api/audit"))
    assert one.admin("GET", "/api/audit/verify")[1]["intact"] is True


def test_another_name_is_not_served(one, client):
    assert client.get("/api/me", headers={"Host": "evil.test"}).status_code == 421


def served_certificate(one):
    port = int(one.url.rpartition(":")[2])
    return ssl.get_server_certificate(("127.0.0.1", port)) if listening(port) else ""


def listening(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


def test_a_renewed_certificate_is_taken_up(one):
    before = served_certificate(one)
    assert before
    shutil.copy(one.authority.file("localhost", name="renewed"), one.certificate)
    assert one.admin("POST", "/api/reload")[0] == 200
    one.wait(lambda: served_certificate(one) not in ("", before), "the new certificate")


def test_the_socket_rescues_who_lost_the_password(one, client):
    status, answer = one.admin("POST", "/api/users/admin/password", {})
    assert status == 200
    made = client.post("/api/login", json={"name": "admin", "password": answer["one_time_password"]})
    assert (made.status_code, made.json()["must_change"]) == (200, True)


def test_the_next_start_makes_no_account(one):
    one.restart()
    one.wait_log("admin API ready")
    one.wait(lambda: one.admin("GET", "/api/users")[0] == 200, "the database")
    assert [user["name"] for user in one.admin("GET", "/api/users")[1]] == ["admin"]
    assert "Kairos made its first account" not in one.log


def test_a_password_from_the_environment_and_no_banner():
    config = {"routers": [route("/a", "http://127.0.0.1:9")], "admin": {"port": free_port()}}
    with gateway(config, env={"KAIROS_ADMIN_PASSWORD": PASSWORD}) as g:
        g.wait_log("the account admin was made")
        answer = httpx.post(
            f"http://127.0.0.1:{config['admin']['port']}/api/login", json={"name": "admin", "password": PASSWORD},
            trust_env=False,
        )  # fmt: skip
        assert (answer.status_code, answer.json()["must_change"]) == (200, False)
        assert "password  " not in g.log
        assert PASSWORD not in g.log
