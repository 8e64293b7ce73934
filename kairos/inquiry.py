"""What the control process asks of a worker: which client connections it has, and to close some.

Over a unix socket per worker slot beside control's own, in the folder that only this user may enter. Rules:
- a connection carries one question and one answer, each a frame of `channel`;
- a worker answers on its loop, a slice at a time, and within ANSWER_S: what it did not come to see is said;
- the supervisor keeps the sockets open, so that what is asked while a worker is respawned waits for the next one.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from kairos.channel import ChannelError, Frames, framed

WORKER_SUFFIX = "-worker"
"""Of a worker's socket: its slot follows."""
ANSWER_S = 1.5
"""In which a worker answers, with what it came to see."""
MAX_SHOWN = 1000
"""Connections in one answer at most."""

State = Literal["handshake", "idle", "reading", "waiting", "sending", "streaming", "tunnel", "closing"]
STATES: tuple[State, ...] = (
    "handshake", "idle", "reading", "waiting", "sending", "streaming", "tunnel", "closing",
)  # fmt: skip
"""By the number that compiled code has for each."""
Protocol = Literal["http", "sse", "websocket"]
PROTOCOLS: tuple[Protocol, ...] = ("http", "sse", "websocket")
Sort = Literal["oldest", "newest", "idle", "request", "requests", "bytes"]
SORTS: tuple[Sort, ...] = ("oldest", "newest", "idle", "request", "requests", "bytes")
WaitsFor = Literal["filter", "queue", "backend", "response", "handler"]


class TlsInUse(Struct, frozen=True):
    """What a connection's handshake came to."""

    version: str | None
    """null during the handshake."""
    cipher: str | None
    server_name: str | None
    """That the client asked for."""
    resumed: bool
    client_certificate: bool
    """The client proved to have one."""


class RequestUnderWay(Struct, frozen=True):
    """The request that a connection carries at this moment."""

    id: str
    method: str
    host: str
    path: str
    """Without the query, which may hold secrets."""
    route: str
    backend: str | None
    """That was asked last."""
    attempts: int
    status: int | None
    """Of the answer; null while there is none."""
    age: float
    """Seconds since its first byte."""
    waits_for: WaitsFor | None
    """In the state `waiting`: for a filter, a backend that has room (`queue`), a connection to a backend, its response,
    or for a handler of this gateway."""
    bytes_in: int
    bytes_out: int


class Connection(Struct, frozen=True):
    """A client's connection at this moment."""

    id: str
    worker: int
    """Its slot."""
    client: str
    """Address: of the request under way, as trusted proxies say; else of the peer."""
    peer: str
    """Address and port of who connected, as a PROXY header says where one came."""
    through: str | None
    """Address and port of the load balancer that sent the PROXY header."""
    listener: str
    """Address and port it connected to."""
    tls: TlsInUse | None
    protocol: Protocol
    state: State
    age: float
    """Seconds since it was accepted."""
    idle: float | None
    """Seconds since bytes went either way; null where nobody knows (unix sockets)."""
    requests: int
    """Begun on it."""
    bytes_received: int | None
    """On the wire: of TLS, its records. null on unix sockets."""
    bytes_sent: int | None
    """Of them, only those that the client acknowledged."""
    unsent: int
    """Bytes that it has not acknowledged yet."""
    rtt_ms: float | None
    """Round trip, smoothed."""
    request: RequestUnderWay | None


class Wanted(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which connections; several conditions have to hold together."""

    serial: int = 0
    """One alone: the number it has in its worker."""
    client: list[str] = []
    """Addresses and networks: of the peer, or of the client that the request under way is from."""
    route: str | None = None
    backend: str | None = None
    state: list[State] = []
    protocol: Protocol | None = None
    port: int = 0
    """It connected to."""
    min_age: float = 0.0
    min_idle: float = 0.0
    min_request: float = 0.0
    """Seconds that the request under way has taken."""

    @property
    def anything(self) -> bool:
        """No condition at all."""
        return self == Wanted()


class _Question(Struct, frozen=True, tag=True):
    """Tagged with the name of its class."""


class ListConnections(_Question, frozen=True):
    """Count those that are wanted, and show the first of them in this order."""

    wanted: Wanted
    sort: Sort = "oldest"
    limit: int = 100


class CloseConnections(_Question, frozen=True):
    """Close those that are wanted, or with `gently` once the answer under way is out."""

    wanted: Wanted
    gently: bool = False


Question = ListConnections | CloseConnections


class Found(Struct, frozen=True):
    """A worker's answer."""

    pid: int
    open: int
    """All of its client connections."""
    looked_at: int
    complete: bool
    """All of them were looked at."""
    states: dict[State, int]
    """Of those that fit, or were closed."""
    connections: list[Connection]
    """The first of them: no more than were asked for, or than MAX_SHOWN."""


_Decoded = TypeVar("_Decoded")
_encoder = msgspec.msgpack.Encoder()
_questions: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_answers = msgspec.msgpack.Decoder(Found)


def line_of(control_path: str, slot: int) -> str:
    """The path of a worker's socket."""
    return f"{control_path}{WORKER_SUFFIX}{slot}"


def encode(message: Question | Found) -> bytes:
    """As a frame."""
    return framed(_encoder.encode(message))


def connection_id(slot: int, pid: int, serial: int) -> str:
    """What a connection is called: never the same for two, however often workers are respawned."""
    return f"{slot}-{pid}-{serial}"


def parse_id(text: str) -> tuple[int, int, int]:
    """Slot, pid and serial of an id. Raises ValueError."""
    slot, pid, serial = (int(part) if part.isascii() and part.isdigit() else -1 for part in text.split("-"))
    if min(slot, pid, serial - 1) < 0:
        raise ValueError(f"not a connection's id: {text}")
    return slot, pid, serial


class Receiver:
    """Puts the one message of a connection together; anything else is a ChannelError."""

    def __init__(self) -> None:
        self._frames = Frames()

    def question(self, data: bytes) -> Question | None:
        """None: more is to come."""
        body = self._body(data)
        return None if body is None else _decoded(_questions, body)

    def answer(self, data: bytes) -> Found | None:
        """None: more is to come."""
        body = self._body(data)
        return None if body is None else _decoded(_answers, body)

    def _body(self, data: bytes) -> bytes | None:
        bodies = self._frames.receive(data)
        if len(bodies) > 1:
            raise ChannelError("more than one message")
        return bodies[0] if bodies else None


def _decoded(decoder: msgspec.msgpack.Decoder[_Decoded], body: bytes) -> _Decoded:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ChannelError(f"not a message of this protocol: {error}") from error
