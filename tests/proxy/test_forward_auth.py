"""Another service decides: what it is told, what becomes of its answers, and for whom an answer holds."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kairos.config.problems import ConfigError
from kairos.config.secrets import key_hash
from tests.support.gateway import route
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import Peer, connect, dead_port, echo, free_port, origin, read_request, status_of
from tests.support.nginx import nginx
from tests.support.ws import header

Answer = Callable[[bytes], bytes]
"""The service's answer to the head of a question."""


class Service:
    """Answers as it is told to; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.answer: Answer = lambda _: reply(200)
        self.hold: threading.Event | None = None

    def __call__(self, peer: Peer) -> None:
        with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
            while True:
                head, body = read_request(peer)
                assert body == b""
                self.asked.append(head)
                if self.hold is not None:
                    assert self.hold.wait(25)
                peer.send(self.answer(head))


def reply(status: int, *lines: str, body: str = "") -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} X", *lines, f"Content-Length: {len(body)}", "", ""])
    return (head + body).encode("latin-1")


@pytest.fixture
def service() -> Iterator[tuple[Service, str]]:
    made = Service()
    with origin(made) as o:
        yield made, o.url


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(echo) as o:
        yield o.url


def document(url: str, service_url: str, auth: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    return {
        "auth": {"methods": ["forward"], **(auth or {})},
        "forward_auth": {"url": f"{service_url}/verify?for=kairos", **settings},
        "routers": [route("/a/{rest:path}", url, "/a/{rest}")],
        "trusted_proxies": ["127.0.0.1"],
    }


def ask(served: InProcess, *lines: str, path: str = "/a/x") -> tuple[int, bytes, bytes]:
    head, body = served.get(path, *lines)
    return status_of(head), head, body


# --- what it is told ---


def test_what_the_service_is_told(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    with serving(document(backend, url)) as served:
        lines = ["Authorization: Bearer t", "Cookie: a=1", "Cookie: b=2", "X-Other: no", "X-Forwarded-Uri: /fake"]
        status, _, seen = ask(served, *lines, "X-Forwarded-For: 192.0.2.1", path="/a/%7Ex?q=1")
        assert status == 200
        assert header(seen, b"authorization") == b"Bearer t"
    (question,) = made.asked
    assert question.startswith(b"GET /verify?for=kairos HTTP/1.1\r\n")
    told = {name: header(question, name.encode()) for name in (
        "authorization", "x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-proto",
        "x-forwarded-for", "x-other", "host",
    )}  # fmt: skip
    assert told == {
        "authorization": b"Bearer t",
        "x-forwarded-method": b"GET",
        "x-forwarded-uri": b"/a/%7Ex?q=1",
        "x-forwarded-host": b"test",
        "x-forwarded-proto": b"http",
        "x-forwarded-for": b"192.0.2.1",
        "x-other": None,
        "host": url.removeprefix("http://").encode(),
    }
    assert question.count(b"X-Forwarded-Uri: ") == 1
    assert b"Cookie: a=1\r\nCookie: b=2\r\n" in question


def test_it_can_be_told_less_or_all(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    lines = ["Authorization: t", "X-Other: yes", "Range: bytes=0-1", "If-None-Match: x", "Accept-Encoding: br", "TE: x"]
    with serving(document(backend, url, tell=[], request_headers=["x-other"], method="POST")) as served:
        assert ask(served, *lines, "X-Forwarded-For: 192.0.2.1")[0] == 200
        served.configure(document(backend, url, request_headers=["*"]))
        assert ask(served, *lines)[0] == 200
    little, everything = made.asked
    assert little.startswith(b"POST /verify")
    assert header(little, b"x-other") == b"yes"
    for part in (b"authorization", b"x-forwarded-uri", b"x-forwarded-method", b"192.0.2.1", b": test"):
        assert part not in little.lower()
    assert (header(everything, b"x-other"), header(everything, b"authorization")) == (b"yes", b"t")
    for part in (b"range", b"if-none-match", b"accept-encoding", b"\nte:"):
        assert part not in everything.lower()


# --- what becomes of its answers ---


def test_consent_tells_the_backend_and_replaces_what_a_client_says(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    made.answer = lambda _: reply(204, "Remote-User: ann", "X-Groups: a", "X-Groups: b", "X-Secret: s")
    told = {"response_headers": ["Remote-User", "X-Groups", "X-Admin"], "user_header": "Remote-User"}
    auth = {"claims_to_headers": {"sub": "X-Sub"}}
    with serving(document(backend, url, auth, **told)) as served:
        status, head, seen = ask(served, "Remote-User: root", "X-Groups: wheel", "X-Admin: yes", "X-Sub: root")
        assert status == 200
        names = (b"remote-user", b"x-groups", b"x-admin", b"x-sub", b"x-secret")
        assert [header(seen, name) for name in names] == [b"ann", b"a, b", None, b"ann", None]
        assert b"remote-user" not in head.lower()


def test_refusals_reach_the_client(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    with serving(document(backend, url)) as served:
        answers = {
            401: ["WWW-Authenticate: Basic", "X-Internal: secret"],
            403: ["Content-Type: text/html"],
            302: ["Location: https://login.test/?to=x", "Set-Cookie: a=1", "Set-Cookie: b=2"],
            429: [],
        }
        for status, lines in answers.items():
            made.answer = lambda _, status=status, lines=lines: reply(status, *lines, body="<p>no")
            found, head, body = ask(served)
            assert (found, body) == (status, b"<p>no")
            assert [line in head.decode() for line in lines] == ["Internal" not in line for line in lines]


@pytest.mark.parametrize("answer", [reply(500), reply(503), b"nonsense\r\n\r\n", b""])
def test_no_decision_is_a_refusal(backend: str, service: tuple[Service, str], answer: bytes) -> None:
    made, url = service
    made.answer = lambda _: answer
    with serving(document(backend, url, timeout=0.2)) as served:
        status, head, body = ask(served)
        assert (status, json.loads(body)["code"]) == (503, "auth_unavailable")
        assert header(head, b"retry-after") == b"1"


def test_a_service_that_is_not_there(backend: str) -> None:
    with serving(document(backend, f"http://127.0.0.1:{dead_port()}")) as served:
        assert ask(served)[0] == 503


def test_or_it_lets_everybody_through_where_that_is_wanted(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    made.answer = lambda _: reply(500)
    settings = {"on_failure": "allow", "response_headers": ["Remote-User"]}
    with serving(document(backend, url, {"claims_to_headers": {"sub": "X-Sub"}}, **settings)) as served:
        status, _, seen = ask(served, "Remote-User: root", "X-Sub: root")
        assert status == 200
        assert b"root" not in seen
        made.answer = lambda _: reply(403)
        assert ask(served)[0] == 403


def test_an_answer_too_large_is_none(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    made.answer = lambda _: reply(403, body="x" * 70_000)
    with serving(document(backend, url)) as served:
        assert ask(served)[0] == 503


def test_of_several_methods_only_this_one_may_say_who_it_is(backend: str, service: tuple[Service, str]) -> None:
    """Where another method decides, a client cannot pass for somebody the service has named."""
    made, url = service
    config = document(backend, url, {"methods": ["api_key", "forward"]}, response_headers=["Remote-User"])
    config["api_keys"] = {"keys": [{"id": "k", "key_hash": key_hash("k3y")}]}
    with serving(config) as served:
        status, _, seen = ask(served, "X-API-Key: k3y", "Remote-User: root")
        assert status == 200
        assert b"root" not in seen
        assert made.asked == []
        assert ask(served)[0] == 200
        assert len(made.asked) == 1


# --- what is remembered ---

CACHED = {"cache_time": 60, "response_headers": ["Remote-User"]}


def by_token(head: bytes) -> bytes:
    """ann's token is good, and nobody else's."""
    name = (header(head, b"authorization") or b"").decode()
    return reply(200, f"Remote-User: {name}") if name in ("ann", "bob") else reply(401)


def test_consent_is_remembered_for_the_same_question(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    made.answer = by_token
    with serving(document(backend, url, **CACHED)) as served:
        for _ in range(3):
            status, _, seen = ask(served, "Authorization: ann", "Remote-User: root", "X-Not-Told: x")
            assert (status, header(seen, b"remote-user")) == (200, b"ann")
        assert len(made.asked) == 1
        served.configure(document(backend, url, **CACHED))
        assert ask(served, "Authorization: ann")[0] == 200
        assert len(made.asked) == 1


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/a/x", ["Authorization: bob"]),
        ("/a/x", []),
        ("/a/y", ["Authorization: ann"]),
        ("/a/x?", ["Authorization: ann"]),
        ("/a/x", ["Authorization: ann", "Cookie: a=1"]),
        ("/a/x", ["Authorization: ann", "X-Forwarded-For: 192.0.2.9"]),
    ],
)
def test_nothing_less_than_what_it_was_told(
    backend: str, service: tuple[Service, str], path: str, lines: list[str]
) -> None:
    """Any difference that the service could have seen is another question."""
    made, url = service
    made.answer = by_token
    with serving(document(backend, url, **CACHED)) as served:
        assert ask(served, "Authorization: ann")[0] == 200
        ask(served, *lines, path=path)
        assert len(made.asked) == 2


def test_what_it_was_not_told_makes_no_difference(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    made.answer = by_token
    with serving(document(backend, url, tell=[], **CACHED)) as served:
        for path in ("/a/x", "/a/y?q=1"):
            assert ask(served, "Authorization: ann", f"X-Forwarded-For: 192.0.2.{len(path)}", path=path)[0] == 200
        assert len(made.asked) == 1


def test_refusals_and_failures_are_not_remembered(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    with serving(document(backend, url, **CACHED)) as served:
        for status, seen in ((401, 401), (500, 503), (302, 302), (200, 200)):
            made.answer = lambda _, status=status: reply(status)
            assert ask(served)[0] == seen
        assert len(made.asked) == 4


@pytest.mark.parametrize("control", ["no-store", "private, no-cache", "max-age=0", 'max-age="0"'])
def test_the_service_may_forbid_it(backend: str, service: tuple[Service, str], control: str) -> None:
    made, url = service
    made.answer = lambda _: reply(200, f"Cache-Control: {control}")
    with serving(document(backend, url, **CACHED)) as served:
        assert [ask(served)[0] for _ in range(3)] == [200] * 3
        assert len(made.asked) == 3


def test_the_oldest_answer_goes_first(backend: str, service: tuple[Service, str]) -> None:
    made, url = service
    with serving(document(backend, url, cache_size=2, **CACHED)) as served:
        for name in ("1", "2", "1", "3", "1", "2"):
            assert ask(served, f"Authorization: {name}")[0] == 200
        assert [header(question, b"authorization") for question in made.asked] == [b"1", b"2", b"3", b"2"]


@pytest.mark.parametrize(("settings", "questions"), [(CACHED, 1), ({}, 8)])
def test_those_who_ask_the_same_at_once_wait_for_one_answer(
    backend: str, service: tuple[Service, str], settings: dict[str, Any], questions: int
) -> None:
    made, url = service
    made.hold = threading.Event()
    with serving(document(backend, url, **settings)) as served:
        peers = [connect(served.port) for _ in range(8)]
        for peer in peers:
            peer.send(b"GET /a/x HTTP/1.1\r\nHost: test\r\n\r\n")
        served.wait(lambda: len(made.asked) == questions, "questions")
        peers.pop(0).reset()
        if questions == 1:  # whoever asked first may leave; the others get the answer
            served.wait(lambda: len(served.runtime.clients) == 8, "end of a client")
        made.hold.set()
        assert [status_of(peer.receive_response()[0]) for peer in peers] == [200] * 7
        for peer in peers:
            peer.close()
        assert len(made.asked) == questions
        assert served.reports == []


# --- a service that nobody here wrote ---


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[str]:
    """An nginx that knows ann's password."""
    port = free_port()
    hashed = subprocess.run(["openssl", "passwd", "-apr1", "secret"], capture_output=True, text=True, check=True).stdout
    (tmp_path / "users").write_text(f"ann:{hashed}")
    server = f"""
        listen 127.0.0.1:{port};
        auth_basic "wiki"; auth_basic_user_file {tmp_path}/users;
        location = /verify {{ add_header Remote-User $remote_user; try_files /none =204; }}
    """
    with nginx(tmp_path, server):
        yield f"http://127.0.0.1:{port}"


