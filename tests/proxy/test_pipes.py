"""Filters that work on the response: its body in a pipe, its status, its headers; requests that are sent on changed."""

from __future__ import annotations

import asyncio
import gzip
from typing import Any

import pytest

from kairos.proxy.exchange import BodyPipe, Exchange, Filter, Response
from tests.proxy.test_interfaces import ALIVE, Does, Hook, Says, worker_lives
from tests.support.gateway import route
from tests.support.inprocess import Chain, in_process
from tests.support.net import Peer, echo, origin, status_of
from tests.support.ws import header


class Upper(BodyPipe):
    """Upper case, and how it ended."""

    def __init__(self, tail: bytes = b"") -> None:
        self.tail = tail
        self.seen: list[Any] = []

    def feed(self, data: bytes) -> bytes:
        self.seen.append(data)
        return data.upper()

    def finish(self) -> bytes:
        self.seen.append("finish")
        return self.tail

    def abort(self) -> None:
        self.seen.append("abort")


class Piped(Filter):
    """Puts pipes in the way of every response."""

    def __init__(self, *pipes: BodyPipe, **how: Any) -> None:
        self.pipes = pipes
        self.how = how

    def on_response(self, x: Exchange) -> None:
        for pipe in self.pipes:
            x.add_body_pipe(pipe, **self.how)


def answers(*pieces: bytes) -> Any:
    def script(peer: Peer) -> None:
        peer.receive_head()
        for piece in pieces:
            peer.send(piece)

    return script


LENGTH = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nab", b"cdef")
CHUNKED = answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b"4\r\ncdef\r\n0\r\n\r\n")
TO_THE_END = answers(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcdef")


@pytest.mark.parametrize("script", [LENGTH, CHUNKED])
def test_a_body_passes_its_pipe_whatever_its_framing(script: Any) -> None:
    pipe = Upper(b"!")
    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), Piped(pipe))) as served:
        head, body = served.get("/a")
        assert body == b"ABCDEF!"
        assert header(head, b"transfer-encoding") == b"chunked"
        assert header(head, b"content-length") is None
        assert b"".join(pipe.seen[:-1]) == b"abcdef"
        assert pipe.seen[-1] == "finish"


def test_a_body_that_ends_with_its_connection_passes_too() -> None:
    def script(peer: Peer) -> None:
        TO_THE_END(peer)
        peer.close()

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), Piped(Upper()))) as served:
        assert served.get("/a")[1] == b"ABCDEF"


def test_a_tap_leaves_the_length() -> None:
    class Tap(Upper):
        def feed(self, data: bytes) -> bytes:
            super().feed(data)
            return data

    tap = Tap()
    with origin(LENGTH) as o, in_process(Chain("/a", route("/a", o.url), Piped(tap, tap=True))) as served:
        head, body = served.get("/a")
        assert (header(head, b"content-length"), body) == (b"6", b"abcdef")
        assert tap.seen[-1] == "finish"


def test_a_known_length_is_told() -> None:
    with origin(LENGTH) as o, in_process(Chain("/a", route("/a", o.url), Piped(Upper(b"!"), length=7))) as served:
        head, body = served.get("/a")
        assert (header(head, b"content-length"), body) == (b"7", b"ABCDEF!")


def test_pipes_follow_each_other_and_answers_made_here_pass_them_as_well() -> None:
    chain = Piped(Upper(b"tail"), Upper(b"!"))
    with in_process(Chain("/a", Says(b"body"), chain)) as served:
        assert served.get("/a")[1] == b"BODYTAIL!"


def test_what_a_handler_writes_piece_by_piece_passes_them() -> None:
    async def work(x: Exchange) -> None:
        x.start(200, length=4)
        await x.write(b"ab")
        await x.write(b"cd")

    with in_process(Chain("/a", Does(work), Piped(Upper(b".")))) as served:
        assert served.get("/a")[1] == b"ABCD."


