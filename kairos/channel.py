"""What the supervisor and its children say to each other, and what a child is born with.

Sans-IO: `encode` gives the bytes of one message, `Decoder.receive` the messages complete so far. A frame is a 4-byte
big-endian length and the message in MessagePack. A frame that lies about its size or its content is a `ChannelError`:
the reader then drops the peer, for a stream out of step cannot be put right.

    supervisor → child   Prepare → Commit or Abort;  Listen;  Drain;  Stop;  ReopenLogs
    child → supervisor   Ready;  Ack or Nack (to Prepare);  Listening (to Listen);  Drained
    control ↔ supervisor ReloadRequest → ReloadResult (→ Settled);  UpgradeRequest → UpgradeResult

Rules for a child: `Ready` comes first and once; every `Prepare` is answered, by `Ack` or `Nack`; a `Commit` or
`Abort` of a revision it does not hold is ignored; the end of the stream means the supervisor is gone, and is obeyed
like `Drain`. Signals are the supervisor's business: children ignore them, since terminals and service managers signal
whole groups.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec import Struct

from kairos.config.model import Config  # noqa: TC001  (msgspec needs it at run time)
from kairos.config.text import ConfigText  # noqa: TC001
from kairos.scoreboard import Assignment  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos.config.load import Loaded
    from kairos.scoreboard import Scoreboard

MAX_FRAME = 64 * 1024 * 1024
"""Far above any configuration; only a stream out of step asks for more."""
_LENGTH = 4

OVERTAKEN = "another configuration came into use first"
"""The problem of a `ReloadRequest` whose text replaces what is not in use any more."""

EXIT_BOOT = 3
"""A child (or the gateway itself) could not boot: no port, no memory, a missing library."""
EXIT_LOAD = 4
"""A child could not load its configuration or the code it names."""


class _Message(Struct, frozen=True, tag=True):
    """Tagged with the name of its class."""


class Prepare(_Message, frozen=True):
    """Compile this revision and keep it ready beside the one in use."""

    revision: int
    config: Config
    series: Assignment
    text: ConfigText | None = None
    """As it was read; only for the control process, which keeps it."""


class Commit(_Message, frozen=True):
    """Use the prepared revision from the next request on.

    The control process also hears it of the revision it was born with, once the gateway serves with that.
    """

    revision: int


class Abort(_Message, frozen=True):
    """Forget the prepared revision."""

    revision: int


class Listen(_Message, frozen=True):
    """To a child born on `standby`: accept from the listeners. Control takes up what operators set, for it comes first.

    At first they are `borrowed`: another gateway accepts from them too and may keep them, so whatever ends this child
    leaves them as they are. Without that they are ours, and workers that do not accept yet begin.
    """

    borrowed: bool = False


class Drain(_Message, frozen=True):
    """Accept nothing new, finish what is open within `deadline_s`, cut the rest, say `Drained`, exit 0."""

    deadline_s: float
    handed_over: bool = False
    """Another gateway accepts from this child's listeners: what waits there is its business."""


class Stop(_Message, frozen=True):
    """Exit 0 now."""


class ReopenLogs(_Message, frozen=True):
    """Log files were rotated: open them again by name."""


class ReloadResult(_Message, frozen=True):
    """To the control process: how a reload ended, also one it did not ask for (id 0, as after HUP)."""

    id: int
    revision: int
    """In use from here on."""
    problems: list[str]
    """Why the new configuration is not in use; empty: it is."""
    unchanged: bool = False
    """There was nothing to do (`if_changed`)."""


class UpgradeResult(_Message, frozen=True):
    """To the control process: the new gateway serves, or why it does not."""

    id: int
    pid: int
    """Of the new supervisor, 0 if there is none."""
    problem: str = ""


class Ready(_Message, frozen=True):
    """The first revision is in use and connections are accepted (on `standby`: will be)."""

    pid: int


class Listening(_Message, frozen=True):
    """Connections are accepted from the borrowed listeners; of control: what operators set is in force."""


class Ack(_Message, frozen=True):
    """The revision is prepared."""

    revision: int


class Nack(_Message, frozen=True):
    """The revision cannot be prepared, for these reasons."""

    revision: int
    problems: list[str]


class ReloadRequest(_Message, frozen=True):
    """The control process asks for the configuration to be read again, or for another one to be used in its place;
    answered by `ReloadResult` with its id."""

    id: int
    reason: str
    """For the log: who wants it."""
    if_changed: bool = False
    """Do nothing where the file's text is that of the revision in use."""
    text: ConfigText | None = None
    """To be used in place of the file's, if what it `replaces` is still in use: else the answer is `OVERTAKEN`."""
    author: str = ""
    """Whose doing it is."""
    above: int = 0
    """The number of what comes of it is to be greater than that."""


