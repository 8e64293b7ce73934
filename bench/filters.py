"""What each filter costs a request, in nanoseconds: `python -m bench filters`.

A worker's data plane runs here without a network: a rich request's bytes are handed to a client connection, the
backend's answer to the upstream connection, again and again. What a route with one policy takes longer than the same
route without any is the price of its filter, edits of heads and all. Rules: routes take turns in short rounds, and of
each the least time counts, for whatever else the machine does only adds to it.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import uvloop

from bench.cases import RICH_REQUEST, authorization
from bench.peers import POLICIES, SECRET
from kairos.config.load import judged, loads
from kairos.config.secrets import key_hash
from kairos.proxy.client import ClientConnection
from kairos.proxy.exchange import Runtime
from kairos.proxy.snapshot import Origins, Revision, Snapshot
from kairos.proxy.wire import Clock
from kairos.scoreboard import Scoreboard, Series

NONE = "none"
FOREVER = 10_000_000
ANSWER = b"\r\n".join(
    [
        b"HTTP/1.1 200 OK",
        b"Date: Thu, 01 Jan 2026 00:00:00 GMT",
        b"Server: origin",
        b"Content-Type: application/json",
        b"Content-Length: 27",
        b"Cache-Control: private, max-age=60",
        b'ETag: "5d41402abc4b2a76"',
        b"Vary: Accept-Encoding",
        b"X-Frame-Options: DENY",
        b"X-Content-Type-Options: nosniff",
        b"X-Runtime: 0.004",
        b"",
        b'{"id": 1, "name": "answer"}',
    ]
)


@dataclass(frozen=True, slots=True)
class Case:
    """A policy as a route has it, and what requests bring for it."""

    route: dict[str, Any]
    lines: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    answer: bytes = ANSWER
    hits: bool = False
    """The backend answers once, then the cache does."""


_STORED = ANSWER.replace(b"private, max-age=60", b"max-age=99999999")
_ANYBODY = ("Auth: none", "Cache: any")
"""In the place of Authorization and Cache-Control."""
CASES: dict[str, Case] = {
    NONE: Case({}),
    "jwt (verified before)": Case({"auth_required": True}, config={"jwt": {"secret": SECRET}}),
    "access lists": Case({"access": {"deny": ["10.0.0.0/8", "192.0.2.0/24"]}}),
    "bans": Case({"access": {"ban": {}}}),
    "api key": Case(
        {"auth": {"methods": ["api_key"]}},
        ("X-API-Key: bench",),
        {"api_keys": {"keys": [{"id": "bench", "key_hash": key_hash("bench")}]}},
    ),
    "rate limit (token bucket)": Case({"rate_limit": POLICIES["rate_limit"]}),
    "cors": Case({"cors": POLICIES["cors"]}),
    "compression (not asked for)": Case({"compression": {}}, ("Accept-Encoding: identity",)),
    "size limits": Case({"size_limits": {"request_body": 65536, "target": 4096, "header_count": 64}}),
    "a query rule": Case({"validation": {"query": [{"name": "page", "type": "integer"}]}}),
    "a header rule up": Case({"request_transformation": POLICIES["request_transformation"]}),
    "a header rule back": Case({"response_transformation": POLICIES["response_transformation"]}),
    "all of these": Case(POLICIES),
    "cache, not stored": Case({"cache": {}}, _ANYBODY),
    "cache hit": Case({"cache": {}}, _ANYBODY, answer=_STORED.replace(b"Vary: Accept-Encoding\r\n", b""), hits=True),
    "cache hit (Vary)": Case({"cache": {}}, _ANYBODY, answer=_STORED, hits=True),
}


class NoNetwork:
    """A transport that takes whatever is written and says nothing."""

    def __init__(self) -> None:
        self.taken = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self if name == "socket" else default

    def fileno(self) -> int:
        return -1

    def write(self, data: Any) -> None:
        self.taken += len(data)

    def writelines(self, pieces: Sequence[Any]) -> None:
        self.taken += sum(map(len, pieces))

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Lane:
    """A client's connection and an upstream one, on one route."""

    def __init__(self, runtime: Runtime, snapshot: Snapshot, path: str, lines: Sequence[str], case: Case) -> None:
        self.case = case
        plan = next(plan for plan in snapshot.routed if plan.name == path)
        self.upstream = plan.targets[0].origin.protocol()
        self.upstream.connection_made(NoNetwork())  # type: ignore[arg-type]
        self.upstream.spare()
        self.out = NoNetwork()
        self.client = ClientConnection(runtime)
        self.client.connection_made(self.out)  # type: ignore[arg-type]
        bare = [line for line in RICH_REQUEST if not line.startswith(tuple(given.split(":")[0] for given in lines))]
        self.request = "\r\n".join([f"GET {path} HTTP/1.1", "Host: bench", *bare, *lines, "", ""]).encode()

    def turn(self, count: int) -> float:
        """Nanoseconds a request takes, over so many."""
        client, upstream, request = self.client.data_received, self.upstream.data_received, self.request
        answer, hits = self.case.answer, self.case.hits
        started = time.perf_counter_ns()
        for _ in range(count):
            client(request)
            if not hits:
                upstream(answer)
        return (time.perf_counter_ns() - started) / count

    def check(self) -> None:
        """The answer arrives, so that what is measured is the whole way."""
        if self.case.hits:
            self.client.data_received(self.request)
            self.upstream.data_received(self.case.answer)
        self.out.taken = 0
        self.turn(1)
        if self.out.taken < len(ANSWER) - 20:
            raise RuntimeError(f"{self.request[:60]!r} was not answered by the backend")