@pytest.mark.parametrize(("method", "answer"), [
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"),
])  # fmt: skip
def test_where_there_is_no_body_a_pipe_only_ends(method: str, answer: bytes) -> None:
    pipe = Upper()
    with origin(answers(answer)) as o, in_process(Chain("/a", route("/a", o.url), Piped(pipe)), ALIVE) as served:
        with served.connect() as peer:
            peer.send(f"{method} /a HTTP/1.1\r\nHost: t\r\n\r\n".encode())
            head = peer.receive_head()
            assert header(head, b"content-length") is None
            peer.send(b"GET /alive HTTP/1.1\r\nHost: t\r\n\r\n")
            assert status_of(peer.receive_head()) == 200  # and nothing but the head had come
        assert pipe.seen == ["finish"]


@pytest.mark.parametrize("who", ["upstream", "client"])
def test_a_pipe_hears_that_the_rest_never_comes(who: str) -> None:
    pipe = Upper()

    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nab")
        if who == "client":
            assert peer.receive_all() == b""
        peer.close()

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), Piped(pipe)), ALIVE) as served:
        with served.connect() as peer:
            peer.send(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n")
            peer.receive_head()
        served.wait(lambda: pipe.seen[-1:] == ["abort"], "abort")
        assert worker_lives(served)


def test_a_pipe_that_raises_costs_its_request_only() -> None:
    class Bad(BodyPipe):
        def feed(self, data: bytes) -> bytes:
            raise RuntimeError("broken pipe")

    with origin(LENGTH) as o, in_process(Chain("/a", route("/a", o.url), Piped(Bad())), ALIVE) as served:
        head, body = served.get("/a")
        assert status_of(head) == 500
        assert b"broken" not in body
        assert [str(report) for report in served.reports] == ["broken pipe"]
        assert worker_lives(served)


def test_edits_and_pipes_of_a_response_that_broke_are_not_those_of_the_error() -> None:
    """The head was not out yet when its upstream went away: the error is no gzip."""

    class Gzip(Upper):
        def feed(self, data: bytes) -> bytes:
            return b""

    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n")

    def compress(x: Exchange) -> None:
        if x.status == 200:
            x.set_response_header("Content-Encoding", "gzip")
            x.add_body_pipe(pipe)

    pipe = Gzip()
    marks = Hook(request=lambda x: x.set_response_header("X-Early", "1"), response=compress)
    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), marks), ALIVE) as served:
        head, body = served.get("/a")
        assert (status_of(head), header(head, b"content-encoding"), header(head, b"x-early")) == (502, None, b"1")
        assert b"upstream" in body
        assert pipe.seen[-1] == "abort"


# ---- status and headers ---------------------------------------------------------------------------------------------


def test_a_filter_sees_the_upstreams_head_and_shows_another_status() -> None:
    seen: dict[str, Any] = {}

    def look(x: Exchange) -> None:
        seen.update(all=x.response_headers, etag=x.response_header(b"etag"), none=x.response_header(b"x"))
        seen["upstream"] = x.from_upstream
        x.set_status(200)

    answer = answers(b'HTTP/1.1 404 Not Found\r\nETag: "a"\r\nContent-Length: 2\r\n\r\nno')
    with origin(answer) as o, in_process(Chain("/a", route("/a", o.url), Hook(response=look))) as served:
        head, body = served.get("/a")
        assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 200 OK", b"no")
        assert seen == {
            "all": [(b"ETag", b'"a"'), (b"Content-Length", b"2")], "etag": b'"a"', "none": None, "upstream": True,
        }  # fmt: skip
        assert served.wait_access(status=200)


def test_of_an_answer_made_here_as_well() -> None:
    seen: list[Any] = []

    def look(x: Exchange) -> None:
        seen.extend([x.from_upstream, x.response_header(b"content-type")])
        x.set_status(418)

    with in_process(Chain("/a", Says(), Hook(response=look))) as served:
        assert status_of(served.get("/a")[0]) == 418
    assert seen == [False, b"text/plain"]


