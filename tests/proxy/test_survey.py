"""A look at the client connections of a worker: what each is in the middle of, whom it is from, and how it is ended."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from kairos._speedups.cells import W_TUNNELS_OPEN
from kairos.inquiry import Found, Wanted
from kairos.proxy.connections import Survey
from kairos.proxy.exchange import Exchange, Filter, Handler, Response
from kairos.proxy.wire import Walk
from tests.support.gateway import route
from tests.support.held import HeldOrigin, held_origins
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, connect, origin, read_request, status_of
from tests.support.tls import Authority, client_context, connect_tls
from tests.support.ws import handshake, switching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG = 60


class Waits(Filter):
    """Until the exchange is over."""

    async def on_request(self, x: Exchange) -> None:
        await asyncio.Event().wait()


class Ponders(Handler):
    async def handle(self, x: Exchange) -> Response:
        await asyncio.Event().wait()
        return Response(200)


class Floods(Handler):
    """Answers without end."""

    async def handle(self, x: Exchange) -> None:
        x.start(200)
        while True:
            await x.write(bytes(1 << 18))


def survey(served: InProcess, sort: str = "oldest", ends: Any = None, limit: int = 100, **wanted: Any) -> Any:
    """What a worker would answer."""

    async def look() -> Found:
        with contextlib.closing(Survey(served.runtime, 3, Wanted(**wanted), sort, limit, ends)) as made:  # type: ignore[arg-type]
            while made.look() or made.describe():
                await asyncio.sleep(0)
            return Found(0, made.open, made.looked_at, True, made.states, made.connections)

    return served.run(look)


def one(served: InProcess, **wanted: Any) -> Any:
    """The one that fits, once it is there."""
    served.wait(lambda: sum(survey(served, **wanted).states.values()) == 1, f"connection {wanted}")
    (found,) = survey(served, **wanted).connections
    return found


def asked(served: InProcess, path: str, *lines: str, body: bytes = b"") -> Peer:
    peer = served.connect()
    peer.send("\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode() + body)
    return peer


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.shop = made.file("shop.test")  # type: ignore[attr-defined]
    return made


@pytest.fixture
def served(authority: Any) -> Iterator[Any]:
    """Every way of waiting, over HTTP and HTTPS, for a trusted proxy at home."""
    with held_origins(1) as (held,), origin(tunnelled) as tunnels:
        limited = route("/limited", held.url, queue={"timeout": LONG})
        limited["backends"][0]["max_requests"] = 1
        with in_process(
            Chain("/filter", Ponders(), Waits()),
            Chain("/handler", Ponders()),
            Chain("/flood", Floods()),
            Chain("/limited", limited),
            Chain("/ws", route("/ws", tunnels.url, upgrade=True)),
            trusted_proxies=["127.0.0.1"],
            server={"tls": {"certificates": [{"cert_file": authority.shop}]}},
        ) as made:
            made.held = held  # type: ignore[attr-defined]
            yield made


def tunnelled(peer: Peer) -> None:
    peer.send(switching(read_request(peer)[0]))
    peer.receive_all()


# --- what it is in the middle of --------------------------------------------------------------------------------------


def test_what_a_request_waits_for(served: Any) -> None:
    with asked(served, "/filter"), asked(served, "/handler"), asked(served, "/limited"):
        served.held.received()
        with asked(served, "/limited"):
            served.wait(lambda: survey(served).states == {"waiting": 4}, "all of them")
            found = {(one.request.path, one.request.waits_for) for one in survey(served).connections}
            assert found == {
                ("/filter", "filter"),
                ("/handler", "handler"),
                ("/limited", "response"),
                ("/limited", "queue"),
            }
            survey(served, ends="now")


def test_a_head_and_a_body_that_are_coming(served: Any) -> None:
    with served.connect() as head, asked(served, "/handler", "Content-Length: 10", body=b"12345"):
        head.send(b"GET /handler HTTP/1.1\r\nHo")
        served.wait(lambda: survey(served).states == {"reading": 2}, "both")
        requests = [one.request and (one.request.path, one.request.bytes_in > 5) for one in survey(served).connections]
        assert sorted(requests, key=str) == [("/handler", True), None]
        survey(served, ends="now")


def test_a_client_that_reads_slowly(served: Any) -> None:
    with asked(served, "/flood"):
        found = one(served, state=["sending"], min_idle=0.05)
        assert found.unsent > 0
        assert found.request.bytes_out > found.bytes_sent
        assert survey(served, ends="now").states == {"sending": 1}
        served.wait(lambda: survey(served).open == 0, "end of it, though nobody reads")
        served.wait_access(detail="closed_by_operator", path="/flood")


# --- whom it is from --------------------------------------------------------------------------------------------------


def test_for_whom_a_trusted_proxy_speaks(served: Any) -> None:
    with asked(served, "/handler", "X-Forwarded-For: 203.0.113.9"):
        found = one(served, client=["203.0.113.0/24"])
        assert (found.client, found.peer.startswith("127.0.0.1:")) == ("203.0.113.9", True)
        assert survey(served, client=["127.0.0.1"]).states == {"waiting": 1}
        assert survey(served, client=["198.51.100.1"]).states == {}
        survey(served, ends="now")


def test_who_is_behind_a_load_balancer() -> None:
    with (
        in_process(Chain("/handler", Ponders()), server={"proxy_protocol": {"networks": ["127.0.0.1"]}}) as served,
        served.connect() as peer,
    ):
        found = one(served, state=["handshake"])
        assert (found.client, found.through) == ("127.0.0.1", None)
        peer.send(b"PROXY TCP6 2001:db8::7 2001:db8::9 4711 443\r\n")
        found = one(served, state=["idle"])
        assert (found.client, found.peer, found.listener) == ("2001:db8::7", "[2001:db8::7]:4711", "[2001:db8::9]:443")
        assert found.through == f"127.0.0.1:{peer.sock.getsockname()[1]}"
        assert survey(served, port=443, client=["2001:db8::/32"]).states == {"idle": 1}
        assert survey(served, client=["127.0.0.1"]).states == {}


# --- how it is ended --------------------------------------------------------------------------------------------------


def test_a_request_in_any_wait_is_answered(served: Any) -> None:
    with asked(served, "/filter") as a, asked(served, "/handler") as b, asked(served, "/limited") as c:
        served.held.received()
        with asked(served, "/limited") as d:
            served.wait(lambda: survey(served).states == {"waiting": 4}, "all of them")
            assert survey(served, ends="now").states == {"waiting": 4}
            for peer in (a, b, c, d):
                head, body = peer.receive_response()
                assert (status_of(head), b'"closed_by_operator"' in body) == (503, True)
                assert peer.closed()
    served.wait(served.at_rest, "rest")
    assert served.reports == []


def test_a_tunnel_over_tls_is_cut(served: Any, authority: Authority) -> None:
    with connect_tls(served.tls_port, client_context(authority)) as peer:
        peer.send(handshake("/ws"))
        assert status_of(peer.receive_head()) == 101
        assert survey(served, ends="gently", protocol="websocket").states == {"tunnel": 1}
        assert one(served).state == "tunnel"  # which gently ends by itself, or never
        survey(served, ends="now", protocol="websocket")
        assert peer.receive_all() == b""
    served.wait_access(detail="closed_by_operator", path="/ws", status=101)
    assert served.worker_cell(W_TUNNELS_OPEN) == 0


def test_a_handshake_that_does_not_come_is_ended(served: Any) -> None:
    with connect(served.tls_port) as peer:
        one(served, state=["handshake"])
        survey(served, ends="gently")
        assert peer.closed()


def test_gently_one_that_idles_is_closed_and_one_that_waits_is_not(served: Any) -> None:
    with asked(served, "/limited") as busy, served.connect() as idle:
        held: HeldOrigin = served.held
        request = held.received()
        served.wait(lambda: survey(served).states == {"waiting": 1, "idle": 1}, "both")
        survey(served, ends="gently")
        assert idle.closed()
        request.answer(b"good")
        head, body = busy.receive_response()
        assert (body, b"Connection: close" in head) == (b"good", True)
        assert busy.closed()


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


# --- the walk ---------------------------------------------------------------------------------------------------------


def test_whoever_comes_or_goes_meanwhile_all_others_are_seen_once(served: Any, closing: contextlib.ExitStack) -> None:
    for _ in range(60):
        closing.enter_context(served.connect())
    served.wait(lambda: survey(served).open == 60, "all of them")

    async def walk() -> tuple[list[Any], list[Any]]:
        first, other = Walk(served.runtime.clock), Walk(served.runtime.clock)
        seen: list[Any] = []
        for number, wire in enumerate(first):
            if wire in served.runtime.clients:
                seen.append(wire)
            next(other, None)
            if number % 5 == 0:
                served.runtime.clients[number % len(served.runtime.clients)].kill()
                await asyncio.sleep(0)
        other.close()
        return seen, served.runtime.clients

    seen, left = served.run(walk)
    assert len(set(seen)) == len(seen) <= 60
    assert set(left) <= set(seen)
    assert 40 < len(left) < 60
    assert [type(wire).__name__ for wire in served.runtime.clock.wires()] == ["ClientConnection"] * len(left)


KEYS: dict[str, Callable[[Any], float]] = {
    "oldest": lambda found: -found.age,
    "newest": lambda found: found.age,
    "bytes": lambda found: -found.bytes_received,
    "requests": lambda found: -found.requests,
    "idle": lambda _: 0,
    "request": lambda _: 0,
}


def test_the_first_of_each_order_are_kept(served: Any, closing: contextlib.ExitStack) -> None:
    peers = [closing.enter_context(served.connect()) for _ in range(12)]
    for number, peer in enumerate(peers):
        served.wait(lambda n=number: survey(served).open > n, "the next one")
        peer.send(b"G" * number)
    served.wait(lambda: survey(served, "bytes", limit=1).connections[0].bytes_received == 11, "the bytes")
    for sort, key in KEYS.items():
        every = survey(served, sort).connections
        assert [key(one) for one in every] == sorted(map(key, every))
        assert len(survey(served, sort, limit=5).connections) == 5
        assert survey(served, sort, limit=5).states == {"idle": 1, "reading": 11}
    assert [one.id for one in survey(served, limit=5).connections] == [one.id for one in survey(served).connections][:5]


def test_one_is_found_by_its_number(served: Any) -> None:
    with served.connect(), served.connect():
        served.wait(lambda: survey(served).open == 2, "both")
        slot, _, serial = survey(served).connections[1].id.split("-")
        assert slot == "3"
        (found,) = survey(served, serial=int(serial)).connections
        assert found.id.endswith(f"-{serial}")
        assert survey(served, serial=999).connections == []