class Settled(_Message, frozen=True):
    """Of the control process: the file says what this revision's text says, which replaced another. Until then a file
    that says what was replaced is no news."""

    revision: int


class UpgradeRequest(_Message, frozen=True):
    """The control process asks for a binary upgrade; answered by `UpgradeResult` with its id."""

    id: int


class Drained(_Message, frozen=True):
    """Nothing is left open; the process exits."""


ToChild = Prepare | Commit | Abort | Listen | Drain | Stop | ReopenLogs | ReloadResult | UpgradeResult
FromChild = Ready | Ack | Nack | Listening | Drained | ReloadRequest | Settled | UpgradeRequest
Message = ToChild | FromChild

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class ChannelError(Exception):
    """The peer's bytes are not frames of this protocol."""


def encode(message: Message) -> bytes:
    """One message as a frame."""
    return framed(_encoder.encode(message), type(message).__name__)


def framed(body: bytes, name: str = "a message") -> bytes:
    """Bytes as a frame."""
    if len(body) > MAX_FRAME:
        raise ChannelError(f"{name} takes {len(body)} bytes, more than a frame's {MAX_FRAME}")
    return len(body).to_bytes(_LENGTH, "big") + body


class Frames:
    """Bytes in, what complete frames hold out; what is incomplete waits for more."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[bytes]:
        """What the frames that `data` completes hold, in order."""
        self._buffer += data
        bodies = []
        while (body := self._maybe_next()) is not None:
            bodies.append(body)
        return bodies

    def _maybe_next(self) -> bytes | None:
        if len(self._buffer) < _LENGTH:
            return None
        size = int.from_bytes(self._buffer[:_LENGTH], "big")
        if size > MAX_FRAME:
            raise ChannelError(f"a frame claims {size} bytes, more than {MAX_FRAME}")
        end = _LENGTH + size
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH:end])
        del self._buffer[:end]
        return body


class Decoder:
    """Bytes in, complete messages out."""

    def __init__(self) -> None:
        self._frames = Frames()

    def receive(self, data: bytes) -> list[Message]:
        """The messages that `data` completes, in order."""
        return [_decode(body) for body in self._frames.receive(data)]


def _decode(body: bytes) -> Message:
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ChannelError(f"a frame holds no message: {error}") from error


@dataclass(frozen=True, slots=True)
class ControlBoot:
    """What only the control process is born with."""

    config_path: str
    """The file to watch."""
    text: ConfigText
    """The revision in use, as it was read."""
    judge: Callable[[ConfigText], Loaded]
    """What this gateway would load of a text, its overrides included. Raises ConfigError."""
    state_dir: str
    """Where what outlives the process is kept; empty: nowhere."""
    admin: socket.socket | None
    """Where operators connect: a unix socket in the state folder."""
    restarts: Callable[[Config], list[str]]
    """Keys that have another value than the one in force, which only a restart changes."""


@dataclass(frozen=True, slots=True)
class WorkerBoot:
    """All that a child is born with. It is forked, not executed, so these are the supervisor's own objects."""

    kind: Literal["worker", "control"]
    slot: int
    """The worker's row on the scoreboard; -1 in the control process, which has none."""
    workers: int
    """How many workers are wanted at the time of the fork."""
    revision: int
    config: Config
    """With the overrides of command line and environment applied."""
    series: Assignment
    scoreboard: Scoreboard
    listeners: list[socket.socket]
    """Bound, listening, non-blocking: where clients connect, or for the control process its own unix socket."""
    channel: socket.socket
    """This child's end of the socket pair, non-blocking."""
    activated: bool
    """The listeners came from the service manager, which goes on listening when this gateway is gone."""
    control_path: str
    """Unix socket of the control process, which answers what no worker should spend time on; empty without one."""
    standby: bool = False
    """The listeners are another gateway's still: get ready, touch nothing that is shared, wait for `Listen`."""
    control: ControlBoot | None = None
    """None in workers."""
    secure_ports: frozenset[int] = frozenset()
    """Ports on which clients speak TLS."""
    line: socket.socket | None = None
    """Where control asks this worker: see `inquiry`."""

    def shares(self, listener: socket.socket) -> bool:
        """Whether other workers (or the service manager) accept from the same socket: see `drain_listener`."""
        return self.activated or listener.family == socket.AF_UNIX

    def secures(self, listener: socket.socket) -> bool:
        """Whether clients speak TLS there."""
        return listener.family != socket.AF_UNIX and listener.getsockname()[1] in self.secure_ports