@pytest.mark.parametrize("status", [100, 204, 304, 1000])
def test_a_status_that_does_not_fit_the_body_is_refused(status: int) -> None:
    def look(x: Exchange) -> None:
        with pytest.raises(ValueError):
            x.set_status(status)

    with in_process(Chain("/a", Says(), Hook(response=look))) as served:
        assert status_of(served.get("/a")[0]) == 200


def test_fields_are_added_beside_those_that_are_there() -> None:
    def back(x: Exchange) -> None:
        x.add_response_header("Set-Cookie", "b=2")
        x.add_response_header("Set-Cookie", "c=3")

    def up(x: Exchange) -> None:
        x.add_request_header("X-Tag", "two")

    answer = answers(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nContent-Length: 0\r\n\r\n")
    with origin(answer) as o, in_process(Chain("/a", route("/a", o.url), Hook(request=up, response=back))) as served:
        head, _ = served.get("/a", "X-Tag: one")
        assert [line for line in head.split(b"\r\n") if line.startswith(b"Set-Cookie")] == [
            b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"Set-Cookie: c=3",
        ]  # fmt: skip


# ---- what is sent upstream ------------------------------------------------------------------------------------------


def test_the_target_is_seen_as_it_will_be_sent_and_can_be_another() -> None:
    seen: list[bytes] = []

    def up(x: Exchange) -> None:
        seen.append(x.upstream_target)
        x.upstream_target = b"/other?y=2"

    with (
        origin(echo) as o,
        in_process(Chain("/a/{id}", route("/a/{id}", o.url, "/b/{id}"), Hook(request=up))) as served,
    ):
        _, body = served.get("/a/7?x=1")
        assert seen == [b"/b/7?x=1"]
        assert b"/other?y=2" in body


@pytest.mark.parametrize("target", [b"", b"x", b"/a b", b"/a\r\nX: y", b"/../b", b"/%2e%2E/b", b"/a#b", b"/\xff"])
def test_a_target_that_breaks_the_request_line_or_its_prefix_is_refused(target: bytes) -> None:
    def up(x: Exchange) -> None:
        with pytest.raises(ValueError):
            x.upstream_target = target

    with origin(echo) as o, in_process(Chain("/a", route("/a", o.url), Hook(request=up))) as served:
        assert status_of(served.get("/a")[0]) == 200


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_was_read_is_replaced(chunked: bool) -> None:
    got: list[tuple[bytes, bytes]] = []

    def script(peer: Peer) -> None:
        head = peer.receive_head()
        got.append((head, peer.receive_exactly(int(header(head, b"content-length") or 0))))
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async def up(x: Exchange) -> None:
        body = await x.read(100)
        x.replace_request_body(body * 2)

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), Hook(request=up))) as served:
        framing = (
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" if chunked else b"Content-Length: 3\r\n\r\nabc"
        )
        head, _ = served.request(b"POST /a HTTP/1.1\r\nHost: t\r\n" + framing)
        assert status_of(head) == 200
    ((sent, body),) = got
    assert (body, header(sent, b"transfer-encoding")) == (b"abcabc", None)


def test_gzip_is_a_pipe() -> None:
    """A whole one: the length goes, the bytes come back."""
    import zlib

    class Zip(BodyPipe):
        def __init__(self) -> None:
            self.packer = zlib.compressobj(wbits=31)

        def feed(self, data: bytes) -> bytes:
            return self.packer.compress(data)

        def finish(self) -> bytes:
            return self.packer.flush()

    text = b"a long text " * 5000

    async def work(x: Exchange) -> Response:
        await asyncio.sleep(0)
        return Response(200, text)

    with in_process(Chain("/a", Does(work), Hook(response=lambda x: x.add_body_pipe(Zip())))) as served:
        assert gzip.decompress(served.get("/a")[1]) == text
