"""A great many requests of all kinds: none fails, and the memory of each process is afterwards what it was."""

from __future__ import annotations

from pathlib import Path

from bench import load as wrk
from bench import origin, procfs
from tests.chaos.conftest import Site
from tests.robust.conftest import memory_is_real
from tests.support.gateway import Gateway, route

REQUESTS = 100_000
WARM_UP = 30_000
"""Takes the access-log rings (4 MiB a worker) round once: their pages count as memory from their first use."""
GROWTH = 1.02
CONNECTIONS = 64
WEBSOCKET_S = 0.5
KINDS = {
    "kept-alive": ("/rich/1", []),
    "with a body": ("/files/16k", []),
    "a connection each": ("/plain/1", ["Connection: close"]),
    "with an error": ("/nowhere", []),
}


@memory_is_real
def test_memory_is_where_it_was(site: Site, tmp_path: Path) -> None:
    with origin.started(tmp_path) as backend:
        http = ",".join(f"http://127.0.0.1:{port}" for port in backend.ports)
        echo = f"http://127.0.0.1:{backend.websocket_port}"
        routers = [
            *(route(path, http, retry={}) for path in ("/plain/{n}", "/rich/{n}", "/files/{n}")),
            route("/echo", echo, upgrade=True),
        ]
        gate = site.start_gateway({"routers": routers}, workers=2)
        exercise(gate, WARM_UP)
        before = memory(gate)
        done = exercise(gate, site.times(REQUESTS))
        after = memory(gate)
    lines = [f"{name} {before[name]} → {after[name]} KiB" for name in before]
    site.note(f"{done} requests; " + ", ".join(lines))
    assert {name: after[name] for name in before if after[name] > GROWTH * before[name]} == {}


def exercise(gate: Gateway, requests: int) -> int:
    """At least so many requests, of every kind alike; how many it were. None may fail."""
    done = 0
    while done < requests:
        for name, (path, headers) in KINDS.items():
            run = wrk.run_wrk(wrk.wrk_command(f"http://127.0.0.1:{gate.port}{path}", CONNECTIONS, 1, headers))
            assert run.errors == (run.completed if name == "with an error" else 0), name
            done += run.completed
        assert wrk.run_websocket(gate.port, "/echo", CONNECTIONS, WEBSOCKET_S).errors == 0
    return done


def memory(gate: Gateway) -> dict[str, int]:
    """Resident KiB of each process, once it is at rest."""
    gate.wait(lambda: 'kairos_connections{state="open"} 1.0' in gate.metrics(), "end of all connections")
    return {name: procfs.memory(pid).rss for name, pid in {"supervisor": gate.serving(), **gate.children()}.items()}
