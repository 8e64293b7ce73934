"""Where tokens stand: header, cookie, query, WebSocket subprotocol; and what of them the backend sees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import echo, origin, status_of
from tests.support.tokens import SECRET, asking, bearer, section, token
from tests.support.ws import echo_frames, frame, handshake, header, read_frame, switching

EVERYWHERE = [{"in": "header"}, {"in": "cookie"}, {"in": "query"}, {"in": "websocket"}]
OTHERWISE = [{"in": "header", "name": "X-Token"}, {"in": "cookie", "name": "sid"}, {"in": "query", "name": "t"}]


def echo_websocket(peer: Any) -> None:
    """Agrees on the first subprotocol offered, and says with a frame what head it saw."""
    head = peer.receive_head()
    offered = header(head, b"sec-websocket-protocol")
    chosen = [b"Sec-WebSocket-Protocol: " + offered.split(b",")[0]] if offered else []
    peer.send(switching(head, *chosen) + frame(head, mask=None))
    echo_frames(peer)


@pytest.fixture(scope="module")
def served() -> Iterator[InProcess]:
    with origin(echo) as o, origin(echo_websocket) as w:

        def back(path: str, port: int, protocol: str = "http") -> dict[str, Any]:
            backend = {"host": "http://127.0.0.1", "port": port}
            members = {"internal_path": path, "methods": ["GET"], "protocol": protocol, "backends": [backend]}
            return {"external_path": path, **members}

        every = bearer(section(secret=SECRET, sources=EVERYWHERE))
        other = bearer(section(secret=SECRET, sources=OTHERWISE))
        chains = [
            Chain("/every", back("/every", o.port), asking(every)),
            Chain("/kept", back("/kept", o.port), asking(every, forward_credentials=False)),
            Chain("/other", back("/other", o.port), asking(other)),
            Chain("/ws", back("/ws", w.port, "websocket"), asking(every)),
            Chain("/header", back("/header", o.port), asking(bearer(section(secret=SECRET)))),
            Chain("/gone", back("/gone", o.port), asking(bearer(section(secret=SECRET)), forward_credentials=False)),
        ]
        with in_process(*chains) as made:
            yield made
            assert made.reports == []


def places(path: str, bearing: str) -> dict[str, tuple[str, list[str]]]:
    if path == "/other":
        return {
            "header": (path, [f"X-Token: {bearing}"]),
            "header, with a scheme": (path, [f"X-Token: bearer {bearing}"]),
            "cookie": (path, [f"Cookie: a=1; sid={bearing}"]),
            "query": (f"{path}?t={bearing}", []),
        }
    return {
        "header": (path, [f"Authorization: Bearer {bearing}"]),
        "cookie": (path, [f"Cookie: a=1; access_token={bearing}; b=2"]),
        "cookie among lines": (path, ["Cookie: a=1", f"Cookie: access_token={bearing}"]),
        "query": (f"{path}?a=1&access_token={bearing}&b=2", []),
        "query, escaped": (f"{path}?a=1&%61ccess_token={bearing.replace('.', '%2E')}&b=2", []),
    }


@pytest.mark.parametrize("place", places("/every", ""))
def test_a_token_is_found(served: InProcess, place: str) -> None:
    target, lines = places("/every", token())[place]
    assert status_of(served.get(target, *lines)[0]) == 200
    target, lines = places("/every", token("another secret of thirty-two bytes."))[place]
    head, body = served.get(target, *lines)
    assert status_of(head) == 401
    assert json.loads(body)["error"] == "Invalid or expired token"


@pytest.mark.parametrize("place", places("/other", ""))
def test_a_token_is_found_under_other_names(served: InProcess, place: str) -> None:
    target, lines = places("/other", token())[place]
    assert status_of(served.get(target, *lines)[0]) == 200


@pytest.mark.parametrize("place", places("/every", ""))
def test_it_is_passed_on_or_not_as_configured(served: InProcess, place: str) -> None:
    good = token()
    target, lines = places("/every", good)[place]
    _, seen = served.get(target, *lines)
    assert good.rpartition(".")[2].encode() in seen
    target, lines = places("/kept", good)[place]
    head, seen = served.get(target, *lines)
    assert status_of(head) == 200
    assert good.rpartition(".")[2].encode() not in seen
    assert b"access_token" not in seen
    kept = b"a=1&b=2" if "?" in target else b"a=1; b=2" if "b=2" in "".join(lines) else b""
    assert kept in seen


def test_only_a_bearer_token_is_kept_back(served: InProcess) -> None:
    assert b"Authorization" not in served.get("/gone", f"Authorization: Bearer {token()}")[1]
    _, seen = served.get("/header", f"Authorization: Bearer {token()}", "X-Token: 1", "Cookie: access_token=1")
    assert b"X-Token: 1\r\n" in seen
    assert b"Cookie: access_token=1\r\n" in seen


@pytest.mark.parametrize(
    "found",
    [
        "/every?access_token={} authorization: bearer {}",
        "/every?access_token={}&access_token={}",
        "/every cookie: access_token={}; access_token={}",
        "/every?access_token={} cookie: access_token={}",
    ],
)
def test_two_tokens_are_refused_and_twice_the_same_is_one(served: InProcess, found: str) -> None:
    one, other = token(), token(sub="bob")
    target, _, line = found.format(one, other).partition(" ")
    head, body = served.get(target, *([line] if line else []))
    assert status_of(head) == 401
    assert json.loads(body)["error"] == "More than one token"
    assert header(head, b"www-authenticate") == b'Bearer realm="kairos", error="invalid_request"'
    target, _, line = found.format(one, one).partition(" ")
    assert status_of(served.get(target, *([line] if line else []))[0]) == 200


@pytest.mark.parametrize(
    "lines",
    [
        ["Cookie: access_token="], ["Cookie: access_token"], ["Cookie: xaccess_token={}"], ["Cookie: Access_Token={}"],
        ["X-Token: {}"], ["Authorization: {}"], ["Authorization: Basic {}"], ["Sec-WebSocket-Protocol: {}"],
        ["Sec-WebSocket-Protocol: bearer"], ["Cookie: a=access_token={}"],
    ],
)  # fmt: skip
def test_what_stands_elsewhere_is_no_token(served: InProcess, lines: list[str]) -> None:
    head, _ = served.get("/every", *[line.format(token()) for line in lines])
    assert status_of(head) == 401
    assert header(head, b"www-authenticate") == b'Bearer realm="kairos"'


# ---- WebSocket


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("/ws", "Authorization: Bearer {}"),
        ("/ws", "Cookie: access_token={}"),
        ("/ws?access_token={}", None),
        ("/ws", "Sec-WebSocket-Protocol: chat, bearer, {}"),
        ("/ws", "Sec-WebSocket-Protocol: Bearer,{}"),
    ],
)
def test_a_websocket_is_opened_with_a_token_and_not_without(served: InProcess, target: str, line: str | None) -> None:
    for bearing, status in ((token(), 101), (token("another secret of thirty-two bytes."), 401)):
        lines = [line.format(bearing)] if line else []
        with served.connect() as client:
            client.send(handshake(target.format(bearing), *lines) + frame(b"early"))
            if status == 401:
                assert status_of(client.receive_response()[0]) == 401
                continue
            assert status_of(client.receive_head()) == 101
            assert b"GET /ws" in read_frame(client).payload
            assert read_frame(client).payload == b"early"


@pytest.mark.parametrize(
    ("offered", "agreed", "seen"),
    [
        ("chat, bearer, {}", b"chat", b"chat"),
        ("bearer, {}, chat, v2", b"chat", b"chat, v2"),
        ("bearer, {}", b"bearer", None),
    ],
)
def test_the_backend_never_sees_a_token_as_subprotocol(
    served: InProcess, offered: str, agreed: bytes, seen: bytes | None
) -> None:
    """A browser takes no connection on which none of its subprotocols was agreed on."""
    with served.connect() as client:
        client.send(handshake("/ws", f"Sec-WebSocket-Protocol: {offered.format(token())}"))
        head = client.receive_head()
        assert status_of(head) == 101
        assert header(head, b"sec-websocket-protocol") == agreed
        assert header(read_frame(client).payload, b"sec-websocket-protocol") == seen