def test_nginx_decides(backend: str, guard: str, tmp_path: Path) -> None:
    def basic(password: str) -> str:
        return "Authorization: Basic " + base64.b64encode(f"ann:{password}".encode()).decode()

    told = {"response_headers": ["Remote-User"], "user_header": "Remote-User", "cache_time": 60}
    with serving(document(backend, guard, **told)) as served:
        for _ in range(3):
            status, _, seen = ask(served, basic("secret"), "Remote-User: root")
            assert (status, header(seen, b"remote-user")) == (200, b"ann")
        for lines in ([], [basic("wrong")]):
            status, head, _ = ask(served, *lines)
            assert (status, header(head, b"www-authenticate")) == (401, b'Basic realm="wiki"')
    served.wait(lambda: len((tmp_path / "access.log").read_text().splitlines()) >= 3, "lines")
    assert len((tmp_path / "access.log").read_text().splitlines()) == 3


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "auth.internal/verify"}, r"forward_auth\.url: 'auth.internal/verify' is no address to ask"),
        ({"url": "ftp://a/x"}, "is no address to ask"),
        ({"url": "http://a:99999/"}, "is no address to ask"),
        ({"url": "http://user@a/"}, "is no address to ask"),
        ({"url": "http://a/x y"}, "is no address to ask"),
        ({"url": "http://a/#x"}, "is no address to ask"),
        ({"request_headers": ["a b"]}, r"forward_auth\.request_headers\[0\]: 'a b' is no header name"),
        ({"request_headers": ["Host"]}, r"request_headers\[0\]: Host is written by the gateway itself"),
        ({"response_headers": ["X-Forwarded-For"]}, r"response_headers\[0\]: X-Forwarded-For is written"),
        ({"client_headers": ["Content-Length"]}, r"client_headers\[0\]: Content-Length is written"),
        ({"user_header": ""}, r"user_header: '' is no header name"),
        ({"tell": ["everything"]}, r"forward_auth\.tell\[0\]"),
        ({"cache_time": 9, "tell": [], "request_headers": []}, "the first consent would hold for everybody"),
    ],
)
def test_mistakes_are_told(settings: dict[str, Any], message: str) -> None:
    config = document("http://127.0.0.1:1", "http://127.0.0.1:2")
    with pytest.raises(ConfigError, match=message):
        checked({**config, "forward_auth": {**config["forward_auth"], **settings}})
