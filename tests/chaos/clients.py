"""Clients that count: every request they sent, every answer they got, and whose answer it was.

What a client does, and what counts as what:
- It has one request under way at a time, on a fresh connection each or on a kept-alive one, and reads one answer to it.
- *Answered*: a whole response. Any status but 200, a body that is not its own, bytes behind it: *failed*.
- A kept-alive connection may end just as a request sets out (RFC 9112 9.3.1). If it ended before the request was
  written, the client takes another. If it ended afterwards and without a byte of an answer, a GET is sent once more on
  a fresh connection (*resent*); a POST is not, and is judged at the end: one that no origin ever saw was *not taken*
  and could have been sent again, one that was carried out has *failed*.
- Any other end of a connection, on a fresh one also the bytes-less one: failed.
- A failure is *excused* when a process that a test killed had the connection at the time of its death (`Victim`), or
  for a reason that stands in the test.
"""

from __future__ import annotations

import itertools
import random
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Self

import orjson

from tests.chaos.origins import content
from tests.support.net import Peer, connect, status_of

PATIENCE_S = 30.0
_LOADS = itertools.count()


@dataclass(frozen=True, slots=True)
class Request:
    """One request; its identifier is in the target, and at both ends of a POST's body."""

    id: str
    method: str
    answer_size: int
    body_size: int
    wait_ms: int

    def encode(self, path: str) -> bytes:
        target = f"{path}?id={self.id}&size={self.answer_size}&wait={self.wait_ms}"
        head = f"{self.method} {target} HTTP/1.1\r\nHost: chaos.test\r\n"
        if self.method == "GET":
            return f"{head}\r\n".encode()
        return f"{head}Content-Length: {self.body_size}\r\n\r\n".encode() + b"x" * self.body_size


@dataclass(frozen=True, slots=True)
class Failure:
    """What went wrong, when, and on which connections of the client's (their ports)."""

    id: str
    method: str
    what: str
    answered: bool
    ports: frozenset[int]
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Victim:
    """A killed process: the client ports of the connections it had, and when it died (between `before` and `after`)."""

    ports: frozenset[int]
    before: float
    after: float

    def excuses(self, failure: Failure) -> bool:
        return bool(failure.ports & self.ports) and failure.began <= self.after and failure.ended >= self.before


class EndedError(EOFError):
    """The connection ended without a byte of an answer."""


class WrongAnswerError(ValueError):
    """An answer, but not the one to this request."""


@dataclass(slots=True)
class Tally:
    """How it went for all clients of a load."""

    sent: int
    answered: int
    resent: int
    not_taken: int
    unanswered: int
    """Those of the excused that never got an answer, or not all of it."""
    excused: int
    duplicates: list[str]
    """POSTs that were carried out more than once."""
    repeats: int
    """GETs carried out more than once: by the gateway's retry, or the client's."""
    failures: list[Failure] = field(repr=False)

    @classmethod
    def of(
        cls, loads: Sequence[Load], executions: Counter[tuple[str, str]], excused: Callable[[Failure], bool]
    ) -> Tally:
        """Judge loads that are over. `executions`: what the origins carried out."""
        ours = tuple(f"{load.number}." for load in loads)
        executions = Counter({key: times for key, times in executions.items() if key[1].startswith(ours)})
        clients = [client for load in loads for client in load.clients]
        unsure = [failure for client in clients for failure in client.unsure]
        carried_out = [failure for failure in unsure if executions[failure.method, failure.id]]
        failures = [failure for client in clients for failure in client.failures] + carried_out
        blamed = [failure for failure in failures if not excused(failure)]
        return cls(
            sent=sum(client.sent for client in clients),
            answered=sum(client.answers.total() for client in clients),
            resent=sum(client.resent for client in clients),
            not_taken=len(unsure) - len(carried_out),
            unanswered=sum(not failure.answered for failure in failures if failure not in blamed),
            excused=len(failures) - len(blamed),
            duplicates=[id_ for (method, id_), times in executions.items() if method == "POST" and times > 1],
            repeats=sum(times - 1 for (method, _), times in executions.items() if method == "GET"),
            failures=blamed,
        )

    def __str__(self) -> str:
        return (
            f"sent {self.sent}, answered {self.answered}, resent {self.resent}, not taken {self.not_taken}, "
            f"excused {self.excused}, failed {len(self.failures)}, duplicates {len(self.duplicates)}, "
            f"GETs repeated {self.repeats}"
        )


