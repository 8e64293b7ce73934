"""A stage for traces: one gateway before one origin; each test plays its own scene, on a path of its own."""

from __future__ import annotations

import contextlib
import itertools
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.gateway import Gateway, gateway, route
from tests.support.net import Peer, ScriptedOrigin, origin, read_request

ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Script = Callable[[Peer], None]


class Scene:
    """What the origin does for one path, and the requests it got there: (head, body) each, in order."""

    def __init__(self, path: str, script: Script, whole: bool) -> None:
        self.path = path
        self.requests: queue.Queue[tuple[bytes, bytes]] = queue.Queue()
        self.script = script
        self.whole = whole

    def received(self) -> tuple[bytes, bytes]:
        """The next request the origin got."""
        return self.requests.get(timeout=25)

    def head(self, method: str = "GET", *lines: str) -> bytes:
        """A request head for this path."""
        return "\r\n".join([f"{method} {self.path} HTTP/1.1", "Host: test", *lines, "", ""]).encode()


class Stage:
    """The gateway and its origin. Connections to the origin may serve scene after scene, as in real life."""

    def __init__(self) -> None:
        self.gateway: Gateway
        self.origin: ScriptedOrigin
        self._scenes: dict[bytes, Scene] = {}
        self._names = itertools.count()

    def play(self, script: Script | bytes = OK, *, whole: bool = True, under: str = "/") -> Scene:
        """A scene whose origin runs `script(peer)` (or sends these bytes) after each request.

        With whole=False only the head is read first: the body is for the script.
        """
        act = (lambda peer: peer.send(script)) if isinstance(script, bytes) else script
        scene = Scene(f"{under}{next(self._names)}", act, whole)
        self._scenes[scene.path.encode()] = scene
        return scene

    def run(self, peer: Peer) -> None:
        """The origin: reads a request, leaves the rest to the scene of its path."""
        while True:
            head = peer.receive_head()
            scene = self._scenes[head.split(b" ", 2)[1].partition(b"?")[0]]
            body = b""
            if scene.whole:
                peer.unread(head)
                head, body = read_request(peer)
            scene.requests.put((head, body))
            scene.script(peer)

    def drop_pooled(self) -> None:
        """See to it that the next request needs a new upstream connection."""
        scene = self.play(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        while not self.pool_is_empty():
            self.exchange(scene.head())

    def pool_is_empty(self) -> bool:
        """Whether no connection to the origin waits for a request."""
        return f'connections{{state="idle",upstream="{self.origin.url}"}} 0.0' in self.gateway.metrics()

    def connect(self) -> Peer:
        return self.gateway.connect()

    def exchange(self, data: bytes) -> tuple[bytes, bytes]:
        """Send bytes on a new connection; head and body of the response."""
        return self.gateway.request(data)


@contextlib.contextmanager
def staged(config: dict[str, Any] | None = None, *, workers: int = 1, **members: Any) -> Iterator[Stage]:
    """A Stage whose one route takes everything; `members` are the route's, `config` the rest.

    No breaker: what an origin does wrong in one scene is nothing to the next.
    """
    stage = Stage()
    members.setdefault("circuit_breaker", {"enabled": False})
    with origin(stage.run) as stage.origin:
        everything = route("/{rest:path}", stage.origin.url, "/{rest}", **{"methods": ALL_METHODS, **members})
        with gateway({"routers": [everything], **(config or {})}, workers=workers) as stage.gateway:
            yield stage


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    """A stage with default settings, for all tests."""
    with staged() as made:
        yield made
