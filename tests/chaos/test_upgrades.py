"""Binary upgrades under load: the next gateway takes over the sockets, the old one finishes what it has."""

from __future__ import annotations

import os
import signal

from tests.chaos.clients import wait_for
from tests.chaos.conftest import Site
from tests.chaos.test_reloads import open_sockets, websocket_origin
from tests.support.gateway import route

UPGRADES = 10


def test_upgrades_cost_no_request(site: Site) -> None:
    """Idle kept-alive connections are closed by an old gateway: what had just set out on one is sent again."""
    site.start()
    with site.load() as load:
        for _ in range(site.times(UPGRADES)):
            load.goes_on(200)
            upgrade(site)
            load.goes_on(200)
    site.judge(load, metrics=False)
    lines = site.gateway.wait_access(load.answered, path="/work")
    assert len(lines) == load.answered, "each answer is logged once, by one gateway or the other"


def test_a_worker_killed_while_an_upgrade_is_under_way(site: Site) -> None:
    site.start()
    with site.load() as load:
        for _ in range(site.times(2)):
            load.goes_on(200)
            before = site.gateway.serving()
            os.kill(before, signal.SIGUSR2)
            site.kill("kairos-worker0")
            wait_for(lambda before=before: site.gateway.serving() != before, "a new gateway")
            load.goes_on(200)
    site.judge(load, metrics=False)


def test_open_websockets_outlive_an_upgrade(site: Site) -> None:
    with websocket_origin() as websockets:
        site.start_origins(1)
        gate = site.start_gateway({"routers": [site.route(), route("/ws", websockets, upgrade=True)]}, workers=2)
        with site.load() as load, open_sockets(gate.port) as all_echo:
            upgrade(site)
            load.goes_on(200)
            all_echo()
    site.judge(load, metrics=False)


def upgrade(site: Site) -> None:
    """As USR2 does it; returns when the next gateway serves."""
    before = site.gateway.serving()
    os.kill(before, signal.SIGUSR2)
    wait_for(lambda: site.gateway.serving() != before, "a new gateway")
