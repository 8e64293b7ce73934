"""The cases: what is asked of the proxies, and how a round is measured.

Rules: within a round every peer has its turn, in the same order each round (A B C A B C), so that whatever else the
machine does hits all alike. CPU time is read from the kernel just before and just after a turn. Memory cases start
each peer alone and fresh, once: they do not vary from round to round.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import jwt

from bench import load, peers, procfs
from bench.load import Load
from bench.origin import Origin
from bench.peers import Peer
from bench.processes import LOOPBACK, BenchError
from bench.report import LoadResult, MemoryResult, Result, Sample

CONNECTIONS = 64
IDLE_CONNECTIONS = 10_000
SPARE_DESCRIPTORS = 1_024
POST = Path(__file__).parent.parent / "tools" / "wrk" / "post.lua"
RICH_REQUEST = (
    "Accept: application/json, text/plain, */*",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Authorization: Bearer 7f3c2b1a9d8e4f60b5a4c3d2e1f00918",
    "Cache-Control: no-cache",
    "Cookie: session=5d41402abc4b2a76b9719d911017c592; theme=dark; consent=1",
    "Origin: https://app.example.com",
    "Referer: https://app.example.com/dashboard?tab=usage",
    "Sec-Fetch-Mode: cors",
    "Sec-Fetch-Site: same-site",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "X-Requested-With: XMLHttpRequest",
)


@dataclass(frozen=True, slots=True)
class Run:
    """What the command line chose, and where things are."""

    origin: Origin
    home: Path
    names: tuple[str, ...]
    rounds: int
    seconds: int
    logging: bool


@dataclass(frozen=True, slots=True)
class Http:
    """A request wrk repeats on kept-alive connections."""

    title: str
    path: str
    headers: tuple[str, ...] = field(default=())
    script: Path | None = None
    secure: bool = False

    unit = "request"

    def drive(self, peer: Peer, seconds: int) -> Load:
        where = f"https://{LOOPBACK}:{peer.tls_port}" if self.secure else f"http://{LOOPBACK}:{peer.port}"
        url = f"{where}{self.path}"
        return load.run_wrk(load.wrk_command(url, CONNECTIONS, seconds, self.headers, self.script))


@dataclass(frozen=True, slots=True)
class WebSocket:
    """Messages that bounce between client and origin; one message is one way there and one back."""

    title: str

    unit = "message"

    def drive(self, peer: Peer, seconds: int) -> Load:
        return load.run_websocket(peer.port, "/ws", CONNECTIONS, seconds)


@dataclass(frozen=True, slots=True)
class Handshakes:
    """Connections that shake hands in full, ask for `path` where there is one, and end: nobody resumes.

    The client ends those without a request by a reset. What it is given for coming back differs there: with TLS 1.3
    Kairos makes a ticket with its first answer, nginx in each handshake. So those with a request say more.

    Of a handshake, 99 % of the instructions are OpenSSL's, in nginx as in Kairos (callgrind, TLS 1.2: 2.11 million,
    nginx 2.09). What is left between them is what waking up costs a bigger program: a TLS 1.2 handshake has one
    wake-up more than one of TLS 1.3. Tried without gain: P-256 first (60 µs more), buffers that are kept, SSL objects
    that are used again (4 of 180 µs at most). TCP_DEFER_ACCEPT would save a wake-up, a tenth of it, but lose
    connections that say nothing yet when a listener is closed.
    """

    title: str
    version: str
    path: str | None = None

    unit = "handshake"

    def drive(self, peer: Peer, seconds: int) -> Load:
        return load.run_handshakes(peer.tls_port, self.version, seconds, self.path)


RICH = Http("rich: GET, 12 request and 10 response headers", "/rich/1", RICH_REQUEST)
Case = Http | WebSocket | Handshakes
LOADS: dict[str, Case] = {
    "plain": Http("plain: GET, 6-byte answer, no extra headers", "/plain/1"),
    "rich": RICH,
    "body16k": Http("body16k: GET, 16 KiB answer", "/files/16k"),
    "body1m": Http("body1m: GET, 1 MiB answer", "/files/1m"),
    "post16k": Http("post16k: POST, 16 KiB body", "/upload", ("X-Body-Bytes: 16384",), POST),
    "websocket": WebSocket("websocket: 128-byte messages, echoed"),
    "tls": Http("tls: GET, 6-byte answer, kept-alive TLS connections", "/plain/1", secure=True),
    "tlsrich": replace(RICH, title="tlsrich: rich, kept-alive TLS connections", secure=True),
    "tls16k": Http("tls16k: GET, 16 KiB answer, kept-alive TLS connections", "/files/16k", secure=True),
    "handshake": Handshakes("handshake: full TLS 1.3 handshakes, ECDSA P-256", "1.3"),
    "handshake12": Handshakes("handshake12: full TLS 1.2 handshakes, ECDSA P-256", "1.2"),
    "tlsnew": Handshakes("tlsnew: GET, 6-byte answer, a full TLS 1.3 handshake each", "1.3", "/plain/1"),
    "tlsnew12": Handshakes("tlsnew12: GET, 6-byte answer, a full TLS 1.2 handshake each", "1.2", "/plain/1"),
}


def measure_load(run: Run, case: Case, workers: int = 1) -> LoadResult:
    """Drive every peer in turn, round after round."""
    result = LoadResult(case.title, case.unit, {name: [] for name in run.names})
    with ExitStack() as stack:
        running = [stack.enter_context(_started(run, name, case.title.split(":")[0], workers)) for name in run.names]
        for peer in running:
            case.drive(peer, 1)
        for turn in range(1, run.rounds + 1):
            for peer in running:
                sample = _sample(case, peer, run.seconds)
                result.samples[peer.name].append(sample)
                _progress(f"{case.title.split(':')[0]} {turn}/{run.rounds} {peer.name}: {sample.cpu_us:.1f} µs CPU")
    return result


def _started(run: Run, name: str, case: str, workers: int) -> AbstractContextManager[Peer]:
    home = run.home / f"{case.replace(' ', '_')}-{name}-{workers}"
    return peers.started(name, run.origin, home, workers, run.logging)


def _sample(case: Case, peer: Peer, seconds: int) -> Sample:
    before = procfs.cpu_us(peer.pid)
    done = case.drive(peer, seconds)
    spent = procfs.cpu_us(peer.pid) - before
    return Sample(spent / done.completed, done.rate, done.p50_us, done.p99_us, done.errors)


def measure_workers(run: Run) -> list[Result]:
    """The rich case with one worker each, then with two."""
    titles = {count: f"workers2 {count}: rich, {count} worker(s) each" for count in (1, 2)}
    return [measure_load(run, replace(RICH, title=title), count) for count, title in titles.items()]


def measure_policies(run: Run) -> list[Result]:
    """The rich case with a verified token, a token bucket, CORS and two header rules, beside itself without them."""
    lines = [line for line in RICH_REQUEST if not line.startswith("Authorization")]
    case = Http("policies: rich, with JWT, token bucket, CORS, 2 header rules", "/rich/1", (*lines, authorization()))
    return [measure_load(replace(run, names=("policies", *run.names)), case)]


def authorization() -> str:
    """A token that the route with policies takes for as long as a benchmark may run."""
    claims = {"sub": "user-1", "exp": int(time.time()) + 24 * 3600}
    return f"Authorization: Bearer {jwt.encode(claims, peers.SECRET, 'HS256')}"


def idle_count(descriptors: int) -> int:
    """As many as wanted, or as a process may have descriptors."""
    return min(IDLE_CONNECTIONS, descriptors - SPARE_DESCRIPTORS)


def measure_idle(run: Run) -> list[Result]:
    """Growth of each tree's memory per idle connection."""
    count = idle_count(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    result = MemoryResult(f"idle: {count:,} idle kept-alive connections")
    for name in run.names:
        with _started(run, name, "idle", 1) as peer:
            result.rows[name] = _idle_row(peer, count)
        _progress(f"idle {name}: {result.rows[name]['PSS KiB/connection']:.2f} KiB a connection")
    return [result]


def _idle_row(peer: Peer, count: int) -> dict[str, float]:
    # Log buffers, the admin API and the like take their memory once, not per connection: let them have it before.
    load.run_wrk(load.wrk_command(f"http://{LOOPBACK}:{peer.port}/plain/1", CONNECTIONS, seconds=1))
    before = settled_memory(peer.pid)
    with load.idle_connections(peer.port, "/plain/1", count):
        after = procfs.tree_memory(peer.pid)
    return {
        "PSS before MiB": before.pss / 1024,
        "PSS after MiB": after.pss / 1024,
        "RSS KiB/connection": (after.rss - before.rss) / count,
        "PSS KiB/connection": (after.pss - before.pss) / count,
    }


def settled_memory(root: int, pause: float = 1.0, readings: int = 30) -> procfs.Memory:
    """Of a tree that has started all it starts by itself: two readings, so many s apart, differ by less than 1 %.

    Raises:
        BenchError: they never do.
    """
    last = procfs.tree_memory(root)
    for _ in range(readings):
        time.sleep(pause)
        last, before = procfs.tree_memory(root), last
        if abs(last.pss - before.pss) * 100 < before.pss:
            return last
    raise BenchError(f"the memory of process {root} and its children does not settle: it is {last.pss} KiB by now")


def measure_fresh(run: Run) -> list[Result]:
    """Memory of a worker that has answered one request, and of the whole tree around it."""
    result = MemoryResult("fresh: one worker, just started")
    for name in run.names:
        with _started(run, name, "fresh", 1) as peer:
            result.rows[name] = _fresh_row(peer)
        _progress(f"fresh {name}: worker {result.rows[name]['worker RSS MiB']:.1f} MiB RSS")
    return [result]


def _fresh_row(peer: Peer) -> dict[str, float]:
    worker = procfs.memory(procfs.workers(peer.pid, peer.port)[0])
    whole = procfs.tree(peer.pid)
    return {
        "worker RSS MiB": worker.rss / 1024,
        "worker PSS MiB": worker.pss / 1024,
        "tree PSS MiB": settled_memory(peer.pid).pss / 1024,
        "processes": len(whole),
    }


def _load_case(case: Case) -> Callable[[Run], Sequence[Result]]:
    return lambda run: [measure_load(run, case)]


CASES: dict[str, Callable[[Run], Sequence[Result]]] = {
    **{name: _load_case(case) for name, case in LOADS.items()},
    "workers2": measure_workers,
    "policies": measure_policies,
    "idle": measure_idle,
    "fresh": measure_fresh,
}


def _progress(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)
