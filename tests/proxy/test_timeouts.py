"""How long the gateway waits, phase by phase, and what the client is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.proxy.conftest import ALL_METHODS, OK, Stage
from tests.support.gateway import gateway, route
from tests.support.net import Peer, origin, status_of

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
UNDER = {
    "first_byte": {"first_byte": 0.3},
    "read_idle": {"read_idle": 0.3},
    "read_idle_only": {"read_idle": 0.3, "total": 0},
    "total": {"total": 0.6},
    "stream_idle": {"tunnel_idle": 0.3},
    "generous": {"first_byte": 1.0, "read_idle": 1.0},
}


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage()
    with origin(made.run) as made.origin:
        routers: list[dict[str, Any]] = [
            route(f"/{name}/{{x}}", made.origin.url, methods=ALL_METHODS, timeouts=own) for name, own in UNDER.items()
        ]
        routers.append(route("/patient/{x}", made.origin.url, methods=ALL_METHODS))
        config = {"routers": routers, "timeouts": {"body_idle": 0.5}, "circuit_breaker": {"enabled": False}}
        with gateway(config) as made.gateway:
            yield made


class Silence:
    """Says these bytes, then nothing until the gateway hangs up."""

    def __init__(self, said: bytes = b"") -> None:
        self.said = said
        self.over = threading.Event()

    def __call__(self, peer: Peer) -> None:
        peer.send(self.said)
        assert peer.closed()
        self.over.set()
        raise EOFError


@pytest.mark.parametrize(
    ("under", "kind"), [("first_byte", b"upstream_timeout"), ("total", b"total_timeout")], ids=["first byte", "total"]
)
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nX-Half: "], ids=["nothing", "half a head"])
def test_no_answer_in_time(stage: Stage, under: str, kind: bytes, said: bytes) -> None:
    silence = Silence(said)
    scene = stage.play(silence, under=f"/{under}/")
    with stage.connect() as client:
        client.send(scene.head())
        head, body = client.receive_response()
        assert (status_of(head), kind in body, b'"timeout"' in body) == (504, True, True)
        assert silence.over.wait(25)
        other = stage.play(under="/patient/")  # the client's connection is not affected
        client.send(other.head())
        assert client.receive_response()[1] == b"ok"
    [line] = stage.gateway.wait_access(path=scene.path)
    assert (line["status"], line["flag"], line["detail"]) == (504, "UT", kind.decode())
    assert line["upstream_ms"] > 200
    assert line["gateway_ms"] == pytest.approx(line["duration_ms"] - line["upstream_ms"], abs=1)


@pytest.mark.parametrize("under", ["read_idle", "read_idle_only", "total"])
@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"], ids=["length", "chunked"])
def test_a_body_that_stops_is_cut(stage: Stage, under: str, framing: bytes) -> None:
    silence = Silence(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n5\r\nhello\r\n" % framing)
    scene = stage.play(silence, under=f"/{under}/")
    with stage.connect() as client:
        client.send(scene.head())
        got = client.receive_all()
        assert got.startswith(b"HTTP/1.1 200 OK")
        assert got.endswith(b"5\r\nhello\r\n")
        assert silence.over.wait(25)
    [line] = stage.gateway.wait_access(path=scene.path)
    assert line["detail"] == ("total_timeout" if under == "total" else "upstream_timeout")


def test_a_body_that_moves_on_outlives_read_idle(stage: Stage) -> None:
    def drip(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n")
        for _ in range(20):
            time.sleep(0.06)
            peer.send(b"x")

    scene = stage.play(drip, under="/generous/")
    assert stage.exchange(scene.head())[1] == b"x" * 20


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked\r\n", b""], ids=["chunked", "until close"])
def test_event_streams_outlive_the_total_timeout_and_pass_at_once(stage: Stage, framing: bytes) -> None:
    def tell(peer: Peer) -> None:
        peer.send(EVENTS + framing + b"\r\n")
        for n in range(8):
            assert heard.wait(25)  # an event is at the client before the next one is made
            heard.clear()
            time.sleep(0.15)
            event = b"data: %d\n\n" % n
            peer.send(b"%x\r\n%s\r\n" % (len(event), event) if framing else event)
        peer.send(b"0\r\n\r\n" if framing else b"")
        if not framing:
            raise EOFError

    heard = threading.Event()
    scene = stage.play(tell, under="/total/")
    with stage.connect() as client:
        client.send(scene.head())
        client.receive_head()
        for n in range(8):
            heard.set()
            client.receive_until(b"data: %d\n\n\r\n" % n)
        client.receive_until(b"0\r\n\r\n")
    [line] = stage.gateway.wait_access(path=scene.path)
    assert (line["status"], line["detail"]) == (200, "via_upstream")
    assert line["duration_ms"] > 1000


def test_an_event_stream_that_falls_silent_is_cut(stage: Stage) -> None:
    silence = Silence(EVENTS + b"Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n")
    scene = stage.play(silence, under="/stream_idle/")
    with stage.connect() as client:
        client.send(scene.head())
        assert client.receive_all().endswith(b"data: 1\n\n\r\n")


def test_a_request_body_that_stops(stage: Stage) -> None:
    scene = stage.play(whole=True, under="/patient/")
    with stage.connect() as client:
        client.send(scene.head("POST", "Content-Length: 10") + b"hello")
        head, body = client.receive_response()
        assert (status_of(head), b"request_timeout" in body) == (408, True)
        assert b"Connection: close" in head
    [line] = stage.gateway.wait_access(path=scene.path)
    assert (line["status"], line["flag"]) == (408, "DT")


def test_a_client_cannot_hold_a_connection_by_dripping_a_body(stage: Stage) -> None:
    scene = stage.play(whole=False, script=lambda peer: peer.closed(), under="/patient/")
    with stage.connect() as client:
        client.send(scene.head("POST", "Content-Length: 100000"))
        for _ in range(100):
            try:
                client.send(b"x")
            except OSError:
                break
            time.sleep(0.05)
            if any(line["status"] == 408 for line in stage.gateway.access_lines() if line["path"] == scene.path):
                break
        assert status_of(client.receive_head()) == 408


def test_a_quick_answer_is_not_disturbed_by_the_deadlines_before_it(stage: Stage) -> None:
    scene = stage.play(OK, under="/generous/")
    with stage.connect() as client:
        for _ in range(5):
            client.send(scene.head())
            assert client.receive_response()[1] == b"ok"
            time.sleep(0.3)


def test_time_for_which_the_upstream_held_an_upload_back_is_not_the_clients() -> None:
    body = b"x" * 24_000_000
    sent = threading.Event()

    def reads_late(peer: Peer) -> None:
        peer.receive_head()
        assert not sent.wait(1.5)  # more than body_idle: the client is held back all the while
        assert len(peer.receive_exactly(len(body))) == len(body)
        peer.send(OK)

    fast = {"timeouts": {"body_idle": 1}, "limits": {"body_rate": 1_000_000_000, "body_bytes": 0}}
    with (
        origin(reads_late) as late,
        gateway({"routers": [route("/late", late.url)], **fast}) as site,
        site.connect() as client,
    ):
        client.send(b"POST /late HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.send(body)
        sent.set()
        assert status_of(client.receive_response()[0]) == 200
