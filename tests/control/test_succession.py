"""Two control processes during an upgrade: only one looks after the backends, and nothing an operator said is lost."""

import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from urllib.parse import quote

from tests.support.gateway import gateway, route
from tests.support.net import Peer, echo, origin

PROBED = {"health_check": {"interval": 0.1, "timeout": 0.1}}


def backend(url):
    return f"/api/backends/{quote(url, safe='')}"


def children(pid):
    """By name; those that have just ended are left out."""
    found = {}
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            with contextlib.suppress(OSError):
                found[Path(f"/proc/{child}/comm").read_text().strip()] = int(child)
    return found


def upgraded(g):
    """Once the next gateway serves."""
    g.wait(lambda: g.admin("GET", "/api/status")[1]["pid"] != g.process.pid, "a new gateway", 30)


@contextlib.contextmanager
def request_under_way(g):
    """Keeps the gateway at hand from ending when it is replaced."""
    with g.connect() as peer:
        peer.send(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nx")
        yield


def ask(peer, method, path, body=b""):
    peer.send(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    head, answer = peer.receive_response()
    return int(head.split()[1]), answer.decode()


def test_who_was_replaced_checks_no_backend_and_takes_no_orders():
    probes = []

    def counting(peer):
        probes.append(time.monotonic())
        echo(peer)

    with origin(counting) as server:
        checked = route("/a", server.url)
        checked["backends"][0]["health_check_path"] = "/up"
        with gateway({"routers": [checked], **PROBED}) as g, socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(g.state_dir / "admin.sock"))
            old = Peer(sock)
            assert ask(old, "GET", backend(server.url))[0] == 200
            with request_under_way(g):
                g.signal(signal.SIGUSR2)
                upgraded(g)
                g.wait(lambda: ask(old, "PATCH", backend(server.url), b'{"weight": 7}')[0] == 503, "a refusal")
                status, answer = ask(old, "PATCH", backend(server.url), b'{"state": "drain"}')
                assert (status, "ask once more" in answer) == (503, True)
                assert g.admin("GET", backend(server.url))[1]["state"] == "healthy"
                g.wait(lambda: len(probes) > 4, "probes of the new one")
                os.kill(children(g.serving())["kairos-control"], signal.SIGSTOP)
                g.wait(lambda: still(probes), "end of the probes")
                os.kill(children(g.serving())["kairos-control"], signal.SIGCONT)
                assert g.process.poll() is None


def still(probes):
    """Whether none comes within a second."""
    before = len(probes)
    time.sleep(1.0)
    return len(probes) == before


def test_what_is_set_while_the_next_gateway_boots_is_known_to_it():
    with (
        origin(echo) as first,
        origin(echo) as second,
        gateway({"routers": [route("/a", f"{first.url},{second.url}")]}) as g,
    ):
        g.signal(signal.SIGUSR2)
        g.wait(lambda: "kairos-gateway" in children(g.process.pid), "the heir")
        heir = children(g.process.pid)["kairos-gateway"]
        g.wait(lambda: "kairos-control" in children(heir), "its control process")
        os.kill(heir, signal.SIGSTOP)
        time.sleep(0.3)  # until its control has read the file: sooner or later, the outcome is the same
        status = 0
        with contextlib.suppress(OSError):  # the old one may have gone already, and the stopped one is not there yet
            status, _ = g.admin("PATCH", backend(first.url), {"state": "maintenance", "weight": 5})
        os.kill(heir, signal.SIGCONT)
        upgraded(g)
        if status != 200:  # it had been told to go before it was stopped
            status, _ = g.admin("PATCH", backend(first.url), {"state": "maintenance", "weight": 5})
        assert status == 200
        found = g.admin("GET", backend(first.url))[1]
        assert (found["state"], found["weight"]) == ("maintenance", 5)
        assert [g.get("/a")[0].split()[1] for _ in range(4)] == [b"200"] * 4
        assert g.admin("GET", backend(first.url))[1]["attempts"] == 0


def test_a_backend_in_maintenance_gets_nothing_after_a_restart():
    with (
        origin(echo) as first,
        origin(echo) as second,
        gateway({"routers": [route("/a", f"{first.url},{second.url}")]}) as g,
    ):
        assert g.admin("PATCH", backend(first.url), {"state": "maintenance"})[0] == 200
        g.restart()
        for _ in range(4):
            assert b" 200 " in g.get("/a")[0]
        found = g.admin("GET", backend(first.url))[1]
        assert (found["state"], found["attempts"]) == ("maintenance", 0)
