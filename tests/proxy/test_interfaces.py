"""Filters and handlers in Python: what they can do to an exchange, and that none of it can break a worker."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable
from typing import Any

import pytest

from kairos.proxy.exchange import Exchange, Filter, Handler, Response
from tests.support.gateway import route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, echo, origin, status_of
from tests.support.ws import echo_frames, frame, handshake, header, read_frame, switching

MB = 1 << 20


class Says(Handler):
    """Answers at once."""

    def __init__(self, body: bytes = b"ok") -> None:
        self.body = body

    def handle(self, x: Exchange) -> Response:
        return Response(200, self.body, [(b"Content-Type", b"text/plain")])


class Does(Handler):
    """Runs a coroutine function with the exchange, and keeps how it ended."""

    def __init__(self, work: Any) -> None:
        self.work = work
        self.ends: queue.Queue[BaseException | None] = queue.Queue()

    async def handle(self, x: Exchange) -> Any:  # type: ignore[override]
        try:
            outcome = await self.work(x)
        except BaseException as error:
            self.ends.put(error)
            raise
        self.ends.put(None)
        return outcome


class Hook(Filter):
    """A filter with hooks given as functions."""

    def __init__(self, **hooks: Any) -> None:
        self.hooks = hooks

    def on_request(self, x: Exchange) -> Response | Awaitable[Response | None] | None:
        return self.hooks["request"](x) if "request" in self.hooks else None

    def on_response(self, x: Exchange) -> Response | None:
        return self.hooks["response"](x) if "response" in self.hooks else None

    def on_finish(self, x: Exchange) -> None:
        if "finish" in self.hooks:
            self.hooks["finish"](x)


def worker_lives(served: InProcess) -> bool:
    return served.get("/alive")[1] == b"ok"


ALIVE = Chain("/alive", Says())


# -- filters: on_request ----------------------------------------------------------------------------------------------


def test_a_filter_sees_who_asks_for_what() -> None:
    seen: dict[str, object] = {}

    def look(x: Exchange) -> None:
        seen.update(
            method=x.method, path=x.path, path_str=x.path_str, query=x.query_string, host=x.host, params=x.params,
            client=x.client, agent=x.header(b"user-agent"), none=x.header(b"x-none"), headers=x.headers,
            plan=x.plan.name, status=x.status, target=x.target,
        )  # fmt: skip

    with in_process(Chain("/users/{id}", Says(), Hook(request=look))) as served:
        served.get("/users/a%2Db?q=1", "User-Agent: me", "User-Agent: you")
    assert seen == {
        "method": "GET", "path": b"/users/a-b", "path_str": "/users/a-b", "query": b"q=1", "host": "test",
        "params": {"id": b"a-b"}, "client": "127.0.0.1", "agent": b"me", "none": None, "plan": "/users/{id}",
        "headers": [(b"Host", b"test"), (b"User-Agent", b"me"), (b"User-Agent", b"you")], "status": 0,
        "target": b"/users/a%2Db?q=1",
    }  # fmt: skip


def test_a_request_keeps_what_its_path_captured_over_a_reload() -> None:
    async def looks_after_the_reload(x: Exchange) -> Response:
        stage.reload(Chain("/other/{name}/{more}", Says()))
        return Response(200, repr(x.params).encode())

    with in_process(Chain("/a/{id}", Does(looks_after_the_reload))) as stage:
        assert stage.get("/a/7")[1] == b"{'id': b'7'}"
        assert status_of(stage.get("/a/7")[0]) == 404


def test_a_filter_that_answers_keeps_the_rest_of_the_chain_from_running() -> None:
    later: list[Exchange] = []
    first = Hook(request=lambda x: Response(403, b"no", [(b"X-Why", b"me")]))
    with in_process(Chain("/a", Says(), first, Hook(request=later.append)), ALIVE) as served:
        head, body = served.get("/a")
        assert (status_of(head), body, header(head, b"x-why")) == (403, b"no", b"me")
        line = served.wait_access(path="/a")
        assert (line["flag"], line["detail"]) == ("LR", "direct_response")
    assert later == []


def test_a_filter_may_take_its_time() -> None:
    order: list[str] = []

    async def slowly(x: Exchange) -> None:
        await asyncio.sleep(0.01)
        order.append("slow")

    slow, quick = Hook(request=slowly), Hook(request=lambda x: order.append("quick"))
    with origin(echo) as o, in_process(Chain("/a", route("/a", o.url), slow, quick)) as served:
        head, body = served.request(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
        assert status_of(head) == 200
        assert body.endswith(b"\r\n\r\nhello")
    assert order == ["slow", "quick"]


@pytest.mark.parametrize("size", [101, MB])
def test_a_body_that_arrives_while_a_filter_thinks_is_forwarded_whole(size: int) -> None:
    go_on = threading.Event()
    body = b"b" * size

    async def think(x: Exchange) -> None:
        while not go_on.is_set():
            await asyncio.sleep(0.01)

    with (
        origin(echo) as o,
        in_process(Chain("/a", route("/a", o.url), Hook(request=think))) as served,
        served.connect() as client,
    ):
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.send(body[:100])
        sender = threading.Thread(target=client.send, args=(body[100:],))
        sender.start()
        go_on.set()
        assert client.receive_response()[1].endswith(b"\r\n\r\n" + body)
        sender.join()


@pytest.mark.parametrize("size", [0, 5, 70_000, MB])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_a_filter_read_is_still_forwarded(size: int, framing: str) -> None:
    lengths: list[int] = []

    async def measure(x: Exchange) -> None:
        lengths.append(len(await x.read()))
        x.set_request_header("X-Measured", str(lengths[-1]))

    body = b"b" * size
    head = b"POST /a HTTP/1.1\r\nHost: a\r\n"
    if framing == "length":
        data = head + b"Content-Length: %d\r\n\r\n" % size + body
    else:
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + (chunked(body) if body else chunked())
    chain = Chain("/a", route("/a", "http://x:1"), Hook(request=measure), Hook(request=measure))
    with origin(echo) as o:
        chain.end = route("/a", o.url)
        with in_process(chain) as served, served.connect() as client:
            sender = threading.Thread(target=client.send, args=(data,))
            sender.start()
            _, seen = client.receive_response()
            sender.join()
    assert lengths == [size, size]
    assert header(seen, b"x-measured") == b"%d" % size
    assert seen.partition(b"\r\n\r\n")[2] == body


@pytest.mark.parametrize("readers", [0, 1, 2])
def test_a_client_that_waits_to_be_told_sends_its_body_to_a_filter(readers: int) -> None:
    """Expect: 100-continue is met when the first of them reads, and once."""

    async def read(x: Exchange) -> None:
        assert await x.read() == b"hello"

    with origin(echo) as o:
        chain = Chain("/a", route("/a", o.url), *[Hook(request=read)] * readers)
        with in_process(chain) as served, served.connect() as client:
            client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            assert client.receive_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"hello")
            head, seen = client.receive_response()
            assert status_of(head) == 200
            assert seen.endswith(b"\r\n\r\nhello")
            assert client.pending == b""


def test_an_awaited_answer_ends_the_chain() -> None:
    async def refuse(x: Exchange) -> Response:
        await asyncio.sleep(0)
        return Response(429, b"later")

    with in_process(Chain("/a", Says(), Hook(request=refuse))) as served:
        assert served.get("/a")[1] == b"later"


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("hook", ["request", "response", "finish"])
def test_a_filter_that_raises_costs_its_own_request_only(hook: str, awaited: bool) -> None:
    def fail(x: Exchange) -> None:
        raise RuntimeError("on purpose")

    async def fail_later(x: Exchange) -> None:
        await asyncio.sleep(0)
        fail(x)

    with in_process(
        Chain("/a", Says(), Hook(**{hook: fail_later if awaited and hook == "request" else fail})), ALIVE
    ) as s:
        head, body = s.get("/a")
        assert status_of(head) == (200 if hook == "finish" else 500)
        assert b"on purpose" not in body
        assert worker_lives(s)
        assert [str(report) for report in s.reports] == ["on purpose"]


@pytest.mark.parametrize("outcome", [True, 17, "no"])
def test_a_filter_that_returns_nonsense_is_an_internal_error(outcome: object) -> None:
    async def later(x: Exchange) -> object:
        return outcome

    with in_process(
        Chain("/now", Says(), Hook(request=lambda x: outcome)), Chain("/later", Says(), Hook(request=later)), ALIVE
    ) as served:
        assert status_of(served.get("/now")[0]) == 500
        assert status_of(served.get("/later")[0]) == 500
        assert worker_lives(served)
        assert len(served.reports) == 2


def test_a_filter_whose_coroutine_is_cancelled_does_not_leave_the_client_waiting() -> None:
    async def give_up(x: Exchange) -> None:
        raise asyncio.CancelledError

    with in_process(Chain("/a", Says(), Hook(request=give_up)), ALIVE) as served:
        assert status_of(served.get("/a")[0]) == 500
        assert worker_lives(served)


def test_a_client_that_leaves_while_a_filter_thinks_cancels_it() -> None:
    began, ended = threading.Event(), threading.Event()

    async def think(x: Exchange) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with in_process(Chain("/a", Says(), Hook(request=think)), ALIVE) as served:
        client = served.connect()
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert began.wait(25)
        client.close()
        assert ended.wait(25)
        assert served.wait_access(path="/a")["status"] == 499
        assert worker_lives(served)
        assert served.reports == []


# -- filters: headers, on_response, on_finish -------------------------------------------------------------------------


def test_request_headers_are_set_and_removed_on_the_way_up() -> None:
    def edit(x: Exchange) -> None:
        x.set_request_header("X-User", "ann")
        x.set_request_header("x-user", "bob")
        x.set_request_header("Cookie", None)
        x.set_request_header("X-Bytes", b"\xe4")

    with origin(echo) as o, in_process(Chain("/a", route("/a", o.url), Hook(request=edit))) as served:
        _, seen = served.get("/a", "X-USER: forged", "Cookie: a=1", "X-Kept: yes", "cookie: b=2")
    assert header(seen, b"x-user") == b"bob"
    assert seen.lower().count(b"x-user:") == 1
    assert header(seen, b"cookie") is None
    assert header(seen, b"x-kept") == b"yes"
    assert header(seen, b"x-bytes") == b"\xe4"


def test_response_headers_are_set_and_removed_on_the_way_back() -> None:
    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(
            b"HTTP/1.1 200 OK\r\nServer: secret\r\nX-A: 1\r\nX-A: 2\r\nX-Kept: yes\r\nContent-Length: 2\r\n\r\nok"
        )

    def edit(x: Exchange) -> None:
        assert x.status == 200
        x.set_response_header("Server", None)
        x.set_response_header("X-A", "3")

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), Hook(response=edit))) as served:
        head, body = served.get("/a")
    assert body == b"ok"
    assert header(head, b"server") is None
    assert head.count(b"X-A: ") == 1
    assert header(head, b"x-a") == b"3"
    assert header(head, b"x-kept") == b"yes"


def test_edits_of_a_response_also_hold_for_answers_and_errors_made_here() -> None:
    def edit(x: Exchange) -> None:
        x.set_response_header("Content-Type", "text/x-edited")
        x.set_response_header("Date", "today")

    chains = [Chain("/a", Says(), Hook(response=edit)), Chain("/b", Says(), Hook(request=boom), Hook(response=edit))]
    with in_process(*chains) as served:
        for path in ("/a", "/b"):
            head, _ = served.get(path)
            assert header(head, b"content-type") == b"text/x-edited"
            assert head.lower().count(b"content-type:") == 1
            assert header(head, b"date") == b"today"
            assert head.lower().count(b"date:") == 1


def boom(x: Exchange) -> None:
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "1\r\nX-Forged: yes"), ("X-A", "1\nX-Forged: yes"), ("X-A", b"\0"), ("X A", "1"), ("", "1"),
        ("X-A:", "1"), ("Content-Length", "0"), ("transfer-encoding", "chunked"), ("Connection", "close"),
    ],
)  # fmt: skip
def test_an_edit_that_would_break_a_head_apart_is_refused(name: str, value: str | bytes) -> None:
    def up(x: Exchange) -> None:
        with pytest.raises(ValueError):
            x.set_request_header(name, value)

    def back(x: Exchange) -> None:
        with pytest.raises(ValueError):
            x.set_response_header(name, value)

    with in_process(Chain("/a", Says(), Hook(request=up, response=back))) as served:
        head, _ = served.get("/a")
        assert status_of(head) == 200
        assert b"Forged" not in head
        assert served.reports == []


def test_a_response_filter_may_answer_instead_of_the_upstream() -> None:
    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 500 No\r\nContent-Length: 6\r\n\r\nsecret")
        assert peer.receive_all() == b""

    hidden = Hook(response=lambda x: Response(503, b"sorry") if x.status == 500 else None)
    seen: dict[str, int] = {}
    outer, inner = (Hook(response=lambda x, name=name: seen.update({name: x.status})) for name in ("outer", "inner"))
    with (
        origin(script) as o,
        in_process(Chain("/a", route("/a", o.url), outer, hidden, inner), ALIVE) as served,
    ):
        head, body = served.get("/a")
        assert (status_of(head), body) == (503, b"sorry")
        assert worker_lives(served)
    assert seen == {"inner": 500, "outer": 503}  # innermost first, and each sees what it gets


def websocket_origin(peer: Peer) -> None:
    peer.send(switching(peer.receive_head()))
    echo_frames(peer)


def test_response_filters_also_see_the_101_of_a_websocket() -> None:
    ends: queue.Queue[int] = queue.Queue()

    def mark(x: Exchange) -> None:
        assert x.status == 101
        x.set_response_header("X-Marked", "yes")

    with origin(websocket_origin) as o:
        chain = Chain(
            "/a",
            route("/a", o.url, protocol="websocket"),
            Hook(response=mark, finish=lambda x: ends.put(x.status)),
        )
        with in_process(chain) as served, served.connect() as client:
            client.send(handshake("/a"))
            head = client.receive_head()
            assert (status_of(head), header(head, b"x-marked")) == (101, b"yes")
            client.send(frame(b"hello"))
            assert read_frame(client).payload == b"hello"
            client.close()
            assert ends.get(timeout=25) == 101


def test_a_response_filter_may_refuse_the_101() -> None:
    with origin(websocket_origin) as o:
        refuse = Hook(response=lambda x: Response(403, b"not here") if x.status == 101 else None)
        chain = Chain("/a", route("/a", o.url, protocol="websocket"), refuse)
        with in_process(chain, ALIVE) as served, served.connect() as client:
            client.send(handshake("/a") + frame(b"early"))
            head, body = client.receive_response()
            assert (status_of(head), body) == (403, b"not here")
            assert client.closed()
            assert worker_lives(served)


def test_each_exchange_finishes_once_however_it_ends() -> None:
    ends: queue.Queue[tuple[str, int]] = queue.Queue()
    note = Hook(finish=lambda x: ends.put((x.path_str, x.status)))
    gone = threading.Event()

    async def wait(x: Exchange) -> None:
        gone.set()
        await asyncio.Event().wait()

    chains = [
        Chain("/ok", Says(), note),
        Chain("/raise", Says(), note, Hook(request=boom)),
        Chain("/gone", Does(wait), note),
    ]
    with in_process(*chains) as served:
        served.get("/ok")
        served.get("/raise")
        with served.connect() as client:
            client.send(b"GET /gone HTTP/1.1\r\nHost: a\r\n\r\n")
            assert gone.wait(25)
        assert [ends.get(timeout=25) for _ in range(3)] == [("/ok", 200), ("/raise", 500), ("/gone", 499)]
    assert ends.empty()


def test_state_is_the_exchanges_own() -> None:
    def first(x: Exchange) -> None:
        assert x.state is None
        x.state = x.query_string

    def second(x: Exchange) -> None:
        x.set_response_header("X-State", x.state)

    with in_process(Chain("/a", Says(), Hook(request=first), Hook(response=second))) as served:
        assert header(served.get("/a?1")[0], b"x-state") == b"1"
        assert header(served.get("/a?2")[0], b"x-state") == b"2"


# -- handlers: reading ------------------------------------------------------------------------------------------------


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("size", [0, 1, 65_537, MB])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_handler_reads_the_whole_body(size: int, framing: str) -> None:
    async def back(x: Exchange) -> Response:
        return Response(200, await x.read())

    body = bytes(range(256)) * (size // 256) + b"!" * (size % 256)
    head = b"POST /a HTTP/1.1\r\nHost: a\r\n"
    pieces = [body[at : at + 50_000] for at in range(0, size, 50_000)]
    if framing == "length":
        data = head + b"Content-Length: %d\r\n\r\n" % size + body
    else:
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*pieces)
    with in_process(Chain("/a", Does(back))) as served, served.connect() as client:
        sender = threading.Thread(target=client.send, args=(data + b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n",))
        sender.start()
        assert client.receive_response()[1] == body
        assert client.receive_response()[1] == b"", "the connection goes on with the next request"
        sender.join()


def test_a_body_over_the_readers_limit_is_told_so() -> None:
    async def small(x: Exchange) -> Response:
        try:
            await x.read(limit=10)
        except ValueError as error:
            return Response(413, str(error).encode())
        raise AssertionError

    with in_process(Chain("/a", Does(small))) as served:
        head, body = served.request(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello world")
        assert (status_of(head), body) == (413, b"request body is larger than 10 bytes")


def test_pieces_come_as_they_are_sent() -> None:
    got: queue.Queue[bytes] = queue.Queue()

    async def listen(x: Exchange) -> Response:
        async for piece in x.chunks():
            got.put(piece)
        return Response(204)

    with in_process(Chain("/a", Does(listen))) as served, served.connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for word in (b"one", b"two", b"three"):
            client.send(b"%x\r\n%s\r\n" % (len(word), word))
            assert got.get(timeout=25) == word
        client.send(b"0\r\n\r\n")
        assert status_of(client.receive_response()[0]) == 204


def test_a_client_is_held_back_by_a_handler_that_does_not_read() -> None:
    read_now = asyncio.Event()

    async def wait(x: Exchange) -> Response:
        await read_now.wait()
        return Response(200, b"%d" % len(await x.read()))

    size = 64 * MB
    with in_process(Chain("/a", Does(wait)), limits={"body_bytes": 0}) as served, served.connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        client.sock.settimeout(1)
        sent = 0
        try:
            while sent < size:
                sent += client.sock.send(bytes(min(MB, size - sent)))
        except TimeoutError:
            pass
        assert sent < size
        served.loop.call_soon_threadsafe(read_now.set)
        client.sock.settimeout(25)
        client.send(bytes(size - sent))
        assert client.receive_response()[1] == b"%d" % size


def test_a_handler_that_holds_a_client_back_does_not_time_it_out() -> None:
    read_now = asyncio.Event()

    async def wait(x: Exchange) -> Response:
        await read_now.wait()
        return Response(200, b"%d" % len(await x.read()))

    with in_process(Chain("/a", Does(wait)), timeouts={"body_idle": 0.5}) as served, served.connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MB)
        sender = threading.Thread(target=client.send, args=(bytes(MB),))
        sender.start()
        served.run(lambda: asyncio.sleep(2.5))  # two rounds of the clock
        served.loop.call_soon_threadsafe(read_now.set)
        assert client.receive_response()[1] == b"%d" % MB
        sender.join()


def test_a_client_that_leaves_in_the_middle_of_its_body_cancels_the_handler() -> None:
    began = threading.Event()

    async def listen(x: Exchange) -> None:
        async for _ in x.chunks():
            began.set()

    handler = Does(listen)
    with in_process(Chain("/a", handler), ALIVE) as served:
        with served.connect() as client:
            client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf")
            assert began.wait(25)
        assert isinstance(handler.ends.get(timeout=25), asyncio.CancelledError)
        assert served.wait_access(path="/a")["status"] == 499
        assert worker_lives(served)


# -- handlers: writing ------------------------------------------------------------------------------------------------


async def stream(x: Exchange) -> None:
    x.start(200, [(b"Content-Type", b"text/plain")])
    for number in range(3):
        await x.write(b"%d," % number)
    x.end()


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_stream_without_length_is_chunked_or_ends_with_the_connection(version: bytes) -> None:
    with in_process(Chain("/a", Does(stream))) as served, served.connect() as client:
        client.send(b"GET /a HTTP/%s\r\nHost: a\r\n\r\n" % version)
        if version == b"1.0":
            head, body = client.receive_head(), client.receive_all()
            assert header(head, b"connection") == b"close"
        else:
            head, body = client.receive_response()
            assert header(head, b"transfer-encoding") == b"chunked"
        assert body == b"0,1,2,"


def test_each_piece_reaches_the_client_when_it_is_written() -> None:
    go_on = asyncio.Event()

    async def drip(x: Exchange) -> None:
        x.start(200)
        await x.write(b"one")
        await go_on.wait()
        await x.write(b"two")

    with in_process(Chain("/a", Does(drip))) as served, served.connect() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        client.receive_head()
        assert client.receive_until(b"one\r\n") == b"3\r\none\r\n"
        served.loop.call_soon_threadsafe(go_on.set)
        assert client.receive_until(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"


def test_a_head_with_a_length_survives_what_other_exchanges_do_meanwhile() -> None:
    go_on = asyncio.Event()

    async def wait(x: Exchange) -> None:
        x.start(200, [(b"X-Mine", b"yes")], length=3)
        await go_on.wait()
        await x.write(b"two")

    with in_process(Chain("/a", Does(wait)), ALIVE) as served, served.connect() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert header(client.receive_head(), b"x-mine") == b"yes"
        assert worker_lives(served)
        served.loop.call_soon_threadsafe(go_on.set)
        assert client.receive_exactly(3) == b"two"
        client.send(b"GET /alive HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.receive_response()[1] == b"ok"


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
def test_a_length_is_kept_to_and_a_head_request_gets_no_body(method: bytes) -> None:
    async def exact(x: Exchange) -> None:
        x.start(200, length=5)
        await x.write(b"he")
        await x.write(b"llo")
        x.end()

    with in_process(Chain("/a", Does(exact))) as served, served.connect() as client:
        client.send(b"%s /a HTTP/1.1\r\nHost: a\r\n\r\n" % method)
        assert header(client.receive_head(), b"content-length") == b"5"
        if method == b"GET":
            assert client.receive_exactly(5) == b"hello"
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.receive_all().endswith(b"\r\n\r\nhello")


async def too_much(x: Exchange) -> None:
    x.start(200, length=3)
    await x.write(b"four")


async def too_little(x: Exchange) -> None:
    x.start(200, length=3)
    await x.write(b"tw")


async def raises_after_the_head(x: Exchange) -> None:
    x.start(200)
    await x.write(b"half")
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("work", "body"), [(too_much, b""), (too_little, b"tw"), (raises_after_the_head, b"4\r\nhalf\r\n")]
)
def test_a_response_that_cannot_be_completed_is_cut(work: Any, body: bytes) -> None:
    with in_process(Chain("/a", Does(work)), ALIVE) as served:
        with served.connect() as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /alive HTTP/1.1\r\nHost: a\r\n\r\n")
            client.receive_head()
            assert client.receive_all() == body
        line = served.wait_access(path="/a")
        assert (line["status"], line["detail"]) == (200, "internal")
        assert worker_lives(served)
        assert len(served.reports) == 1


async def raises(x: Exchange) -> None:
    raise RuntimeError("on purpose")


async def is_cancelled(x: Exchange) -> None:
    raise asyncio.CancelledError


async def forgets(x: Exchange) -> None:
    pass


async def writes_first(x: Exchange) -> None:
    await x.write(b"no head")


async def ends_first(x: Exchange) -> None:
    x.end()


async def forges(x: Exchange) -> None:
    x.start(200, [(b"Location", b"/\r\nSet-Cookie: a=1")])


async def frames(x: Exchange) -> None:
    x.start(200, [(b"Content-Length", b"3")])


async def returns_nonsense(x: Exchange) -> int:
    return 200


@pytest.mark.parametrize(
    "work", [raises, is_cancelled, forgets, writes_first, ends_first, forges, frames, returns_nonsense]
)
def test_a_handler_that_fails_before_the_head_is_an_internal_error(work: Any) -> None:
    with in_process(Chain("/a", Does(work)), ALIVE) as served:
        head, body = served.get("/a")
        assert status_of(head) == 500
        assert b'"code":"internal"' in body
        assert b"purpose" not in body
        assert b"Set-Cookie" not in head
        assert worker_lives(served)
        assert len(served.reports) == (work is not is_cancelled)


def test_a_handler_cannot_answer_twice() -> None:
    async def twice(x: Exchange) -> None:
        x.answer(Response(200, b"once"))
        with pytest.raises(ConnectionResetError):
            x.start(200)
        with pytest.raises(ConnectionResetError):
            await x.write(b"more")
        x.end()

    handler = Does(twice)
    with in_process(Chain("/a", handler)) as served:
        assert served.get("/a")[1] == b"once"
        assert handler.ends.get(timeout=25) is None


def test_what_a_handler_raises_after_its_answer_is_reported() -> None:
    async def late(x: Exchange) -> None:
        x.answer(Response(200, b"ok"))
        raise RuntimeError("on purpose")

    with in_process(Chain("/a", Does(late)), ALIVE) as served:
        assert served.get("/a")[1] == b"ok"
        assert worker_lives(served)
        assert [str(report) for report in served.reports] == ["on purpose"]


def test_a_slow_reader_holds_the_handler_back() -> None:
    written = 0
    size = 64 * MB

    async def flood(x: Exchange) -> None:
        nonlocal written
        x.start(200, length=size)
        for _ in range(64):
            await x.write(bytes(MB))
            written += MB

    handler = Does(flood)
    with in_process(Chain("/a", handler), ALIVE) as served, served.connect() as client:
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        client.receive_head()
        before = -1
        while written != before:  # until the handler gets no further
            before = written
            served.run(lambda: asyncio.sleep(0.3))
            assert worker_lives(served)
        assert written < size
        left = size
        while left:
            left -= len(client.receive_exactly(min(left, MB)))
        assert handler.ends.get(timeout=25) is None


def test_a_client_that_leaves_cancels_a_handler_that_writes() -> None:
    async def for_ever(x: Exchange) -> None:
        x.start(200)
        while True:
            await x.write(b"tick")
            await asyncio.sleep(0.001)

    handler = Does(for_ever)
    with in_process(Chain("/a", handler), ALIVE) as served:
        with served.connect() as client:
            client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
            client.receive_until(b"tick")
        assert isinstance(handler.ends.get(timeout=25), asyncio.CancelledError)
        line = served.wait_access(path="/a")
        assert (line["status"], line["flag"]) == (499, "DC")
        assert worker_lives(served)
        assert served.reports == []


def test_a_handler_reads_and_writes_side_by_side() -> None:
    """As a proxy of a model does: the request goes on while the answer comes, each with its own back-pressure."""

    async def both(x: Exchange) -> None:
        x.start(200)

        async def ticks() -> None:
            for _ in range(8):
                await x.write(b"t" * MB)

        async with asyncio.TaskGroup() as group:
            group.create_task(ticks())
            total = len(await x.read())
        await x.write(b"%d" % total)

    with in_process(Chain("/a", Does(both))) as served, served.connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MB)
        sender = threading.Thread(target=client.send, args=(bytes(MB),))
        sender.start()
        body = client.receive_response()[1]
        sender.join()
    assert body == b"t" * 8 * MB + b"%d" % MB


def test_an_answer_before_the_end_of_the_body_ends_the_connection() -> None:
    with in_process(Chain("/a", Says())) as served, served.connect() as client:
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf")
        head, body = client.receive_response()
        assert (body, header(head, b"connection")) == (b"ok", b"close")
        assert client.closed()


def test_pipelined_requests_to_handlers_are_answered_in_order() -> None:
    async def slowly(x: Exchange) -> Response:
        await asyncio.sleep(0.02 if x.query_string == b"1" else 0)
        return Response(200, x.query_string)

    with in_process(Chain("/a", Does(slowly))) as served, served.connect() as client:
        client.send(b"".join(b"GET /a?%d HTTP/1.1\r\nHost: a\r\n\r\n" % number for number in range(1, 6)))
        assert [client.receive_response()[1] for _ in range(5)] == [b"1", b"2", b"3", b"4", b"5"]


def test_a_total_timeout_ends_a_handler() -> None:
    async def for_ever(x: Exchange) -> None:
        await asyncio.Event().wait()

    handler = Does(for_ever)
    with in_process(Chain("/a", handler), timeouts={"total": 0.05}) as served:
        head, body = served.get("/a")
        assert status_of(head) == 504
        assert b'"code":"total_timeout"' in body
        assert isinstance(handler.ends.get(timeout=25), asyncio.CancelledError)