class Client(threading.Thread):
    """One client; `kept` requests go over a connection before it opens another."""

    def __init__(self, load: Load, number: int, kept: int) -> None:
        super().__init__(name=f"client{number}", daemon=True)
        self.load = load
        self.number = number
        self.kept = kept
        self.random = random.Random(load.seed * 1000 + number)
        self.sent = self.resent = 0
        self.answers: Counter[tuple[str, int]] = Counter()
        self.latencies: list[float] = []
        self.failures: list[Failure] = []
        self.unsure: list[Failure] = []
        """Requests without an answer that are no failure if no origin carried them out."""
        self.peer: Peer | None = None
        self.ports: list[int] = []
        """Of the connections that the request under way was sent on."""
        self.left = 0

    def run(self) -> None:
        while not self.load.over.is_set():
            self.ask(self.load.make(self.random, f"{self.number}.{self.sent}"))
            if self.left <= 0:
                self.hang_up()
        self.hang_up()

    def hang_up(self) -> None:
        if self.peer is not None:
            self.peer.close()
        self.peer = None

    def ask(self, request: Request) -> None:
        """Send it and see to its answer; whatever happens is counted once."""
        self.sent += 1
        self.ports.clear()
        began = time.monotonic()
        try:
            self._ask(request, began)
        except EndedError:
            (self.unsure if self.load.crowded else self.failures).append(self._failure(request, "no answer", began))
        except WrongAnswerError as error:
            self.failures.append(self._failure(request, str(error), began, answered=True))
            self.hang_up()
        except (OSError, EOFError) as error:
            self.failures.append(self._failure(request, f"{type(error).__name__}: {error}", began))
            self.hang_up()

    def _ask(self, request: Request, began: float) -> None:
        self._drop_if_ended()
        if self.peer is None:
            return self._attempt(request)
        try:
            self._attempt(request)
        except EndedError:
            if request.method == "POST":
                self.unsure.append(self._failure(request, "kept-alive connection ended", began))
            else:
                self.resent += 1
                self._attempt(request)

    def _failure(self, request: Request, what: str, began: float, *, answered: bool = False) -> Failure:
        return Failure(request.id, request.method, what, answered, frozenset(self.ports), began, time.monotonic())

    def _drop_if_ended(self) -> None:
        """Look at a kept-alive connection before using it."""
        if self.peer is None or not select.select([self.peer.sock], [], [], 0)[0]:
            return
        try:
            surplus = self.peer.sock.recv(4096)
        except ConnectionError:
            surplus = b""
        self.hang_up()
        if surplus:
            raise WrongAnswerError(f"an answer nobody asked for: {surplus!r}")

    def _attempt(self, request: Request) -> None:
        if self.peer is None:
            self.peer = connect(self.load.port)
            self.peer.sock.settimeout(PATIENCE_S)
            self.left = self.kept
        self.left -= 1
        self.ports.append(self.peer.sock.getsockname()[1])
        began = time.monotonic()
        head, body = self._exchange(self.peer, request)
        self.latencies.append(time.monotonic() - began)
        self._judge(request, self.peer, head, body)
        if b"\r\nconnection: close\r\n" in head.lower():
            self.hang_up()

    def _exchange(self, peer: Peer, request: Request) -> tuple[bytes, bytes]:
        try:
            peer.send(request.encode(self.load.path))
            return peer.receive_response()
        except (EOFError, ConnectionError):
            pending = peer.pending
            self.hang_up()
            if pending:
                raise
            raise EndedError("closed before an answer") from None

    def _judge(self, request: Request, peer: Peer, head: bytes, body: bytes) -> None:
        """Exactly one answer, and the right one."""
        status = status_of(head)
        self.answers[request.method, status] += 1
        if peer.pending:
            raise WrongAnswerError(f"bytes behind the answer: {peer.pending[:200]!r}")
        if status != 200:
            what = f"{status} {orjson.loads(body).get('code')}"
            if what not in self.load.accepted:
                raise WrongAnswerError(what)
        elif body != content(request.id, request.answer_size):
            raise WrongAnswerError(f"somebody else's answer, or part of one: {body[:200]!r}")


class Load:
    """Clients at work for the length of a with block: half on kept-alive connections, half on fresh ones.

    `accepted` holds refusals ("503 overloaded") that count as answers like any other. Where it is `crowded`, a fresh
    connection too may end without an answer: its request must not have been taken. `posts` is the share of POSTs,
    `pause` the mean time between an answer and the next request.
    """

    def __init__(
        self,
        port: int,
        seed: int,
        *,
        clients: int = 8,
        path: str = "/work",
        posts: float = 0.3,
        accepted: Iterable[str] = (),
        crowded: bool = False,
        pause: float = 0.0,
        answer_sizes: Sequence[int] = (0, 0, 100, 100, 5_000, 100_000),
    ) -> None:
        self.number = next(_LOADS)
        self.port = port
        self.seed = seed
        self.path = path
        self.posts = posts
        self.accepted = frozenset(accepted)
        self.crowded = crowded
        self.pause = pause
        self.answer_sizes = answer_sizes
        self.over = threading.Event()
        self.clients = [Client(self, number, kept=(1, 500)[number % 2]) for number in range(clients)]

    def __enter__(self) -> Self:
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for client in self.clients:
            client.join(PATIENCE_S + 5)
        assert not any(client.is_alive() for client in self.clients), "a client waits for ever"

    def make(self, dice: random.Random, id_: str) -> Request:
        """A request: most are small and quick, some large, some take the origin a while."""
        if self.pause:
            self.over.wait(dice.uniform(0, 2 * self.pause))
        return Request(
            id=f"{self.number}.{id_}",
            method="POST" if dice.random() < self.posts else "GET",
            answer_size=dice.choice(self.answer_sizes),
            body_size=dice.choice((1, 1000, 1000, 40_000)),
            wait_ms=dice.choice((0,) * 8 + (5, 30)),
        )

    @property
    def answered(self) -> int:
        return sum(client.answers.total() for client in list(self.clients))

    def answers(self) -> Counter[tuple[str, int]]:
        """How many answers there were by (method, status)."""
        return sum((client.answers for client in self.clients), Counter())

    def goes_on(self, more: int = 100) -> None:
        """Returns when so many more requests were answered."""
        goal = self.answered + more
        while (so_far := self.answered) < goal:
            wait_for(lambda: self.answered > so_far, "traffic")


def wait_for(condition: Callable[[], object], what: str, timeout: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout:g} s"
        time.sleep(0.01)


def client_ports(inodes: set[str], port: int) -> frozenset[int]:
    """Where the connections of a process (its socket inodes) on the gateway's port lead to."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return frozenset(
        int(row[2].rpartition(":")[2], 16)
        for row in rows
        if row[9] in inodes and int(row[1].rpartition(":")[2], 16) == port
    )
