"""Reload, drain and end with connections open: whatever was begun is finished."""

from __future__ import annotations

import os
import signal
import socket
import threading

import pytest

from tests.proxy.conftest import OK, Stage, staged
from tests.proxy.test_backpressure import worker_of
from tests.support.gateway import gateway, route
from tests.support.net import Peer, ScriptedOrigin, connect, origin, read_request, status_of


class Held:
    """An answer that waits to be released."""

    def __init__(self) -> None:
        self.asked, self.release = threading.Event(), threading.Event()

    def __call__(self, peer: Peer) -> None:
        self.asked.set()
        assert self.release.wait(25)
        peer.send(OK)


def refused(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionRefusedError:
        return True
    return False


def test_term_lets_a_request_finish_and_then_exits_cleanly() -> None:
    with staged() as stage:
        held = Held()
        scene = stage.play(held)
        with stage.connect() as client, stage.connect() as idle:
            client.send(scene.head())
            assert held.asked.wait(25)
            stage.gateway.signal(signal.SIGTERM)
            stage.gateway.wait(lambda: refused(stage.gateway.port), "closed listener")
            assert idle.closed()
            held.release.set()
            head, body = client.receive_response()
            assert (b"Connection: close" in head, body) == (True, b"ok")
            assert client.closed()
        assert stage.gateway.process.wait(25) == 0
        assert stage.gateway.wait_access(path=scene.path)[0]["status"] == 200


def test_ready_fails_before_the_listeners_close() -> None:
    with staged({"server": {"drain_delay": 3}}) as stage, stage.connect() as probe:
        assert probe_ready(probe) == 200
        stage.gateway.signal(signal.SIGTERM)
        stage.gateway.wait(lambda: status_of(stage.gateway.get("/ready")[0]) == 503, "failing /ready")
        assert probe_ready(probe) == 503
        scene = stage.play()
        assert stage.exchange(scene.head())[1] == b"ok"  # still served
    assert stage.gateway.process.returncode == 0


def probe_ready(probe: Peer) -> int:
    probe.send(b"GET /ready HTTP/1.1\r\nHost: test\r\n\r\n")
    return status_of(probe.receive_response()[0])


def test_a_request_that_is_on_its_way_when_the_drain_begins_is_served() -> None:
    with staged() as stage:
        scene = stage.play()
        with stage.connect() as kept:
            kept.send(scene.head())
            assert kept.receive_response()[1] == b"ok"
            worker = worker_of(stage)
            os.kill(worker, signal.SIGSTOP)
            with stage.connect() as fresh:
                fresh.send(scene.head())
                kept.send(scene.head())
                stage.gateway.signal(signal.SIGTERM)
                stage.gateway.wait_log("draining")
                os.kill(worker, signal.SIGCONT)
                assert fresh.receive_response()[1] == b"ok"
                assert kept.receive_response()[1] == b"ok"


def test_what_does_not_finish_in_time_is_cut() -> None:
    with staged({"server": {"drain_timeout": 0.5}}) as stage:
        held = Held()
        scene = stage.play(held)
        with stage.connect() as client:
            client.send(scene.head())
            assert held.asked.wait(25)
            stage.gateway.signal(signal.SIGTERM)
            assert client.receive_all() == b""
        held.release.set()
        stage.gateway.process.wait(25)


def named(name: bytes) -> ScriptedOrigin:
    def answer(peer: Peer) -> None:
        while read_request(peer):
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))

    return ScriptedOrigin(answer)


def get(client: Peer, path: str = "/") -> tuple[int, bytes]:
    client.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    head, body = client.receive_response()
    return status_of(head), body


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_reaches_connections_that_are_kept(workers: int) -> None:
    old, new = named(b"old"), named(b"new")
    with gateway({"routers": [route("/", old.url)]}, workers=workers) as g, g.connect() as client:
        assert get(client) == (200, b"old")
        g.write({"routers": [route("/", new.url), route("/more", new.url)]})
        g.signal(signal.SIGHUP)
        g.wait(lambda: get(client, "/more")[0] == 200, "new route")
        assert get(client) == (200, b"new")
        assert f'connections{{state="idle",upstream="{old.url}"}} 0.0' in g.metrics()  # its pool is closed
    old.close()
    new.close()


def test_a_request_in_flight_finishes_on_the_configuration_it_began_with() -> None:
    held = Held()

    def answer(peer: Peer) -> None:
        read_request(peer)
        held(peer)

    new = named(b"new")
    with origin(answer) as old, gateway({"routers": [route("/", old.url)]}) as g:  # noqa: SIM117
        with g.connect() as waiting, g.connect() as other:
            waiting.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            assert held.asked.wait(25)
            g.write({"routers": [route("/", new.url)]})
            g.signal(signal.SIGHUP)
            g.wait(lambda: "kairos_config_revision 2.0" in g.metrics(), "second revision")
            assert get(other) == (200, b"new")
            held.release.set()
            assert waiting.receive_response()[1] == b"ok"
            assert get(waiting) == (200, b"new")
    new.close()


def test_a_bad_configuration_changes_nothing() -> None:
    backend = named(b"old")
    with gateway({"routers": [route("/", backend.url)]}) as g, g.connect() as client:
        assert get(client) == (200, b"old")
        g.write({"routers": [{"external_path": "/"}]})
        g.signal(signal.SIGHUP)
        g.wait_log("reload refused")
        assert get(client) == (200, b"old")
    backend.close()


def test_a_killed_worker_loses_only_what_it_had_in_flight() -> None:
    with staged(workers=2) as stage:
        scene = stage.play()
        pids = workers_of(stage)
        os.kill(pids[0], signal.SIGKILL)
        stage.gateway.wait_log("SIGKILL")
        served = 0
        for _ in range(20):
            try:
                served += stage.exchange(scene.head())[1] == b"ok"
            except (EOFError, OSError):
                continue
        assert served >= 10
        stage.gateway.wait(lambda: len(workers_of(stage)) == 2, "second worker")


def workers_of(stage: Stage) -> list[int]:
    from tests.proxy.test_backpressure import children, name_of

    return [pid for pid in children(stage.gateway.process.pid) if name_of(pid).startswith("kairos-worker")]


def test_half_closed_idle_connections_are_let_go(stage: Stage) -> None:
    with stage.connect() as client:
        client.sock.shutdown(socket.SHUT_WR)
        assert client.closed()
