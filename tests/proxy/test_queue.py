"""Limits of backends and the queue before them: origins count what they have at once, requests wait in order."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kairos._speedups.cells import (
    R_QUEUE_FULL,
    R_QUEUE_TIMEOUTS,
    R_QUEUED,
    R_QUEUED_TOTAL,
)
from tests.support import ws
from tests.support.gateway import Gateway, gateway, route
from tests.support.held import Asked, HeldOrigin, answer, held_origins
from tests.support.inprocess import METHODS, Chain, InProcess, in_process
from tests.support.net import Peer, dead_port, origin, read_request, status_of

LONG = 20.0
"""Seconds that no test waits."""


def get(path: str = "/x") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


def limited(*urls: str, limit: int = 1, path: str = "/{x}", **members: Any) -> dict[str, Any]:
    """A route to these origins, each with this limit."""
    members = {"methods": METHODS, "queue": {"timeout": LONG}, **members}
    made = route(path, ",".join(urls), path, **members)
    for backend in made["backends"]:
        backend["max_requests"] = limit
    return made


@contextlib.contextmanager
def one(limit: int = 1, **members: Any) -> Iterator[tuple[InProcess, HeldOrigin]]:
    """One origin; in the end nothing may be left of any request."""
    with held_origins(1) as [o], in_process(Chain("/{x}", limited(o.url, limit=limit, **members))) as p:
        yield p, o
        o.let_go()
        p.wait(p.at_rest, "end of all requests")
        assert p.reports == []
        assert o.most <= limit


@contextlib.contextmanager
def asking(p: InProcess | Gateway, *requests: bytes) -> Iterator[list[Peer]]:
    """A client for each request, which has sent it."""
    with contextlib.ExitStack() as stack:
        clients = []
        for request in requests:
            clients.append(stack.enter_context(p.connect()))
            clients[-1].send(request)
        yield clients


def queued(p: InProcess, count: int) -> None:
    p.wait(lambda: p.route_cell(R_QUEUED) == count, f"{count} waiting")


# ---- waiting --------------------------------------------------------------------------------------------


def test_those_who_wait_are_served_in_order() -> None:
    with one() as (p, o), contextlib.ExitStack() as stack:
        clients = []
        for n in range(6):
            clients += stack.enter_context(asking(p, get(f"/{n}")))
            queued(p, n)
        for n, client in enumerate(clients):
            asked = o.received()
            assert asked.target == f"/{n}"
            asked.answer(b"%d" % n)
            assert client.receive_response()[1] == b"%d" % n
        assert (p.route_cell(R_QUEUED_TOTAL), p.route_cell(R_QUEUED), o.most) == (5, 0, 1)


def test_nobody_overtakes_those_who_wait() -> None:
    with one() as (p, o), asking(p, get("/0")) as [first]:
        asked = o.received()
        with asking(p, get("/1")) as [second]:
            queued(p, 1)
            asked.answer()  # and at once, on the connection that has the answer before anybody else:
            first.receive_response()
            first.send(get("/2"))
            for n in (1, 2):
                asked = o.received()
                assert asked.target == f"/{n}"
                asked.answer(b"%d" % n)
            assert second.receive_response()[1] == b"1"
            assert first.receive_response()[1] == b"2"


def test_a_pipelined_request_goes_behind_those_who_wait() -> None:
    with one() as (p, o), asking(p, get("/0") + get("/2")) as [first]:
        asked = o.received()
        with asking(p, get("/1")) as [second]:
            queued(p, 1)
            asked.answer(b"0")
            for n in (1, 2):
                asked = o.received()
                assert asked.target == f"/{n}"
                asked.answer(b"%d" % n)
            assert [first.receive_response()[1], first.receive_response()[1]] == [b"0", b"2"]
            assert second.receive_response()[1] == b"1"


@pytest.mark.parametrize("size", [0, 2])
def test_a_full_queue_says_so_at_once(size: int) -> None:
    with one(queue={"size": size, "timeout": LONG}) as (p, o), asking(p, *[get()] * (1 + size)):
        asked = o.received()
        queued(p, size)
        head, body = p.get("/x")
        assert (status_of(head), b'"queue_full"' in body, b"Retry-After: 1" in head) == (503, True, True)
        assert p.route_cell(R_QUEUE_FULL) == 1
        assert "upstream" not in p.wait_access(detail="queue_full")
        asked.answer()
        for _ in range(size):
            o.received().answer()


def test_who_waits_too_long_is_told() -> None:
    with one(queue={"timeout": 0.1}) as (p, o), asking(p, get()) as [holder]:
        asked = o.received()
        with asking(p, *[get()] * 3) as clients:
            for client in clients:
                head, body = client.receive_response()
                assert (status_of(head), b'"queue_timeout"' in body, b"Retry-After: 1" in head) == (503, True, True)
        assert (p.route_cell(R_QUEUE_TIMEOUTS), p.route_cell(R_QUEUED)) == (3, 0)
        asked.answer(b"held")
        assert holder.receive_response()[1] == b"held"
        assert o.count == 1


def test_pipelined_requests_time_out_one_after_the_other() -> None:
    with one(queue={"timeout": 0.1}) as (p, o), asking(p, get()):
        o.received()
        with asking(p, get() * 3) as [client]:
            assert [status_of(client.receive_response()[0]) for _ in range(3)] == [503] * 3
        assert len(p.runtime.queues) <= 1
        assert o.count == 1


def test_total_timeout_while_waiting() -> None:
    with one(timeouts={"total": 0.3}, upgrade=True) as (p, o), p.connect() as tunnel:
        tunnel.send(ws.handshake("/ws"))
        switch(o.received(), tunnel)
        head, body = p.get("/x")
        assert (status_of(head), b"total_timeout" in body) == (504, True)
        assert p.route_cell(R_QUEUED_TOTAL) == 1
        assert o.count == 1


def switch(asked: Asked, tunnel: Peer) -> None:
    """Answer a handshake; the tunnel stands."""
    lines = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + ws.accept(ws.KEY)
    asked.peer.send(b"HTTP/1.1 101 Go\r\n%s\r\n\r\n" % lines)
    assert status_of(tunnel.receive_head()) == 101


def test_clients_that_leave_make_room() -> None:
    with one(queue={"size": 2, "timeout": LONG}) as (p, o), asking(p, get("/0")) as [holder]:
        asked = o.received()
        with asking(p, get("/1")):
            queued(p, 1)
            with asking(p, get("/2")) as [stays]:
                queued(p, 2)
            with asking(p, get("/3")) as [stays]:
                queued(p, 2)
        queued(p, 0)
        assert p.wait_access(path="/1")["status"] == 499
        with asking(p, get("/4")) as [stays]:
            queued(p, 1)
            asked.answer(b"0")
            assert holder.receive_response()[1] == b"0"
            asked = o.received()
            assert asked.target == "/4"
            asked.answer(b"4")
            assert stays.receive_response()[1] == b"4"
        assert o.count == 2


def test_the_holder_leaves_and_the_next_one_is_served() -> None:
    with one() as (p, o):
        with asking(p, get("/0")):
            held = o.received()
            with contextlib.ExitStack() as stack:
                [client] = stack.enter_context(asking(p, get("/1")))
                queued(p, 1)
                keep = stack.pop_all()
        with keep:
            assert held.dropped()
            o.received().answer(b"1")
            assert client.receive_response()[1] == b"1"
            o.most = 1  # the origin may hear of the new one before the old one's end


# ---- bodies ---------------------------------------------------------------------------------------------

LARGE = bytes(range(256)) * 4096


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_a_body_that_comes_while_its_request_waits(chunked: bool) -> None:
    """A MiB: more than is taken in before there is a backend; it arrives whole all the same."""
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(LARGE)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(LARGE), LARGE) if chunked else LARGE
    with one() as (p, o), asking(p, get()) as [_], p.connect() as client:
        held = o.received()
        client.send(b"POST /x HTTP/1.1\r\nHost: test\r\n%s\r\n\r\n" % framing)
        queued(p, 1)
        sender = threading.Thread(target=client.send, args=(body,))
        sender.start()
        sender.join(0.2)
        held.answer()
        asked = o.received()
        sender.join()
        assert asked.body == LARGE
        asked.answer(b"taken")
        assert client.receive_response()[1] == b"taken"


def test_a_body_is_sent_again_after_waiting_again() -> None:
    with held_origins(2) as [broken, busy]:
        spec = limited(broken.url, busy.url)
        with in_process(Chain("/{x}", spec)) as p, asking(p, get("/0"), get("/1")) as clients:
            first, second = broken.received(), busy.received()
            put = b"PUT /2 HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n"
            with asking(p, put) as [client]:
                queued(p, 1)
                client.send(b"hello")
                time.sleep(0.02)
                client.send(b"world")
                first.answer(b"ok", 200, b"Connection: close")  # so that the next one is no stale connection's fault
                asked = broken.received()
                assert asked.body == b"helloworld"
                asked.hang_up()  # the other one is full: it waits once more
                queued(p, 1)
                second.answer()
                asked = busy.received()
                assert asked.body == b"helloworld"
                asked.answer(b"done")
                assert client.receive_response()[1] == b"done"
                assert p.wait_access(path="/2")["attempts"] == 2
            for holder in clients:
                assert status_of(holder.receive_response()[0]) == 200
        assert (broken.most, busy.most) == (1, 1)


# ---- several backends, several routes -------------------------------------------------------------------


@pytest.mark.parametrize(
    "strategy", ["round_robin", "least_connections", "random", "p2c", "ewma", "ip_hash", "weighted"]
)
def test_others_are_used_before_anybody_waits(strategy: str) -> None:
    with held_origins(3) as origins:
        spec = limited(*(o.url for o in origins), limit=2, load_balancing_strategy=strategy)
        with in_process(Chain("/{x}", spec)) as p, asking(p, *[get()] * 6) as clients:
            first = [o.received() for o in origins]
            for o in origins:
                o.received()
            assert p.route_cell(R_QUEUED_TOTAL) == 0
            with asking(p, get()) as [late]:
                queued(p, 1)
                first[1].answer()
                origins[1].received().answer(b"late")
                assert late.receive_response()[1] == b"late"
            assert len(clients) == 6
            assert [o.most for o in origins] == [2, 2, 2]


def test_a_backend_without_limit_takes_what_the_other_may_not() -> None:
    with held_origins(2) as [small, large]:
        spec = limited(small.url, large.url)
        del spec["backends"][1]["max_requests"]
        with in_process(Chain("/{x}", spec)) as p, asking(p, *[get()] * 6) as clients:
            asked = [small.received(), *(large.received() for _ in range(5))]
            for one_ in asked:
                one_.answer()
            assert [status_of(client.receive_response()[0]) for client in clients] == [200] * 6
            assert (small.most, large.most, p.route_cell(R_QUEUED_TOTAL)) == (1, 5, 0)


def test_an_open_breaker_beside_a_full_backend_lets_wait() -> None:
    with held_origins(1) as [o]:
        dead = f"http://127.0.0.1:{dead_port()}"
        spec = limited(o.url, dead, circuit_breaker={"failure_threshold": 1})
        with in_process(Chain("/{x}", spec)) as p, asking(p, get("/0")) as [holder]:
            held = o.received()
            with asking(p, get("/1")) as [client]:
                queued(p, 1)  # the dead one opened its breaker, the other one is full
                held.answer()
                assert holder.receive_response()[1] == b"ok"
                o.received().answer(b"1")
                assert client.receive_response()[1] == b"1"


def test_routes_that_share_a_backend_share_its_limit() -> None:
    with held_origins(1) as [o]:
        routes = [limited(o.url, path=f"/{name}/{{x}}") for name in ("a", "b")]
        with gateway({"routers": routes}) as g, asking(g, get("/a/0")) as [first]:
            held = o.received()
            with asking(g, get("/b/1")) as [second]:
                g.wait(lambda: _gauge(g, "kairos_queue_depth", "/b/{x}") == 1, "request that waits")
                held.answer(b"0")
                asked = o.received()
                assert asked.target == "/b/1"
                asked.answer(b"1")
                assert (first.receive_response()[1], second.receive_response()[1]) == (b"0", b"1")
        assert o.most == 1


def _gauge(g: Gateway, name: str, route_name: str) -> float:
    for line in g.metrics().splitlines():
        if line.startswith(name + "{") and f'route="{route_name}"' in line:
            return float(line.rpartition(" ")[2])
    return -1


# ---- tunnels, reloads, the end --------------------------------------------------------------------------


def test_a_websocket_holds_its_slot_until_it_ends() -> None:
    with one(upgrade=True) as (p, o), p.connect() as tunnel:
        tunnel.send(ws.handshake("/ws"))
        asked = o.received()
        switch(asked, tunnel)
        with asking(p, get("/next")) as [client]:
            queued(p, 1)
            tunnel.close()
            asked.over.set()
            o.received().answer(b"next")
            assert client.receive_response()[1] == b"next"


def test_a_handshake_waits_too() -> None:
    with one(upgrade=True) as (p, o), asking(p, get("/0")) as [holder], p.connect() as tunnel:
        held = o.received()
        tunnel.send(ws.handshake("/ws"))
        queued(p, 1)
        held.answer()
        holder.receive_response()
        asked = o.received()
        switch(asked, tunnel)
        asked.over.set()


def test_a_reload_while_requests_wait() -> None:
    with one() as (p, o), asking(p, get("/0")) as [first]:
        held = o.received()
        with asking(p, get("/1")) as [second]:
            queued(p, 1)
            p.reload_the_same()
            with asking(p, get("/2")) as [third]:
                queued(p, 2)
                held.answer(b"0")
                asked = [o.received()]
                asked[0].answer(b"?")
                asked.append(o.received())
                asked[1].answer(b"?")
                assert {one_.target for one_ in asked} == {"/1", "/2"}
                assert first.receive_response()[1] == b"0"
                assert (second.receive_response()[1], third.receive_response()[1]) == (b"?", b"?")


def test_term_while_requests_wait_serves_them() -> None:
    with held_origins(1) as [o], gateway({"routers": [limited(o.url)]}) as g, asking(g, *[get()] * 3) as clients:
        asked = o.received()
        g.wait(lambda: _gauge(g, "kairos_queue_depth", "/{x}") == 2, "requests that wait")
        g.signal(signal.SIGTERM)
        g.wait_log("drain")
        for _ in range(2):
            asked.answer()
            asked = o.received()
        asked.answer()
        assert [status_of(client.receive_response()[0]) for client in clients] == [200] * 3
        assert g.process.wait(25) == 0


# ---- several workers ------------------------------------------------------------------------------------


class Counting:
    """Answers after a moment; how many it had at once."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.now = self.most = self.count = 0
        self._lock = threading.Lock()

    def __call__(self, peer: Peer) -> None:
        while True:
            read_request(peer)
            with self._lock:
                self.now += 1
                self.count += 1
                self.most = max(self.most, self.now)
            time.sleep(self.seconds)
            with self._lock:
                self.now -= 1
            peer.send(answer(b"ok"))