def config(cases: dict[str, Case]) -> bytes:
    """Each case a route with a backend of its own."""
    whole: dict[str, Any] = {"routers": [], "access_log": {"format": "off"}, "keepalive": {"requests": FOREVER}}
    whole["limits"] = {"requests_per_connection": FOREVER}
    for at, case in enumerate(cases.values()):
        backend = {"host": "http://127.0.0.1", "port": 20_000 + at}
        route = {"external_path": f"/{at}", "internal_path": "/x", "methods": ["GET"], "backends": [backend]}
        whole["routers"].append({**route, **case.route})
        whole |= case.config
    return json.dumps(whole).encode()


async def measure(cases: dict[str, Case], rounds: int, count: int) -> dict[str, float]:
    """The least time of each case."""
    loop = asyncio.get_running_loop()
    loaded = judged(loads(config(cases), "json", "bench.json"), insecure_dev=True).config
    board = Scoreboard.create(workers=1, routes=64, pairs=64, upstreams=64, cache_bytes=8 << 20)
    runtime = Runtime(Clock(loop), board, 0, None, 1)
    origins = Origins(runtime, board, 0)
    series = Series(board).assign(loaded.routers)
    snapshot = Snapshot(Revision(1, loaded, series), origins, board, 0)
    runtime.serve(snapshot)
    origins.settle(snapshot)
    lines = {name: case.lines or (authorization(),) for name, case in cases.items()}
    lanes = {name: Lane(runtime, snapshot, f"/{at}", lines[name], cases[name]) for at, name in enumerate(cases)}
    for lane in lanes.values():
        lane.check()
    gc.disable()
    best = dict.fromkeys(lanes, float("inf"))
    for _ in range(rounds):
        for name, lane in lanes.items():
            best[name] = min(best[name], lane.turn(count))
            await asyncio.sleep(0)
    gc.enable()
    return best


def table(best: dict[str, float]) -> str:
    base = best[NONE]
    rows = [f"{'filter':<34}{'ns/request':>12}{'price':>10}{'share':>9}"]
    for name, ns in best.items():
        rows.append(f"{name:<34}{ns:>12,.0f}{ns - base:>+10,.0f}{ns / base:>9.2f}")
    return "\n".join(rows)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("python -m bench filters", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="turns each filter gets (40)")
    parser.add_argument("--count", type=int, default=2_000, help="requests in a turn (2000)")
    options = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(table(runner.run(measure(CASES, options.rounds, options.count))))
    return 0
