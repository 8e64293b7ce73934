"""Where bodies end, both ways: lengths, chunks, closes, and responses that have none (RFC 9112 section 6)."""

from __future__ import annotations

import threading

import pytest

from tests.proxy.conftest import Stage
from tests.support.net import Peer, status_of

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


def dechunk(peer: Peer) -> tuple[bytes, bytes]:
    """Payload and trailer section of a chunked body."""
    body = b""
    while size := int(peer.receive_until(b"\r\n"), 16):
        body += peer.receive_exactly(size)
        assert peer.receive_exactly(2) == b"\r\n"
    trailers = b""
    while (line := peer.receive_until(b"\r\n")) != b"\r\n":
        trailers += line
    return body, trailers


# ---- requests -------------------------------------------------------------------------------------------------------


def test_a_body_of_known_length(stage: Stage) -> None:
    scene = stage.play()
    assert stage.exchange(scene.head("POST", "Content-Length: 5") + b"hello")[1] == b"ok"
    head, body = scene.received()
    assert b"\r\nContent-Length: 5\r\n" in head
    assert b"Transfer-Encoding" not in head
    assert body == b"hello"


def test_a_chunked_body_stays_chunked(stage: Stage) -> None:
    scene = stage.play()
    data = scene.head("POST", "Transfer-Encoding: chunked") + b"3;why=not\r\nabc\r\n" + chunked(b"d" * 300)
    assert stage.exchange(data)[1] == b"ok"
    head, body = scene.received()
    assert b"\r\nTransfer-Encoding: chunked\r\n" in head
    assert b"Content-Length" not in head
    assert body == b"abc" + b"d" * 300


@pytest.mark.parametrize("connection", ["new", "kept"])
def test_an_empty_chunked_body_ends(stage: Stage, connection: str) -> None:
    scene = stage.play()
    with stage.connect() as client:
        client.send(scene.head())
        client.receive_response()
        if connection == "new":
            stage.drop_pooled()
        client.send(scene.head("POST", "Transfer-Encoding: chunked") + b"0\r\n\r\n")
        assert client.receive_response()[1] == b"ok"


def test_no_body_has_no_framing(stage: Stage) -> None:
    scene = stage.play()
    stage.exchange(scene.head("GET"))
    head, _ = scene.received()
    assert b"Content-Length" not in head
    assert b"Transfer-Encoding" not in head


def test_a_length_of_zero_is_said(stage: Stage) -> None:
    scene = stage.play()
    stage.exchange(scene.head("POST", "Content-Length: 0"))
    assert b"\r\nContent-Length: 0\r\n" in scene.received()[0]


@pytest.mark.parametrize(
    ("field", "body"),
    [("Content-Length: 26", b"abcdefghijklmnopqrstuvwxyz"), ("Transfer-Encoding: chunked", chunked(b"abc", b"d" * 20))],
)
def test_request_byte_by_byte(stage: Stage, field: str, body: bytes) -> None:
    scene = stage.play()
    with stage.connect() as client:
        client.send_slowly(scene.head("POST", field) + body)
        assert client.receive_response()[1] == b"ok"
    assert scene.received()[1] in (b"abcdefghijklmnopqrstuvwxyz", b"abc" + b"d" * 20)


def test_a_chunked_body_of_many_tiny_chunks_in_one_segment(stage: Stage) -> None:
    scene = stage.play()
    stage.exchange(scene.head("POST", "Transfer-Encoding: chunked") + chunked(*[b"x"] * 1000))
    assert scene.received()[1] == b"x" * 1000


def test_a_body_of_some_megabytes_arrives_whole(stage: Stage) -> None:
    body = bytes(range(256)) * 4096 * 4
    scene = stage.play()
    with stage.connect() as client:
        client.send(scene.head("POST", f"Content-Length: {len(body)}") + body)
        assert client.receive_response()[1] == b"ok"
    assert scene.received()[1] == body


# ---- responses ------------------------------------------------------------------------------------------------------


def test_a_response_of_known_length(stage: Stage) -> None:
    scene = stage.play(b"HTTP/1.1 201 Made It\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello")
    head, body = stage.exchange(scene.head())
    assert head.startswith(b"HTTP/1.1 201 Made It\r\nX-A: 1\r\n")
    assert b"\r\nContent-Length: 5\r\n" in head
    assert body == b"hello"


def test_a_chunked_response_stays_chunked(stage: Stage) -> None:
    scene = stage.play(CHUNKED + b"3;x=y\r\nabc\r\n" + chunked(*[b"d"] * 200))
    head, body = stage.exchange(scene.head())
    assert b"\r\nTransfer-Encoding: chunked\r\n" in head
    assert body == b"abc" + b"d" * 200


