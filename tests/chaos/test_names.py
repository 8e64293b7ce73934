"""Name servers that go silent, fail, or deny what was there: backends whose addresses were known once stay in service,
and the names' new addresses are taken up when the servers are themselves again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from tests.chaos.clients import Load, wait_for
from tests.chaos.conftest import Site
from tests.support.dns import NXDOMAIN, SERVFAIL, NameServer
from tests.support.gateway import route
from tests.support.inprocess import Chain, in_process

NAME = "shop.test"
OUTAGE_S = 4.0
"""Longer than answers are kept (1 s, as their TTL is 0), and than a dial may take (3 s)."""


@contextlib.contextmanager
def outage(server: NameServer, kind: str) -> Iterator[None]:
    server.silent = kind == "silence"
    server.code = {"SERVFAIL": SERVFAIL, "NXDOMAIN": NXDOMAIN}.get(kind)
    yield
    server.silent, server.code = False, None


@pytest.mark.parametrize("kind", ["silence", "SERVFAIL", "NXDOMAIN"])
def test_names_survive_their_servers(site: Site, kind: str) -> None:
    """Each request opens a connection of its own to the backend, and so needs its address."""
    site.start_origins(1)
    config = {"keepalive": {"connections": 0}, "timeouts": {"connect": 3.0}}
    url = f"http://{NAME}:{site.origins[0].port}"
    with (
        NameServer({NAME: ["127.0.0.1"]}, ttl=0) as server,
        in_process(Chain("/work", route("/work", url)), nameservers=[server.address], **config) as served,
    ):
        with Load(served.port, site.seed, pause=0.005) as load:
            load.goes_on(100)
            with outage(server, kind):
                time.sleep(OUTAGE_S * site.times(1))
            load.goes_on(100)
            site.start_origins(1, host="127.0.0.2", port=site.origins[0].port)
            server.records[NAME] = ["127.0.0.2"]
            wait_for(site.origins[1].busy, "request to the new address")
            load.goes_on(100)
        slowest = max(latency for client in load.clients for latency in client.latencies)
    site.judge(load, metrics=False)
    assert slowest < 1.0, "somebody waited for a name server"
