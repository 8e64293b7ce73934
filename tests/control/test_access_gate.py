"""Names by which the admin API may be called, pages that may call it, and headers of every answer."""

import asyncio

import pytest

from kairos.config.admin import Admin
from kairos.control.api.gate import knows_host, same_origin
from tests.control.access_app import served

ADMIN = Admin(host="gw.internal", allowed_hosts=["ops.example.com", "*.corp.test"], allowed_origins=["https://ui.test"])


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:5901", "a.localhost", "127.0.0.1", "127.0.0.1:5901", "[::1]:5901", "[::1]", "10.1.2.3:80",
     "gw.internal", "GW.internal:5901", "ops.example.com", "ops.example.com.:1", "a.corp.test"],
)  # fmt: skip
def test_names_that_are_known(host):
    assert knows_host(ADMIN, host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.test", "evil.test:5901", "localhost.evil.test", "corp.test", "a.b.corp.test", "127.0.0.1.evil.test",
     "ops.example.com, evil.test", "[::1", "user@evil.test", ":5901", "xn--", "127.1.evil", "[x]:1"],
)  # fmt: skip
def test_names_that_are_not(host):
    assert not knows_host(ADMIN, host)


def test_origins_are_compared_whole():
    assert same_origin("http://127.0.0.1:5901", "127.0.0.1:5901")
    assert same_origin("https://OPS.example.com", "ops.example.com")
    for origin in (
        "null",
        "",
        "http://127.0.0.1",
        "http://127.0.0.1:5902",
        "http://evil.test",
        "http://[",
        "127.0.0.1:5901",
    ):
        assert not same_origin(origin, "127.0.0.1:5901")


def answered(tmp_path, *requests, kind="remote"):
    async def main():
        async with served(f"sqlite:///{tmp_path / 'kairos.db'}", ADMIN) as s:
            client = s.client(kind)
            return [await client.request(method, path, headers=headers) for method, path, headers in requests]

    return asyncio.run(main())


def test_another_name_is_refused_before_anything_is_looked_at(tmp_path):
    answers = answered(
        tmp_path, ("GET", "/api/me", {"Host": "evil.test"}), ("GET", "/docs", {"Host": "evil.test"}),
        ("POST", "/api/login", {"Host": "evil.test"}),
    )  # fmt: skip
    assert [one.status_code for one in answers] == [421, 421, 421]
    assert answers[0].json()["detail"].endswith("admin.allowed_hosts")
    assert answers[0].headers["content-type"] == "application/problem+json"


def test_the_local_socket_is_called_as_one_likes(tmp_path):
    (answer,) = answered(tmp_path, ("GET", "/api/me", {"Host": "x", "Origin": "http://evil.test"}), kind="local")
    assert (answer.status_code, answer.json()["method"]) == (200, "local")


def test_pages_of_other_origins_are_refused(tmp_path):
    origins = ["http://evil.test", "null", "http://127.0.0.1:80", "https://ui.test.evil.test"]
    answers = answered(tmp_path, *(("POST", "/api/login", {"Origin": origin}) for origin in origins))
    assert [one.status_code for one in answers] == [403] * 4
    assert all("access-control-allow-origin" not in one.headers for one in answers)


def test_its_own_page_is_let_in(tmp_path):
    (answer,) = answered(tmp_path, ("GET", "/api/me", {"Origin": "http://127.0.0.1:5901"}))
    assert answer.status_code == 401
    assert "access-control-allow-origin" not in answer.headers


def test_pages_of_allowed_origins_may_read(tmp_path):
    asked = {"Origin": "https://ui.test", "Access-Control-Request-Method": "PATCH"}
    preflight, answer = answered(
        tmp_path, ("OPTIONS", "/api/users/x", asked | {"Access-Control-Request-Headers": "x-csrf-token"}),
        ("GET", "/api/me", {"Origin": "https://ui.test"}),
    )  # fmt: skip
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "https://ui.test"
    assert preflight.headers["access-control-allow-headers"] == "x-csrf-token"
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "https://ui.test"
    assert "Origin" in answer.headers["vary"]


def test_every_answer_has_the_headers(tmp_path):
    for answer in answered(tmp_path, ("GET", "/docs", {}), ("GET", "/api/me", {}), ("GET", "/no/such", {}),
                           ("GET", "/api/me", {"Host": "evil.test"})):  # fmt: skip
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_websocket_of_another_page_is_refused(tmp_path):
    async def main():
        async with served(f"sqlite:///{tmp_path / 'kairos.db'}", ADMIN) as s:
            sent = []

            async def receive():
                return {"type": "websocket.connect"}

            async def send(message):
                sent.append(message)

            for name, value in ((b"origin", b"http://evil.test"), (b"x", b"y")):
                scope = {
                    "type": "websocket", "scheme": "ws", "path": "/ws/metrics", "raw_path": b"/ws/metrics",
                    "query_string": b"", "headers": [(b"host", b"127.0.0.1:5901"), (name, value)], "subprotocols": [],
                    "client": ("192.0.2.1", 1), "server": ("127.0.0.1", 5901), "extensions": {}, "root_path": "",
                }  # fmt: skip
                await s.app(scope, receive, send)
            return sent

    first, *_ = asyncio.run(main())
    assert (first["type"], first["code"]) == ("websocket.close", 4403)