def test_a_response_until_the_close_becomes_chunked(stage: Stage) -> None:
    def answer(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nall there is")
        peer.close()

    scene = stage.play(answer)
    with stage.connect() as client:
        for _ in range(2):  # the client's connection is not affected
            client.send(scene.head())
            head, body = client.receive_response()
            assert b"\r\nTransfer-Encoding: chunked\r\n" in head
            assert b"Connection" not in head
            assert body == b"all there is"


def test_an_empty_response_until_the_close(stage: Stage) -> None:
    def answer(peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
        peer.close()

    assert stage.exchange(stage.play(answer).head())[1] == b""


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 1234\r\n", b"Transfer-Encoding: chunked\r\n", b""], ids=["length", "chunked", "none"]
)
def test_head_has_no_body(stage: Stage, framing: bytes) -> None:
    scene = stage.play(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
    with stage.connect() as client:
        for _ in range(2):
            client.send(scene.head("HEAD"))
            head = client.receive_head()
            assert (b"\r\nContent-Length: 1234\r\n" in head) == (framing == b"Content-Length: 1234\r\n")
    assert scene.received()[0].startswith(b"HEAD ")


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_statuses_without_a_body(stage: Stage, status: bytes) -> None:
    scene = stage.play(b'HTTP/1.1 %s\r\nETag: "x"\r\n\r\n' % status)
    with stage.connect() as client:
        for _ in range(2):
            client.send(scene.head())
            head = client.receive_head()
            assert head.startswith(b"HTTP/1.1 " + status)
            assert b"Content-Length" not in head
            assert b"Transfer-Encoding" not in head


def test_304_may_tell_the_length_it_would_have_had(stage: Stage) -> None:
    scene = stage.play(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n")
    with stage.connect() as client:
        for _ in range(2):
            client.send(scene.head())
            assert b"\r\nContent-Length: 99\r\n" in client.receive_head()


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        CHUNKED + chunked(b"he", b"llo"),
        CHUNKED + chunked(b"he", b"llo", trailers=b"X-Sum: 1\r\n"),
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["length", "chunked", "trailers", "informational"],
)
def test_response_byte_by_byte(stage: Stage, response: bytes) -> None:
    scene = stage.play(lambda peer: peer.send_slowly(response))
    with stage.connect() as client:
        client.send(scene.head())
        head, body = client.receive_response()
        if head.startswith(b"HTTP/1.1 103"):
            head, body = client.receive_response()
        assert (status_of(head), body) == (200, b"hello")


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 1 << 20, 5_000_001])
def test_responses_of_any_size_arrive_whole(stage: Stage, size: int) -> None:
    body = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    plain = stage.play(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body)
    assert stage.exchange(plain.head())[1] == body
    pieces = [body[at : at + 40_000] for at in range(0, size, 40_000)]
    assert stage.exchange(stage.play(CHUNKED + chunked(*pieces)).head())[1] == body


# ---- informational, continue, trailers ------------------------------------------------------------------------------


def test_expect_100_is_met_before_the_body_is_sent(stage: Stage) -> None:
    scene = stage.play()
    with stage.connect() as client:
        client.send(scene.head("POST", "Content-Length: 5", "Expect: 100-continue"))
        assert client.receive_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert client.receive_response()[1] == b"ok"
    head, body = scene.received()
    assert b"Expect" not in head  # met here
    assert body == b"hello"


