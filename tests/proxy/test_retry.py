"""Retries seen from both ends: what the client gets, and which backends were asked what.

Backends are asked in their order (round robin), so that the first act of a story is the first backend's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import msgspec
import pytest
import trustme

from kairos._speedups import cells
from kairos.config.model import Config, Route
from kairos.proxy.exchange import Exchange, Filter
from kairos.proxy.fields import retry_after
from tests.proxy.conftest import ALL_METHODS
from tests.support.gateway import gateway, route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, dead_port, origin, read_request, status_of
from tests.support.ws import handshake, open_websocket, switching

Act = bytes | Callable[[Peer], None]
NOW = {"initial_backoff_ms": 0}
"""Retries as listed by default, at once."""


class Backend:
    """An origin that answers each request with the next of its acts, then with its name; it keeps what it was asked."""

    def __init__(self, name: str, *acts: Act, whole: bool = True) -> None:
        self.answer = answer(200, name.encode())
        self.acts = iter(acts)
        self.whole = whole
        self.requests: queue.Queue[tuple[bytes, bytes]] = queue.Queue()
        self.came = 0

    def __call__(self, peer: Peer) -> None:
        while True:
            request = read_request(peer) if self.whole else (peer.receive_head(), b"")
            self.came += 1
            self.requests.put(request)
            act = next(self.acts, self.answer)
            if isinstance(act, bytes):
                peer.send(act)
            else:
                act(peer)

    def received(self) -> tuple[bytes, bytes]:
        """The next request it got."""
        return self.requests.get(timeout=25)


def answer(status: int, body: bytes = b"", *lines: str) -> bytes:
    head = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


def hang_up(peer: Peer) -> None:
    """Close the connection, with an end of stream."""
    raise EOFError


def reset(peer: Peer) -> None:
    peer.reset()
    raise EOFError


def then_hang_up(data: bytes) -> Act:
    def act(peer: Peer) -> None:
        peer.send(data)
        raise EOFError

    return act


class Hold:
    """An act that does not answer before it is released; `reached` when it was begun."""

    def __init__(self, then: bytes = b"") -> None:
        self.reached, self.released = threading.Event(), threading.Event()
        self.then = then

    def __call__(self, peer: Peer) -> None:
        self.reached.set()
        assert self.released.wait(25)
        peer.send(self.then) if self.then else hang_up(peer)


class Served(InProcess):
    """With its cells by name, summed over its routes, pairs and upstreams."""

    urls: list[str]

    def _sum(self, block: Callable[[int, int], int], indexes: dict[Any, int], cell: int) -> int:
        return sum(self.board.page.get(block(0, index) + cell) for index in set(indexes.values()))

    def count(self, name: str) -> int:
        """The cell of this name over all routes, pairs and upstreams of the page."""
        series, cell = self._revision.series, getattr(cells, name)
        if name.startswith("SU_"):
            return sum(self.board.page.get(self.board.shared_upstream(i) + cell) for i in series.upstreams.values())
        block, indexes = {
            "R": (self.board.route_block, series.routes),
            "P": (self.board.pair_block, series.pairs),
            "U": (self.board.upstream_block, series.upstreams),
        }[name[0]]
        return self._sum(block, indexes, cell)  # type: ignore[arg-type]

    def requests(self) -> int:
        """Requests counted, of all methods and outcomes."""
        series = self._revision.series
        size = cells.METHODS * cells.CLASSES
        return sum(sum(self.board.totals(self.board.pair_block(0, i), size)) for i in set(series.pairs.values()))

    def under_way(self) -> dict[str, int]:
        """What is not at rest."""
        active = self.board.page.get(self.board.worker_block(0) + cells.W_REQUESTS_ACTIVE)
        tasks = self.run(_tasks)
        found = {"U_IN_FLIGHT": self.count("U_IN_FLIGHT"), "R_EXTRA_ACTIVE": self.count("R_EXTRA_ACTIVE")}
        return {name: n for name, n in (found | {"active": active, "tasks": tasks}).items() if n}

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + 25
        while not condition():
            assert time.monotonic() < deadline, f"no {what}: {self.access_lines()}"
            time.sleep(0.005)

    def send(self, method: str = "GET", path: str = "/x", *lines: str, body: bytes = b"") -> tuple[bytes, bytes]:
        """One request with a Content-Length where it has a body; head and body of the answer."""
        with self.connect() as peer:
            peer.send(head(method, path, *([f"Content-Length: {len(body)}"] if body else []), *lines) + body)
            return (peer.receive_head(), b"") if method == "HEAD" else peer.receive_response()


async def _tasks() -> int:
    return len(asyncio.all_tasks()) - 2  # the server and this one


def head(method: str = "GET", path: str = "/x", *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


@contextlib.contextmanager
def before(
    *backends: Backend | Callable[[Peer], None] | None, filters: tuple[Filter, ...] = (), **members: Any
) -> Iterator[Served]:
    """A data plane with one route (without breaker) to these backends, None being one that refuses connections.

    In the end nothing is under way, and nothing was reported to the loop.
    """
    members = {"methods": ALL_METHODS, "load_balancing_strategy": "round_robin", **members}
    members.setdefault("circuit_breaker", {"enabled": False})
    with contextlib.ExitStack() as stack:
        urls = [
            f"http://127.0.0.1:{dead_port()}" if backend is None else stack.enter_context(origin(backend)).url
            for backend in backends
        ]
        end = route("/{x:path}", ",".join(urls), "/{x}", **members)
        served = Served([Chain("/{x:path}", end, *filters)], Config(routers=[]), None)
        stack.callback(served.close)
        served.urls = urls
        yield served
        served.wait(lambda: not served.under_way(), "rest")
        assert not served.reports


def asked(*backends: Backend) -> list[int]:
    return [backend.came for backend in backends]


# ---- without a section ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "HEAD"])
def test_what_could_not_be_sent_goes_elsewhere_whatever_it_is(method: str) -> None:
    other = Backend("other")
    with before(None, other) as served:
        head_, _ = served.send(method, body=b"" if method in ("GET", "HEAD") else b"data")
        line = served.wait_access(status=200)
    assert status_of(head_) == 200
    assert (line["attempts"], line["upstream"]) == (1, served.urls[1])  # one was sent
    assert other.received()[1] == (b"" if method in ("GET", "HEAD") else b"data")
    assert (served.requests(), served.count("P_RETRIES"), served.count("U_CONNECT_FAILURES")) == (1, 1, 1)
    assert served.count("P_CONNECT_ERRORS") == 0  # no request ended that way


@pytest.mark.parametrize("act", [hang_up, reset, then_hang_up(b"HTTP/1.1 20"), then_hang_up(b"no HTTP at all\r\n\r\n")])
def test_an_idempotent_request_whose_connection_broke_goes_elsewhere(act: Act) -> None:
    first, other = Backend("first", act), Backend("other")
    with before(first, other) as served:
        assert served.send("PUT", body=b"data")[1] == b"other"
        line = served.wait_access(status=200)
    assert (line["attempts"], line["upstream"]) == (2, served.urls[1])
    assert first.received()[1] == other.received()[1] == b"data"
    assert (served.requests(), served.count("P_RETRIES"), served.count("U_FAILURES")) == (1, 1, 1)


@pytest.mark.parametrize("act", [hang_up, reset, then_hang_up(b"no HTTP at all\r\n\r\n")])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_post_is_never_made_twice(method: str, act: Act) -> None:
    first, other = Backend("first", act), Backend("other")
    with before(first, other) as served:
        assert status_of(served.send(method, body=b"data")[0]) == 502
    assert asked(first, other) == [1, 0]
    assert served.count("P_RETRIES") == 0


def test_each_backend_is_asked_once_and_the_last_failure_told() -> None:
    backends = [Backend(str(n), hang_up) for n in range(3)]
    with before(*backends) as served:
        head_, body = served.send()
        line = served.wait_access(status=502)
    assert status_of(head_) == 502
    assert b'"code":"upstream_reset"' in body
    assert asked(*backends) == [1, 1, 1]
    assert line["attempts"] == 3


def test_no_more_than_three_further_attempts() -> None:
    backends = [Backend(str(n), hang_up) for n in range(6)]
    with before(*backends) as served:
        assert status_of(served.send()[0]) == 502
    assert sum(asked(*backends)) == 4


def test_an_answer_is_an_answer() -> None:
    first, other = Backend("first", answer(503, b"busy")), Backend("other")
    with before(first, other) as served:
        head_, body = served.send()
    assert (status_of(head_), body) == (503, b"busy")
    assert asked(first, other) == [1, 0]


def test_a_backend_that_is_slow_is_not_given_up() -> None:
    slow, other = Hold(), Backend("other")
    with before(Backend("first", slow), other, timeouts={"first_byte": 0.2}) as served:
        assert status_of(served.send()[0]) == 504
        slow.released.set()
    assert other.came == 0


@pytest.mark.parametrize("retry", [{"max_retries": 0}, {"retry_on_connection_error": False}])
def test_failover_can_be_turned_off(retry: dict[str, Any]) -> None:
    other = Backend("other")
    with before(None, other, retry=retry) as served:
        assert status_of(served.send()[0]) == 502
    assert other.came == 0


def test_a_websocket_goes_elsewhere_only_before_it_was_asked_for() -> None:
    def grant(peer: Peer) -> None:
        peer.send(switching(peer.receive_head()))
        peer.receive_all()

    with before(None, grant, upgrade=True) as served:
        open_websocket(served.port, "/x")[0].close()
    first, other = Backend("first", hang_up), Backend("other")
    with before(first, other, upgrade=True, retry={**NOW, "retry_non_idempotent": True}) as served:
        assert status_of(served.request(handshake("/x"))[0]) == 502
    assert asked(first, other) == [1, 0]


# ---- answers that are not passed on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_a_listed_answer_is_asked_for_again_elsewhere(method: str, status: int) -> None:
    first, other = Backend("first", answer(status, b"" if method == "HEAD" else b"no")), Backend("other")
    with before(first, other, retry=NOW) as served:
        assert status_of(served.send(method)[0]) == 200
        line = served.wait_access(status=200)
    assert asked(first, other) == [1, 1]
    assert (line["attempts"], line["upstream"]) == (2, served.urls[1])
    assert served.count("U_FAILURES") == 1


@pytest.mark.parametrize("status", [200, 301, 404, 429, 500, 501])
def test_others_are_passed_on(status: int) -> None:
    first, other = Backend("first", answer(status, b"this")), Backend("other")
    with before(first, other, retry=NOW) as served:
        head_, body = served.send()
    assert (status_of(head_), body) == (status, b"this")
    assert other.came == 0


def test_a_post_gets_the_answer_unless_the_route_says_otherwise() -> None:
    first, other = Backend("first", answer(503, b"no")), Backend("other")
    with before(first, other, retry=NOW) as served:
        assert served.send("POST", body=b"data")[1] == b"no"
    assert asked(first, other) == [1, 0]
    first, other = Backend("first", reset), Backend("other", answer(503, b"no"))
    with before(first, other, retry={**NOW, "retry_non_idempotent": True}) as served:
        assert status_of(served.send("POST", body=b"data")[0]) == 200
    assert first.came + other.came == 3
    again = first if first.came == 2 else other
    assert [backend.received()[1] for backend in (first, other, again)] == [b"data"] * 3


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_the_last_answer_is_passed_on_as_it_is(framing: str) -> None:
    last = {
        "length": answer(503, b"the last", "X-Which: last"),
        "chunked": b"HTTP/1.1 503 No\r\nX-Which: last\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nthe last\r\n0\r\n\r\n",
        "close": then_hang_up(b"HTTP/1.1 503 No\r\nX-Which: last\r\nConnection: close\r\n\r\nthe last"),
    }[framing]
    only = Backend("only", answer(503, b"first"), answer(502, b"second"), last)
    with before(only, retry={**NOW, "max_retries": 2}) as served:
        head_, body = served.send()
        line = served.wait_access(status=503)
    assert (status_of(head_), body) == (503, b"the last")
    assert head_.count(b"X-Which: last") == 1
    assert (line["attempts"], served.requests(), served.count("P_RETRIES")) == (3, 1, 2)


def test_a_single_backend_is_asked_again_after_a_wait() -> None:
    only = Backend("only", answer(503), hang_up, answer(502))
    with before(only, retry={"initial_backoff_ms": 20}) as served:
        assert served.send()[1] == b"only"
    assert only.came == 4


def test_when_all_were_asked_they_are_asked_again() -> None:
    first, other = Backend("first", answer(503)), Backend("other", reset)
    with before(first, other, retry=NOW) as served:
        assert served.send()[1] in (b"first", b"other")
    assert sum(asked(first, other)) == 3


def test_max_retries_is_kept_to() -> None:
    only = Backend("only", *[answer(503)] * 20)
    with before(only, retry={**NOW, "max_retries": 5}) as served:
        assert status_of(served.send()[0]) == 503
    assert only.came == 6


def test_a_slow_backend_is_left_for_another() -> None:
    slow, other = Hold(), Backend("other")
    with before(Backend("first", slow), other, retry=NOW, timeouts={"first_byte": 0.2}) as served:
        assert served.send()[1] == b"other"
        assert status_of(served.send("POST", body=b"x")[0]) == 200
        slow.released.set()
    assert served.count("P_TIMEOUTS") == 0


def test_a_whole_answer_not_passed_on_leaves_its_connection() -> None:
    backend = Backend("only", answer(503, b"no"))
    with before(backend, retry=NOW) as served:
        assert served.send()[1] == b"only"
        assert served.count("U_CONNECTS") == 1


@pytest.mark.parametrize(
    "declined",
    [
        b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\npart", answer(503, b"no") + b"surplus",
        b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        answer(503, b"no", "Connection: close"), b"HTTP/1.0 503 No\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 503 No\r\n\r\nuntil close",
    ],
    ids=["part of it", "more than it", "chunked", "to be closed", "HTTP/1.0", "until the close"],
)  # fmt: skip
def test_one_that_is_not_whole_does_not(declined: bytes) -> None:
    backend = Backend("only", declined)
    with before(backend, retry=NOW) as served:
        assert served.send()[1] == b"only"
        assert served.send()[1] == b"only"
        assert served.count("U_CONNECTS") == 2


def test_the_answer_may_come_in_pieces() -> None:
    def drip(peer: Peer) -> None:
        peer.send_slowly(answer(503, b"no"))

    backend = Backend("only", drip)
    with before(backend, retry=NOW) as served:
        assert served.send()[1] == b"only"
        assert served.send()[1] == b"only"


# ---- Retry-After ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [lambda: "1", lambda: formatdate(time.time() + 2, usegmt=True)], ids=["s", "date"])
def test_retry_after_is_heeded_where_there_is_nobody_else(told: Callable[[], str]) -> None:
    only = Backend("only", lambda peer: peer.send(answer(503, b"", f"Retry-After: {told()}")))
    with before(only, retry={"initial_backoff_ms": 1}) as served:
        start = time.monotonic()
        assert served.send()[1] == b"only"
    assert time.monotonic() - start >= 0.99


def test_a_retry_after_beyond_the_longest_wait_is_the_clients_business() -> None:
    only = Backend("only", answer(503, b"later", "Retry-After: 7"))
    with before(only, retry={"max_backoff_ms": 6999}) as served:
        head_, body = served.send()
    assert (status_of(head_), body) == (503, b"later")
    assert b"Retry-After: 7\r\n" in head_
    assert only.came == 1


def test_retry_after_is_not_waited_for_where_there_is_another_backend() -> None:
    first, other = Backend("first", answer(503, b"later", "Retry-After: 3600")), Backend("other")
    with before(first, other, retry=NOW) as served:
        assert served.send()[1] == b"other"


@pytest.mark.parametrize("told", ["soon", "-1", "Wed, 99 Foo 9999 99:99:99 GMT", "", "1.5", "0", "1" * 400])
def test_a_retry_after_that_says_nothing_does_no_harm(told: str) -> None:
    only = Backend("only", answer(503, b"later", f"Retry-After: {told}"))
    with before(only, retry=NOW) as served:
        assert served.send()[1] == (b"later" if told == "1" * 400 else b"only")


@pytest.mark.parametrize("zone", ["UTC", "Etc/GMT+9", "Etc/GMT-9"])
def test_the_three_forms_of_a_date_are_in_utc(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    at = time.gmtime(time.time() + 60)
    for form in "%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y":
        seconds = retry_after(time.strftime(form, at).encode())
        assert 50 < (seconds or 0) <= 60, form
    monkeypatch.undo()
    time.tzset()


# ---- time and budget ------------------------------------------------------------------------------------------------


def test_a_wait_that_would_end_too_late_is_not_begun() -> None:
    only = Backend("only", answer(503, b"no", "Retry-After: 4"))
    with before(only, retry={}, timeouts={"total": 3.0}) as served:
        start = time.monotonic()
        assert served.send()[1] == b"no"
    assert time.monotonic() - start < 3


def test_the_total_time_bounds_all_attempts() -> None:
    slow = [Hold() for _ in range(9)]
    with before(
        Backend("only", *slow), retry={**NOW, "max_retries": 8}, timeouts={"first_byte": 0.3, "total": 3.0}
    ) as served:
        start = time.monotonic()
        _, body = served.send()
        assert time.monotonic() - start < 5
        for each in slow:
            each.released.set()
        assert 2 <= served.wait_access(status=504)["attempts"] <= 8
    assert b'"code":"total_timeout"' in body


class SilentLater:
    """A TLS backend: its first connection is served by `script`, later ones get no handshake."""

    def __init__(self, script: Callable[[Peer], None]) -> None:
        self.script = script
        self.released = threading.Event()
        self.connections = itertools.count()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(self.context)

    def __call__(self, peer: Peer) -> None:
        if next(self.connections):
            assert self.released.wait(25)
            return
        with self.context.wrap_socket(peer.sock, server_side=True) as sock:
            self.script(Peer(sock))


@pytest.mark.parametrize(
    "second",
    [hang_up, then_hang_up(b"HTTP/1.1 2"), answer(503, b"", "Connection: close")],
    ids=["stale", "broke", "503"],
)
def test_the_total_time_bounds_a_dial_after_the_first_attempt(second: Act) -> None:
    backend = SilentLater(Backend("only", answer(200, b"ok"), second))
    with origin(backend) as o, contextlib.ExitStack() as stack:
        end = route(
            "/x", f"https://127.0.0.1:{o.port}", retry=NOW, tls={"verify": False},
            timeouts={"connect": 8, "total": 1.0},
        )  # fmt: skip
        served = stack.enter_context(in_process(Chain("/x", end)))
        with served.connect() as client:
            client.send(head())
            assert client.receive_response()[1] == b"ok"
            start = time.monotonic()
            client.send(head())
            head_, body = client.receive_response()
        assert (status_of(head_), b'"total_timeout"' in body) == (504, True)
        assert time.monotonic() - start < 4
        backend.released.set()


@pytest.mark.parametrize(
    ("budget", "again"), [((0, 1), False), ((100, 0), True), ((55, 0), True), ((40, 1), False), ((0, 2), True)]
)
def test_retries_have_a_budget(budget: tuple[float, int], again: bool) -> None:
    """One of two requests is on a retry: whether the other may be, too."""
    hold = Hold(answer(200, b"held"))
    only = Backend("only", answer(503, b"no"), hold, answer(503, b"no"))
    retry = {**NOW, "max_retries": 1, "budget_percent": budget[0], "budget_min": budget[1]}
    with before(only, retry=retry) as served:
        with served.connect() as first:
            first.send(head())
            assert hold.reached.wait(25)
            assert served.count("R_EXTRA_ACTIVE") == 1
            assert served.send()[1] == (b"only" if again else b"no")
            hold.released.set()
            assert first.receive_response()[1] == b"held"
        assert served.count("R_BUDGET_SPENT") == (0 if again else 1)


def test_what_could_not_be_sent_needs_no_budget() -> None:
    other = Backend("other")
    with before(None, other, retry={**NOW, "budget_percent": 0, "budget_min": 0}) as served:
        assert served.send("POST", body=b"x")[1] == b"other"
    assert served.count("R_BUDGET_SPENT") == 0


def test_without_budget_nothing_is_sent_twice() -> None:
    first, other = Backend("first", answer(503, b"no", "Connection: close")), Backend("other", reset)
    with before(first, other, retry={**NOW, "budget_percent": 0, "budget_min": 0}) as served:
        assert [status_of(served.send()[0]) for _ in range(2)] == [503, 502]
    assert asked(first, other) == [1, 1]
    assert served.count("R_BUDGET_SPENT") == 2


# ---- bodies ---------------------------------------------------------------------------------------------------------


DATA = bytes(range(256)) * 100


def chunked(data: bytes, size: int, *trailers: str) -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return body + b"0\r\n" + "".join(f"{line}\r\n" for line in trailers).encode() + b"\r\n"


def in_pieces(client: Peer, data: bytes, count: int) -> None:
    """So that the gateway reads it so often, or nearly."""
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    size = -(-len(data) // count)
    for at in range(0, len(data), size):
        client.send(data[at : at + size])
        time.sleep(0.002)


@pytest.mark.parametrize("act", [reset, answer(503, b"no"), None], ids=["reset", "503", "refused"])
@pytest.mark.parametrize("reads", [1, 3, 40])
@pytest.mark.parametrize("framing", ["length", "chunked", "small chunks"])
def test_a_body_is_sent_again_byte_for_byte(framing: str, reads: int, act: Act | None) -> None:
    if framing == "length":
        request = head("PUT", "/x", f"Content-Length: {len(DATA)}") + DATA
    else:
        request = head("PUT", "/x", "Transfer-Encoding: chunked") + chunked(DATA, 10_000 if framing == "chunked" else 7)
    first, other = None if act is None else Backend("first", act), Backend("other")
    with before(first, other, retry=NOW) as served, served.connect() as client:
        in_pieces(client, request, reads)
        assert client.receive_response()[1] == b"other"
        client.send(head())  # and the connection goes on
        assert status_of(client.receive_response()[0]) == 200
    assert other.received()[1] == DATA
    if first is not None:
        assert first.received()[1] == DATA


def test_an_empty_chunked_body_is_sent_again() -> None:
    first, other = Backend("first", answer(503)), Backend("other")
    with before(first, other, retry=NOW) as served:
        assert served.request(head("PUT", "/x", "Transfer-Encoding: chunked") + b"0\r\n\r\n")[1] == b"other"
    for backend in (first, other):
        head_, body = backend.received()
        assert (b"transfer-encoding: chunked" in head_.lower(), body) == (True, b"")


@pytest.mark.parametrize("reads", [1, 20])
def test_trailers_are_sent_again(reads: int) -> None:
    def whole(peer: Peer) -> None:
        kept.append(peer.receive_until(b"\r\nX-Sum: 12\r\n\r\n"))
        peer.send(answers.pop(0))

    kept: list[bytes] = []
    answers = [answer(503), answer(200, b"yes")]
    scripts = [Backend("1", whole, whole=False), Backend("2", whole, whole=False)]
    request = head("PUT", "/x", "Transfer-Encoding: chunked", "Trailer: X-Sum") + chunked(b"data", 3, "X-Sum: 12")
    with before(*scripts, retry=NOW) as served, served.connect() as client:
        in_pieces(client, request, reads)
        assert client.receive_response()[1] == b"yes"
    assert [b"".join(part.split(b"\r\n")[1::2]).startswith(b"data"[:1]) for part in kept] == [True, True]
    assert all(part.endswith(b"0\r\nX-Sum: 12\r\n\r\n") for part in kept)


@pytest.mark.parametrize("reads", [1, 3])
def test_100_continue_is_said_once(reads: int) -> None:
    first, other = Backend("first", answer(503)), Backend("other")
    with before(first, other, retry=NOW) as served, served.connect() as client:
        client.send(head("PUT", "/x", f"Content-Length: {len(DATA)}", "Expect: 100-continue"))
        assert client.receive_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        in_pieces(client, DATA, reads)
        head_, body = client.receive_response()
    assert (status_of(head_), body) == (200, b"other")
    assert first.received()[1] == other.received()[1] == DATA


@pytest.mark.parametrize(("size", "again"), [(1000, True), (1001, False)])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_too_large_to_keep_is_not_sent_again(framing: str, size: int, again: bool) -> None:
    first, other = Backend("first", answer(503, b"no")), Backend("other")
    lines = [f"Content-Length: {size}"] if framing == "length" else ["Transfer-Encoding: chunked"]
    body = b"x" * size if framing == "length" else chunked(b"x" * size, 300)
    with before(first, other, retry={**NOW, "buffer_bytes": 1000}) as served, served.connect() as client:
        client.send(head("PUT", "/x", *lines))
        assert first.requests.empty()
        served.wait(lambda: served.count("U_CONNECTS") == 1, "connection for the head")
        in_pieces(client, body, 5)
        assert client.receive_response()[1] == (b"other" if again else b"no")
    assert other.came == again


def test_a_large_body_that_nobody_got_yet_goes_elsewhere() -> None:
    """A backend that refuses takes nothing of it."""
    other = Backend("other")
    large = b"y" * 3_000_000
    with before(None, other, retry={**NOW, "buffer_bytes": 1000}) as served, served.connect() as client:
        client.send(head("POST", "/x", f"Content-Length: {len(large)}"))
        client.send(large)
        assert client.receive_response()[1] == b"other"
    assert other.received()[1] == large


@pytest.mark.parametrize("act", [answer(503, b"no"), reset], ids=["503", "reset"])
@pytest.mark.parametrize("wait", [0, 50])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_may_still_arrive_while_it_is_sent_again(framing: str, wait: int, act: Act) -> None:
    """The first backend answers after the head; the rest of the body comes when the second is asked, or before."""
    first, other = Backend("first", act, whole=False), Backend("other")
    lines = [f"Content-Length: {len(DATA)}"] if framing == "length" else ["Transfer-Encoding: chunked"]
    body = DATA if framing == "length" else chunked(DATA, 1000)
    with before(first, other, retry={"initial_backoff_ms": wait}) as served, served.connect() as client:
        client.send(head("PUT", "/x", *lines) + body[:5000])
        first.received()
        in_pieces(client, body[5000:], 10)
        assert client.receive_response()[1] == b"other"
    assert other.received()[1] == DATA


def test_a_body_that_fills_the_sockets_goes_on_at_the_next_backend() -> None:
    """The first backend reads nothing: the client is held, and let go again for the second."""
    hold = Hold()
    first, other = Backend("first", hold, whole=False), Backend("other")
    large = bytes(1_000_000) + b"end"
    retry = {**NOW, "buffer_bytes": 16 * 1024 * 1024}
    with before(first, other, retry=retry, timeouts={"first_byte": 60}) as served, served.connect() as client:
        client.send(head("PUT", "/x", f"Content-Length: {len(large)}"))
        assert hold.reached.wait(25)
        sender = threading.Thread(target=client.send, args=(large,))
        sender.start()
        time.sleep(0.2)
        hold.released.set()
        assert client.receive_response()[1] == b"other"
        sender.join(25)
    assert other.received()[1] == large


def test_heads_are_the_same_for_each_backend() -> None:
    """What is cut from a head for the first attempt is cut for the second, and nothing more."""

    class Edits(Filter):
        def on_request(self, x: Exchange) -> None:
            x.set_request_header("X-Set", "by a filter")
            x.set_request_header("X-Removed", None)

    lines = [
        "Connection: X-Hop, close", "X-Hop: secret", "X-Removed: secret", "X-Set: by the client", "X-Kept: yes",
        "TE: trailers", "X-Forwarded-For: 203.0.113.9", "Keep-Alive: 5", "X-Request-Id: one",
    ]  # fmt: skip
    first, other = Backend("first", reset), Backend("other", answer(503))
    with before(first, other, filters=(Edits(),), retry=NOW) as served:
        assert status_of(served.send("PUT", "/x?a=1", *lines, body=b"data")[0]) == 200
    again = first if first.came == 2 else other
    heads = [backend.received()[0] for backend in (first, other, again)]
    plain = [b"\r\n".join(line for line in head_.split(b"\r\n") if not line.startswith(b"Host:")) for head_ in heads]
    assert plain[0] == plain[1] == plain[2]
    assert b"secret" not in plain[0]
    assert plain[0].count(b"by a filter") == 1
    assert all(f"Host: {url[7:]}".encode() in head_ for url, head_ in zip(served.urls, heads[:2], strict=True))


# ---- clients --------------------------------------------------------------------------------------------------------


def test_a_client_that_leaves_during_the_wait() -> None:
    only = Backend("only", answer(503))
    retry = {"initial_backoff_ms": 3_600_000, "max_backoff_ms": 3_600_000}
    with before(only, retry=retry, timeouts={"total": 0}) as served:
        with served.connect() as client:
            client.send(head())
            served.wait(lambda: served.count("U_ATTEMPTS") == 1, "first attempt to end")
        line = served.wait_access(status=499)
    assert (line["attempts"], served.requests(), only.came) == (1, 1, 1)
    assert served.count("U_FAILURES") == 1  # the answer, not that the client left


def test_a_client_that_leaves_during_the_dial() -> None:
    silent = Hold()  # accepts, and shakes no hands
    with origin(silent) as o:
        served = Served(
            [Chain("/x", route("/x", f"https://127.0.0.1:{o.port}", tls={"verify": False}))], Config(routers=[]), None
        )
        with contextlib.closing(served), served.connect() as client:
            client.send(head())
            assert silent.reached.wait(25)
            client.close()
            assert "attempts" not in served.wait_access(status=499)
            served.wait(lambda: not served.under_way(), "rest")
        assert served.count("U_FAILURES") == 0
        silent.released.set()


def test_a_client_that_leaves_during_the_second_attempt() -> None:
    hold = Hold()
    first, other = Backend("first", answer(503)), Backend("other", hold)
    with before(first, other, retry=NOW) as served:
        with served.connect() as client:
            client.send(head())
            assert hold.reached.wait(25)
        line = served.wait_access(status=499)
        hold.released.set()
    assert (line["attempts"], line["upstream"], served.requests()) == (2, served.urls[1], 1)
    assert (served.count("P_RETRIES"), served.count("U_FAILURES")) == (1, 1)


def test_requests_sent_ahead_keep_their_order() -> None:
    first, other = Backend("first", answer(503), answer(503)), Backend("other")
    with before(first, other, retry={"initial_backoff_ms": 50}) as served, served.connect() as client:
        client.send(b"".join(head("PUT", f"/{n}", "Content-Length: 1") + b"%d" % n for n in range(6)))
        assert [status_of(client.receive_response()[0]) for _ in range(6)] == [200] * 6
        served.wait(lambda: len(served.access_lines()) == 6, "six lines")
    assert [line["path"] for line in served.access_lines()] == [f"/{n}" for n in range(6)]


@pytest.mark.parametrize("act", [reset, answer(503, b"no")])
def test_http10_clients(act: Act) -> None:
    first, other = Backend("first", act), Backend("other")
    with before(first, other, retry=NOW) as served, served.connect() as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        assert client.receive_all().endswith(b"\r\n\r\nother")


# ---- what was begun cannot be taken back ----------------------------------------------------------------------------


EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"


@pytest.mark.parametrize("act", [then_hang_up(EARLY), then_hang_up(EARLY + b"HTTP/1.1 2")])
def test_hints_that_went_out_bind_the_client_to_this_backend(act: Act) -> None:
    first, other = Backend("first", act), Backend("other")
    with before(first, other, retry=NOW) as served, served.connect() as client:
        client.send(head())
        assert client.receive_head() == EARLY
        assert status_of(client.receive_response()[0]) == 502
    assert other.came == 0


def test_and_to_its_answer() -> None:
    first, other = Backend("first", EARLY + answer(503, b"no")), Backend("other")
    with before(first, other, retry=NOW) as served, served.connect() as client:
        client.send(head())
        assert client.receive_head() == EARLY
        assert client.receive_response()[1] == b"no"
    assert other.came == 0


def test_hints_that_the_client_never_saw_do_not() -> None:
    first, other = Backend("first", then_hang_up(EARLY)), Backend("other")
    with before(first, other, retry=NOW) as served, served.connect() as client:
        client.send(b"GET /x HTTP/1.0\r\n\r\n")
        assert client.receive_all().endswith(b"other")


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\nno size\r\n",
    ],
)
def test_an_answer_that_breaks_off_is_cut(begun: bytes) -> None:
    def break_off(peer: Peer) -> None:
        start, _, rest = begun.partition(b"45")
        peer.send(start)
        assert seen.wait(25)
        peer.send(b"45" + rest)
        raise EOFError

    seen = threading.Event()
    first, other = Backend("first", break_off), Backend("other")
    with before(first, other, retry=NOW) as served, served.connect() as client:
        client.send(head())
        client.receive_until(b"123")
        seen.set()
        assert not client.receive_all().endswith(b"0\r\n\r\n")
        served.wait_access(path="/x", attempts=1)
    assert other.came == 0
    assert served.count("U_FAILURES") == 1


# ---- connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_stale_connection_costs_no_retry(method: str) -> None:
    only = Backend("only", answer(200, b"first"), hang_up)
    body = b"data" if method == "PUT" else b""
    with before(only, retry={"max_retries": 0}) as served:
        assert [served.send(method, body=body)[1] for _ in range(2)] == [b"first", b"only"]
    assert (served.count("U_STALE_RETRIES"), served.count("P_RETRIES"), served.count("U_FAILURES")) == (1, 0, 0)


def test_a_backend_whose_tls_fails_is_passed_over() -> None:
    plain, other = Backend("plain", lambda peer: hang_up(peer), whole=False), Backend("other")
    with origin(plain) as bad, origin(other) as good:
        urls = f"https://127.0.0.1:{bad.port},{good.url}"
        end = route("/x", urls, tls={"verify": False}, load_balancing_strategy="round_robin")
        with in_process(Chain("/x", end)) as served:
            assert served.request(head("POST", "/x", "Content-Length: 2") + b"no")[1] == b"other"


def test_retries_are_counted_at_who_took_them() -> None:
    first, other = Backend("first", answer(503)), Backend("other")
    with origin(first) as one, origin(other) as two:
        end = route("/x", f"{one.url},{two.url}", load_balancing_strategy="round_robin", retry=NOW)
        with gateway({"routers": [end]}) as g:
            assert g.get("/x")[1] == b"other"
            [line] = g.wait_access(path="/x")
            metrics = g.metrics()
        assert (line["attempts"], line["upstream"], line["status"]) == (2, two.url, 200)
        assert f'kairos_upstream_retries_total{{reason="policy",upstream="{two.url}"}} 1.0' in metrics
        assert f'reason="policy",upstream="{one.url}"' not in metrics
        assert "kairos_extra_attempts_in_flight" in metrics


# ---- changes under way ----------------------------------------------------------------------------------------------


LONG = {"initial_backoff_ms": 1, "max_backoff_ms": 2000, "max_retries": 1}
ASKS_TO_WAIT = answer(503, b"no", "Retry-After: 1", "Connection: close")


def test_a_worker_that_stops_answers_who_waits_for_a_retry() -> None:
    only = Backend("only", ASKS_TO_WAIT)
    with origin(only) as o, gateway({"routers": [route("/x", o.url, retry=LONG)]}) as g, g.connect() as client:
        client.send(head())
        only.received()
        g.signal(signal.SIGTERM)
        head_, body = client.receive_response()
        assert (status_of(head_), body) == (200, b"only")
        assert b"Connection: close" in head_


def test_a_reload_during_the_wait_leaves_the_request_its_route() -> None:
    only, other = Backend("only", ASKS_TO_WAIT), Backend("other")
    with origin(other) as o, before(only, retry=LONG) as served, served.connect() as client:
        client.send(head())
        only.received()

        async def reload() -> None:
            served.reload(Chain("/{x:path}", msgspec.convert(route("/{x:path}", o.url, "/{x}"), Route)))

        served.run(reload)
        assert served.send()[1] == b"other"
        assert client.receive_response()[1] == b"only"


def test_a_gateway_under_retries_loses_nobody() -> None:
    """Two of three backends answer every other request with an error or a reset: no client sees it."""

    def flaky(peer: Peer) -> None:
        if next(numbers) % 2:
            reset(peer)
        peer.send(answer(503, b"busy"))

    numbers = itertools.count()
    backends = [Backend("1", *[flaky] * 10_000), Backend("2", *[flaky] * 10_000), Backend("3")]
    with before(*backends, retry={**NOW, "max_retries": 10, "budget_percent": 100}) as served:
        answers: list[tuple[int, bytes]] = []

        def ask() -> None:
            with served.connect() as client:
                for n in range(40):
                    client.send(head("PUT", f"/{n}", "Content-Length: 300") + b"z" * 300)
                    head_, body = client.receive_response()
                    answers.append((status_of(head_), body))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        served.wait(lambda: len(served.access_lines()) == 320, "a line for each")
    assert set(answers) == {(200, b"3")}
    assert (len(answers), served.requests()) == (320, 320)
    assert {body for backend in backends for _, body in backend.requests.queue} == {b"z" * 300}
