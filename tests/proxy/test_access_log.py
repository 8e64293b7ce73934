"""One line per request: what it says, what it hides, and that none is missing."""

from __future__ import annotations

import re

import pytest

from tests.proxy.conftest import OK, Stage, staged
from tests.support.net import Peer


def line_of(stage: Stage, path: str) -> dict[str, object]:
    [line] = stage.gateway.wait_access(path=path)
    return line


def test_every_member_of_a_line(stage: Stage) -> None:
    scene = stage.play()
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    data = scene.head(
        "POST", "Content-Length: 5", "X-Request-Id: id-7", "User-Agent: probe/1", "Referer: http://from/?token=s",
        f"Traceparent: {trace}",
    )  # fmt: skip
    head, body = stage.exchange(data.replace(b" HTTP", b"?a=1&b=2 HTTP", 1) + b"hello")
    line = line_of(stage, scene.path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(line.pop("time")))
    duration, own, upstream = (float(str(line.pop(name))) for name in ("duration_ms", "gateway_ms", "upstream_ms"))
    assert duration == pytest.approx(own + upstream, abs=0.002)
    assert line == {
        "request_id": "id-7",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "client": "127.0.0.1",
        "method": "POST",
        "scheme": "http",
        "host": "test",
        "path": scene.path,
        "query": "a=1&b=2",
        "protocol": "HTTP/1.1",
        "status": 200,
        "route": "/{rest:path}",
        "upstream": stage.origin.url,
        "attempts": 1,
        "bytes_in": len(data) + 8 + 5,
        "bytes_out": len(head) + len(body),
        "user_agent": "probe/1",
        "referer": "http://from/?token=***",
        "detail": "via_upstream",
    }


@pytest.mark.parametrize(
    ("query", "logged"),
    [
        ("token=s3cret&x=1", "token=***&x=1"),
        ("x=1&API_KEY=s3cret", "x=1&API_KEY=***"),
        ("a=s&password=s3cret&password=s3cret", "a=s&password=***&password=***"),
        ("tok%65n=s3cret", "tok%65n=***"),
    ],
)
def test_secrets_in_queries_are_redacted(stage: Stage, query: str, logged: str) -> None:
    scene = stage.play()
    stage.exchange(scene.head().replace(b" HTTP", f"?{query} HTTP".encode(), 1))
    assert line_of(stage, scene.path)["query"] == logged
    assert query.encode() in scene.received()[0]  # the upstream gets them
    assert "s3cret" not in (stage.gateway.folder / "access.log").read_text()


def test_refused_bytes_are_logged_too(stage: Stage) -> None:
    stage.exchange(b"GET /refused-line HTTP/1.1\r\nHost: test\r\nBad Field: x\r\n\r\n")
    [line] = stage.gateway.wait_access(detail="bad_field")
    assert (line["status"], line["flag"]) == (400, "DPE")


def test_answers_of_the_gateway_say_so(stage: Stage) -> None:
    scene = stage.play()
    stage.exchange(scene.head("OPTIONS"))
    line = line_of(stage, scene.path)
    assert (line["flag"], line["detail"]) == ("LR", "direct_response")
    assert "upstream" not in line


def test_a_retried_request_tells_its_attempts() -> None:
    def close_the_second(peer: Peer) -> None:
        turns.append(peer)
        if len(turns) == 2:
            raise EOFError
        peer.send(OK)

    turns: list[Peer] = []
    with staged() as stage:
        scene = stage.play(close_the_second)
        with stage.connect() as client:
            for _ in range(2):
                client.send(scene.head())
                assert client.receive_response()[1] == b"ok"
        lines = stage.gateway.wait_access(2, path=scene.path)
        assert [line["attempts"] for line in lines] == [1, 2]
        assert [line.get("retried_for") for line in lines] == [None, "upstream_reset"]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_line_is_missing(workers: int) -> None:
    with staged(workers=workers) as stage:
        scene = stage.play()
        for _ in range(20):
            with stage.connect() as client:
                client.send(scene.head() * 50)
                for _ in range(50):
                    client.receive_response()
    lines = stage.gateway.access_lines()  # the gateway ended meanwhile
    assert len(lines) == 1000
    assert len({line["request_id"] for line in lines}) == 1000
    assert all(line["status"] == 200 for line in lines)