def test_a_100_of_the_upstream_is_not_told_twice(stage: Stage) -> None:
    scene = stage.play(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    with stage.connect() as client:
        client.send(scene.head("POST", "Content-Length: 5") + b"hello")
        assert client.receive_head().startswith(b"HTTP/1.1 200 OK")


def test_other_expectations_are_refused(stage: Stage) -> None:
    scene = stage.play()
    assert status_of(stage.exchange(scene.head("GET", "Expect: the-spanish-inquisition"))[0]) == 417


def test_early_hints_pass_but_not_to_http10(stage: Stage) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    scene = stage.play(hints + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    with stage.connect() as client:
        client.send(scene.head())
        assert client.receive_head() == hints
        assert client.receive_response()[1] == b"ok"
    assert stage.exchange(b"GET %s HTTP/1.0\r\n\r\n" % scene.path.encode())[0].startswith(b"HTTP/1.1 200 OK")


def test_too_many_informational_responses_are_a_broken_upstream(stage: Stage) -> None:
    scene = stage.play(b"HTTP/1.1 102 Processing\r\n\r\n" * 9)
    with stage.connect() as client:
        client.send(scene.head())
        heads = [client.receive_head() for _ in range(8)]
        assert {status_of(head) for head in heads} == {102}
        assert status_of(client.receive_response()[0]) == 502


def test_an_unasked_for_101_is_a_broken_upstream(stage: Stage) -> None:
    scene = stage.play(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert status_of(stage.exchange(scene.head())[0]) == 502


def test_announced_trailers_go_to_a_client_that_wants_them(stage: Stage) -> None:
    response = b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
    trailers = b"X-Sum: 42\r\nX-Not-Announced: 1\r\n"
    scene = stage.play(response + chunked(b"abc", trailers=trailers))
    with stage.connect() as client:
        client.send(scene.head("GET", "TE: trailers"))
        assert b"\r\nTrailer: X-Sum\r\n" in client.receive_head()
        assert dechunk(client) == (b"abc", b"X-Sum: 42\r\n")
        client.send(scene.head("GET"))
        assert b"Trailer" not in client.receive_head()
        assert dechunk(client) == (b"abc", b"")
    assert b"\r\nTE: trailers\r\nConnection: TE\r\n" in scene.received()[0]


def test_trailers_cannot_carry_what_belongs_in_a_head(stage: Stage) -> None:
    response = b"HTTP/1.1 200 OK\r\nTrailer: Set-Cookie, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"
    scene = stage.play(response + chunked(b"abc", trailers=b"Set-Cookie: a=b\r\nX-Sum: 1\r\n"))
    with stage.connect() as client:
        client.send(scene.head("GET", "TE: trailers"))
        client.receive_head()
        assert dechunk(client) == (b"abc", b"X-Sum: 1\r\n")


def test_trailers_of_a_request(stage: Stage) -> None:
    def keep_trailers(peer: Peer) -> None:
        got.append(dechunk(peer))
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    got: list[tuple[bytes, bytes]] = []
    scene = stage.play(keep_trailers, whole=False)
    body = chunked(b"abc", trailers=b"X-Sum: 42\r\nX-Other: 1\r\nHost: evil\r\n")
    head = scene.head("POST", "Transfer-Encoding: chunked", "Trailer: X-Sum, Host")
    assert stage.exchange(head + body)[1] == b"ok"
    with stage.connect() as client:
        client.send_slowly(head + body)
        client.receive_response()
    assert got == [(b"abc", b"X-Sum: 42\r\n")] * 2


# ---- responses that are cut -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "partial",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
    ],
    ids=["length", "between chunks", "in a chunk", "before the last line"],
)
def test_a_response_cut_short_is_cut_for_the_client_too(stage: Stage, partial: bytes) -> None:
    def answer(peer: Peer) -> None:
        peer.send(partial)
        peer.close()

    scene = stage.play(answer)
    with stage.connect() as client:
        client.send(scene.head())
        got = client.receive_all()
    assert got.startswith(b"HTTP/1.1 200 OK")
    body = got.partition(b"\r\n\r\n")[2]
    assert b"Content-Length: 10" in got or not body.endswith(b"0\r\n\r\n")
    assert len(body) < 10 or b"chunked" in got
    [line] = stage.gateway.wait_access(path=scene.path)
    assert (line["status"], line["flag"], line["detail"]) == (200, "UC", "upstream_reset")
    metrics = stage.gateway.metrics()
    assert f'kairos_upstream_connections{{state="active",upstream="{stage.origin.url}"}} 0.0' in metrics
    assert f'kairos_upstream_requests_in_flight{{upstream="{stage.origin.url}"}} 0.0' in metrics


def test_http10_clients_see_a_cut_as_a_reset(stage: Stage) -> None:
    def answer(peer: Peer) -> None:
        peer.send(CHUNKED + b"5\r\nhello\r\n")
        peer.close()

    scene = stage.play(answer)
    with stage.connect() as client:
        client.send(b"GET %s HTTP/1.0\r\n\r\n" % scene.path.encode())
        with pytest.raises(ConnectionResetError):
            client.receive_until(b"never sent")


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
    ],
)
def test_a_response_of_doubtful_framing_is_not_passed_on(stage: Stage, garbage: bytes) -> None:
    scene = stage.play(garbage)
    head, body = stage.exchange(scene.head())
    assert (status_of(head), b"upstream_protocol" in body) == (502, True)


def test_bad_chunks_of_an_upstream_cut_the_response(stage: Stage) -> None:
    def answer(peer: Peer) -> None:
        peer.send(CHUNKED + b"3\r\nabc\r\n")
        passed_on.wait(25)
        peer.send(b"XYZ\r\n")

    passed_on = threading.Event()
    scene = stage.play(answer)
    with stage.connect() as client:
        client.send(scene.head())
        client.receive_until(b"3\r\nabc\r\n")
        passed_on.set()
        assert client.receive_all() == b""


def test_an_origin_that_closes_without_an_answer(stage: Stage) -> None:
    scene = stage.play(lambda peer: peer.close())
    head, body = stage.exchange(scene.head("POST", "Content-Length: 2") + b"hi")
    assert (status_of(head), b"upstream_reset" in body) == (502, True)
    assert scene.requests.qsize() == 1
