"""Balancing seen from outside: which of several origins answers which request."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from tests.proxy.test_backpressure import children, name_of
from tests.support.gateway import Gateway, gateway, route
from tests.support.net import Peer, ScriptedOrigin, dead_port, free_port, origin, read_request, status_of


class Named:
    """An origin that answers with its name; a request for /hold waits until released."""

    def __init__(self, name: str) -> None:
        self.answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n{name}".encode()
        self.holds, self.release = 0, threading.Event()

    def __call__(self, peer: Peer) -> None:
        while True:
            head, _ = read_request(peer)
            if b"hold" in head.split(b"\r\n")[0]:
                self.holds += 1
                assert self.release.wait(25)
            peer.send(self.answer)


@contextlib.contextmanager
def fleet(names: str = "123") -> Iterator[tuple[list[Named], list[ScriptedOrigin]]]:
    """Origins, one for each letter."""
    scripts = [Named(name) for name in names]
    with contextlib.ExitStack() as stack:
        yield scripts, [stack.enter_context(origin(script)) for script in scripts]


def balanced(origins: list[ScriptedOrigin], strategy: str, weights: tuple[int, ...] = ()) -> dict[str, Any]:
    """A route to these origins."""
    made = route("/{x}", ",".join(o.url for o in origins), "/{x}", load_balancing_strategy=strategy)
    for backend, weight in zip(made["backends"], weights, strict=False):
        backend["weight"] = weight
    return made


STRATEGIES = ("round_robin", "weighted", "least_connections", "random", "p2c", "ewma", "ip_hash")


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def busy(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    """A gateway with a route of each strategy, to three origins of weights 2, 1 and 1."""
    with fleet() as (_, origins):
        routers = [
            balanced(origins, name, (2, 1, 1)) | {"external_path": f"/{name}", "internal_path": "/x"}
            for name in STRATEGIES
        ]
        with gateway({"routers": routers, "trusted_proxies": ["127.0.0.1"]}, workers=request.param) as g:
            yield g


def ask(g: Gateway, count: int, path: str = "/x", **headers: str) -> str:
    """Who answers so many requests, each on a connection of its own."""
    return "".join(g.get(path, **headers)[1].decode() for _ in range(count))


def test_round_robin_goes_in_turn_over_all_workers(busy: Gateway) -> None:
    assert ask(busy, 30, "/round_robin") == "123" * 10


def test_weighted_is_exact_in_each_cycle(busy: Gateway) -> None:
    assert Counter(ask(busy, 32, "/weighted")) == {"1": 16, "2": 8, "3": 8}


def test_weighted_two_to_one() -> None:
    with fleet("12") as (_, origins), gateway({"routers": [balanced(origins, "weighted", (2, 1))]}, workers=2) as g:
        assert Counter(ask(g, 30)) == {"1": 20, "2": 10}


@pytest.mark.parametrize("strategy", ["random", "p2c", "ewma", "least_connections"])
def test_the_others_serve_from_all(busy: Gateway, strategy: str) -> None:
    assert set(ask(busy, 60, f"/{strategy}")) == {"1", "2", "3"}


def test_ip_hash_sticks_to_the_client(busy: Gateway) -> None:
    clients = [f"203.0.113.{n}" for n in range(24)]
    first = [ask(busy, 1, "/ip_hash", X_Forwarded_For=client) for client in clients]
    assert [ask(busy, 2, "/ip_hash", X_Forwarded_For=client) for client in clients] == [name * 2 for name in first]
    assert set(first) == {"1", "2", "3"}


def test_a_dead_backend_costs_no_request() -> None:
    with fleet("12") as (_, origins):
        routers = []
        for name in STRATEGIES:  # each with a dead one of its own: what one learns, all would know
            made = balanced(origins, name) | {"external_path": f"/{name}", "internal_path": "/x"}
            made["backends"].insert(0, {"host": "http://127.0.0.1", "port": dead_port()})
            routers.append(made)
        with gateway({"routers": routers, "trusted_proxies": ["127.0.0.1"]}, workers=2) as g:
            for name in STRATEGIES:
                heads = [g.get(f"/{name}", X_Forwarded_For=f"203.0.113.{n}")[0] for n in range(60)]
                assert {status_of(head) for head in heads} == {200}, name
            g.wait_log("circuit breaker opened")


@pytest.mark.parametrize("workers", [1, 2])
def test_least_connections_avoids_the_busy_ones_whoever_made_them_so(workers: int) -> None:
    with fleet("12") as (scripts, origins), contextlib.ExitStack() as stack:
        g = stack.enter_context(gateway({"routers": [balanced(origins, "least_connections")]}, workers=workers))
        for count in range(1, 5):  # one after the other: two workers that pick in the same moment may pick the same
            stack.enter_context(g.connect()).send(b"GET /hold HTTP/1.1\r\nHost: test\r\n\r\n")
            g.wait(lambda: sum(script.holds for script in scripts) == count, "request that is held")  # noqa: B023
        assert [script.holds for script in scripts] == [2, 2]
        scripts[1].release.set()  # the second is free again, the first stays busy
        g.wait_access(2, upstream=origins[1].url)
        assert ask(g, 12) == "2" * 12
        scripts[0].release.set()


def test_ip_hash_does_not_believe_strangers() -> None:
    with fleet() as (_, origins), gateway({"routers": [balanced(origins, "ip_hash")]}) as g:
        assert len({ask(g, 1, X_Forwarded_For=f"203.0.113.{n}") for n in range(24)}) == 1


def test_with_all_backends_dead_each_is_tried_until_it_is_known_and_again_when_its_breaker_lets_one_through() -> None:
    ports = [free_port(), free_port()]
    breaker = {"failure_threshold": 2, "reset_timeout": 0.5}
    made = route("/x", ",".join(f"http://127.0.0.1:{port}" for port in ports), circuit_breaker=breaker)
    with gateway({"routers": [made]}) as g:
        statuses = [status_of(g.get("/x")[0]) for _ in range(4)]
        assert statuses[0] == 502
        head, _ = g.get("/x")
        assert status_of(head) in (502, 503)
        with origin(Named("1"), address=("127.0.0.1", ports[0])):
            g.wait(lambda: g.get("/x")[1] == b"1", "trial that finds the first one back")


def test_a_legacy_route_has_one_backend_of_its_own() -> None:
    with fleet("1") as (_, [only]):
        legacy = {
            "host": "http://127.0.0.1", "port": only.port, "external_path": "/x", "internal_path": "/y",
            "methods": ["GET"],
        }  # fmt: skip
        with gateway({"version": 1, "routers": [legacy]}) as g:
            assert ask(g, 3) == "111"


def test_counts_of_a_killed_worker_do_not_keep_a_backend_busy() -> None:
    with fleet("12") as (scripts, origins), contextlib.ExitStack() as stack:
        g = stack.enter_context(gateway({"routers": [balanced(origins, "least_connections")]}))
        client = stack.enter_context(g.connect())
        client.send(b"GET /hold HTTP/1.1\r\nHost: test\r\n\r\n")
        g.wait(lambda: any(script.holds for script in scripts), "request that is held")
        busy = next(script for script in scripts if script.holds)
        [worker] = [pid for pid in children(g.process.pid) if name_of(pid).startswith("kairos-worker")]
        os.kill(worker, signal.SIGKILL)
        g.wait_log("killed by SIGKILL")
        busy.release.set()
        assert client.receive_all() == b""
        g.wait(lambda: _serves(g), "new worker")
        assert set(ask(g, 4)) == {"1", "2"}


def _serves(g: Gateway) -> bool:
    try:
        return status_of(g.get("/x")[0]) == 200
    except (OSError, EOFError):
        return False