@pytest.mark.parametrize(("limit", "workers"), [(1, 2), (3, 2), (2, 1)])
def test_the_limit_is_never_exceeded_and_everybody_is_served(limit: int, workers: int) -> None:
    script = Counting(0.002)
    with origin(script) as o, gateway({"routers": [limited(o.url, limit=limit)]}, workers=workers) as g:
        assert statuses(g, clients=16, requests=25) == [200] * 400
        assert (script.most <= limit, script.count) == (True, 400)
        g.wait(lambda: _gauge(g, "kairos_queue_depth", "/{x}") <= 0, "end of waiting")


def statuses(g: Gateway, *, clients: int, requests: int) -> list[int]:
    """What so many clients are answered, each on a connection of its own and without a pause."""
    found: list[int] = []

    def client() -> None:
        with g.connect() as peer:
            for _ in range(requests):
                peer.send(get())
                found.append(status_of(peer.receive_response()[0]))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_who_was_answered_finds_the_slot_free_at_any_worker() -> None:
    """However soon the next request comes, and on whichever connection."""
    with origin(Counting(0.0)) as o, gateway({"routers": [limited(o.url, queue={"size": 0})]}, workers=2) as g:
        assert [status_of(g.get("/x")[0]) for _ in range(400)] == [200] * 400


def test_a_killed_worker_gives_its_slots_back() -> None:
    with held_origins(1) as [o], gateway({"routers": [limited(o.url, limit=4)]}, workers=2) as g:
        with asking(g, *[get()] * 4):
            for _ in range(4):
                o.received()
            for name in ("kairos-worker0", "kairos-worker1"):
                os.kill(g.child(name), signal.SIGKILL)
            g.wait(lambda: g.log.count("killed by SIGKILL") == 2, "death of both")
        g.wait(lambda: {"kairos-worker0", "kairos-worker1"} <= set(g.children()), "new workers")
        with asking(g, *[get()] * 4) as clients:
            for _ in range(4):
                o.received().answer()
            assert [status_of(client.receive_response()[0]) for client in clients] == [200] * 4


def test_nobody_starves_whose_worker_has_no_slot_to_give_back() -> None:
    """The only slot is handed on for seconds on end: a fair share of it is a wait of 40 ms or so."""
    with origin(Counting(0.005)) as o:
        spec = limited(o.url, queue={"timeout": 1.5})
        with gateway({"routers": [spec]}, workers=2) as g:
            assert statuses(g, clients=8, requests=60) == [200] * 480
