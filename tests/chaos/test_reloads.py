"""Reloads under load, half of them invalid: no request notices, no WebSocket ends."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tests.chaos.clients import wait_for
from tests.chaos.conftest import Site
from tests.support.gateway import Gateway, route
from tests.support.net import Peer, origin, read_request
from tests.support.ws import echo_frames, frame, open_websocket, read_frame, switching

SOCKETS = 4
IN_USE, REFUSED = "is in use", "reload refused"
_OUTCOME = re.compile(f"{IN_USE}|{REFUSED}")


class Files:
    """A gateway whose file is replaced again and again, and what became of each."""

    def __init__(self, site: Site, websockets: str, *, watch: bool) -> None:
        self.site = site
        self.watch = watch
        self.dice = random.Random(site.seed)
        self.websockets = websockets
        self.good = 0
        site.start_origins(2)
        self.gateway = site.start_gateway(self.config(), workers=2)
        self._heard = 0

    def config(self) -> dict[str, Any]:
        """A good configuration; another one each time."""
        self.good += 1
        timeouts = {"first_byte": self.dice.randint(20, 40)}
        strategy = self.dice.choice(("round_robin", "ewma", "p2c", "least_connections"))
        return {
            "server": {"watch": self.watch},
            "routers": [
                self.site.route(load_balancing_strategy=strategy, timeouts=timeouts),
                route("/ws", self.websockets, upgrade=True),
                *(route(f"/more{n}", self.site.origins[0].url) for n in range(self.good % 4)),
            ],
        }

    def good_text(self) -> str:
        return json.dumps(self.gateway.completed(self.config()))

    def bad_text(self) -> str:
        """What is no configuration, in one of several ways."""
        config = self.good_text()
        return self.dice.choice(
            (
                "",
                config[: len(config) // 2],
                config.replace('"routers"', '"rooters"'),
                config.replace("http://127.0.0.1", "gopher://127.0.0.1"),
                config.replace('"first_byte": ', '"first_byte": -'),
            )
        )

    def replace(self, *, good: bool) -> None:
        """Put a new file in the old one's place, in one step."""
        beside = self.gateway.config_path.with_suffix(".new")
        beside.write_text(self.good_text() if good else self.bad_text())
        os.replace(beside, self.gateway.config_path)

    def outcome(self) -> str:
        """What the log says next about a reload."""
        wait_for(lambda: len(self._said()) > self._heard, "word about the reload")
        self._heard += 1
        return self._said()[self._heard - 1]

    def _said(self) -> list[str]:
        return _OUTCOME.findall(self.gateway.log)


@contextmanager
def websocket_origin() -> Iterator[str]:
    def script(peer: Peer) -> None:
        peer.send(switching(read_request(peer)[0]))
        peer.sock.settimeout(None)
        echo_frames(peer)

    with origin(script) as made:
        yield made.url


@contextmanager
def open_sockets(port: int) -> Iterator[Callable[[], None]]:
    """WebSockets that are open meanwhile; calling what is yielded sends a message over each and gets it back."""
    with ExitStack() as stack:
        peers = [stack.enter_context(open_websocket(port, "/ws")[0]) for _ in range(SOCKETS)]

        def all_echo() -> None:
            for number, peer in enumerate(peers):
                peer.send(frame(b"hello %d" % number))
                assert read_frame(peer).payload == b"hello %d" % number

        all_echo()
        yield all_echo
        all_echo()


def by_signal(gate: Gateway) -> None:
    gate.signal(signal.SIGHUP)


def by_request(gate: Gateway) -> None:
    assert gate.admin("POST", "/api/reload")[0] in (200, 422)


def by_change(_: Gateway) -> None:
    """The file is watched."""


@pytest.mark.parametrize(("ask", "reloads"), [(by_signal, 160), (by_request, 120), (by_change, 20)])
def test_reloads_cost_nothing(site: Site, ask: Callable[[Gateway], None], reloads: int) -> None:
    with websocket_origin() as websockets:
        files = Files(site, websockets, watch=ask is by_change)
        with site.load(pause=0.01) as load, open_sockets(site.gateway.port) as all_echo:
            for number in range(site.times(reloads)):
                good = number % 2 == 0
                files.replace(good=good)
                ask(site.gateway)
                assert files.outcome() == (IN_USE if good else REFUSED)
                if number % 20 == 0:
                    all_echo()
    tally = site.judge(load)
    assert tally.resent == tally.not_taken == 0, "a reload ended a connection"
