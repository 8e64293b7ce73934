"""Binary upgrade: how a gateway starts the next one, and what the two supervisors say to each other.

The old supervisor executes the command it was started with. The new one inherits the listening sockets and one end of
a socket pair; a variable (`VARIABLE`) says which descriptor is what. Over the pair go JSON messages, one a line, since
the two may be of different versions:

    new → old   Booted: all children are ready, and nothing was accepted yet;  Failed: why not
    old → new   Go: accept beside me
    new → old   Accepting: it does
    old → new   Gone: I accept no more, all is yours
    new → first Serving: signals are to be forwarded here

Rules: a new supervisor is on probation until `Gone`. It must leave no trace when it fails, and gives up when the pair
ends: there is no moment at which nobody accepts. The last message is for a first process that stays because it is
PID 1: the end that leads to it is passed on from upgrade to upgrade.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

import msgspec
from msgspec import Struct

from kairos.channel import EXIT_BOOT
from kairos.supervisor.sockets import Estate, ListenError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

VARIABLE = "KAIROS_HANDOVER"
FORMAT = 1
"""Of `Offer` and what is said. One that the new version does not know is refused: then only a restart helps."""
REASON = 4000
"""Characters of a refusal's reason: it must fit the pair, which is written without waiting."""
_READ = 1 << 16


class Offer(Struct, frozen=True):
    """What a new gateway inherits, by descriptor."""

    format: int
    line: int
    """To the supervisor that is being replaced."""
    first_stays: bool
    """That supervisor is PID 1 and goes on to forward signals."""
    first: int | None
    """To a PID 1 that was replaced earlier."""
    lock: int | None
    """Of the state folder."""
    sockets: Estate

    @property
    def descriptors(self) -> list[int]:
        single = [fd for fd in (self.line, self.first, self.lock) if fd is not None]
        return [*single, *self.sockets.descriptors]


class Booted(Struct, frozen=True, tag=True):
    """The new gateway is ready to serve."""

    slots: list[int]
    """Worker slots whose listeners it goes on with; the old gateway is to drain the others."""


class Failed(Struct, frozen=True, tag=True):
    """The new gateway cannot serve; its exit follows."""

    problem: str


class Go(Struct, frozen=True, tag=True):
    """The new gateway is to accept from the sockets that it took, while the old one does so too."""


class Accepting(Struct, frozen=True, tag=True):
    """The new gateway accepts."""


class Gone(Struct, frozen=True, tag=True):
    """The old gateway stops accepting."""


class Serving(Struct, frozen=True, tag=True):
    """This supervisor serves now."""

    pid: int


Message = Booted | Failed | Go | Accepting | Gone | Serving

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class Line:
    """One end of the socket pair, read and written without waiting."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.set_inheritable(False)
        self.socket = sock
        self._buffer = b""

    def send(self, message: Message) -> None:
        """A few bytes to a peer that reads; one that is gone is noticed elsewhere."""
        with contextlib.suppress(OSError):
            self.socket.send(msgspec.json.encode(message) + b"\n")

    def receive(self) -> list[Message] | None:
        """What has arrived; None at the end of the stream. What is not understood counts as the end."""
        try:
            data = self.socket.recv(_READ)
        except BlockingIOError:
            return []
        except OSError:
            return None
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        try:
            return [_decoder.decode(line) for line in lines] if data else None
        except msgspec.DecodeError:
            return None

    def close(self) -> None:
        self.socket.close()


class Predecessor:
    """The gateway that this one is to replace."""

    def __init__(self, offer: Offer) -> None:
        self.estate = offer.sockets
        self.lock = offer.lock
        self.line = Line(socket.socket(fileno=offer.line))
        self.first = None if offer.first is None else Line(socket.socket(fileno=offer.first))
        self._stays = offer.first_stays
        if self.lock is not None:
            os.set_inheritable(self.lock, False)

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Predecessor | None:
        """By the variable, which is taken out of the environment; None if there is none. Raises ListenError."""
        text = environ.pop(VARIABLE, "")
        if not text:
            return None
        try:
            # The format first: of another one nothing else need be as expected.
            found = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
            if (number := msgspec.json.decode(found["format"], type=int)) != FORMAT:
                raise ListenError(
                    f"the running gateway hands over in format {number}, not {FORMAT}: it needs a restart"
                )
            return cls(msgspec.json.decode(text, type=Offer))
        except (msgspec.MsgspecError, KeyError, OSError) as error:
            raise ListenError(f"{VARIABLE} is not what a running gateway hands over: {error}") from error

    def refuse(self, problem: str) -> None:
        """This gateway does not come up."""
        self.line.send(Failed(problem[:REASON]))

    def booted(self, slots: Iterable[int]) -> None:
        """This gateway is ready."""
        self.line.send(Booted(sorted(slots)))

    def accepting(self) -> None:
        """This gateway accepts; the old one may stop."""
        self.line.send(Accepting())

    def gone(self) -> None:
        """`Gone` was received. A PID 1 is told whom to forward signals to, now and after later upgrades."""
        if self._stays:
            self.first = self.line
        else:
            self.line.close()
        if self.first is not None:
            self.first.send(Serving(os.getpid()))

    def close(self) -> None:
        self.line.close()
        if self.first is not None:
            self.first.close()


class Heir:
    """The gateway that is to replace this one."""

    def __init__(self, pid: int, line: Line) -> None:
        self.pid = pid
        self.line = line

    @classmethod
    def start(
        cls, command: Command, environ: Mapping[str, str], sockets: Estate, *, lock: int | None, first: int | None
    ) -> Heir:
        """Fork and execute. Raises OSError if that is not possible; what fails later comes over the line."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            offer = Offer(FORMAT, theirs.fileno(), os.getpid() == 1, first, lock, sockets)
            variables = {**environ, VARIABLE: msgspec.json.encode(offer).decode()}
            # A signal must not get into the pipe that both processes have until the new program runs.
            unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                sys.stdout.flush()
                sys.stderr.flush()
                pid = os.fork()
                if pid == 0:
                    _execute(command, variables, offer, unblocked)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            undo.pop_all()
        return cls(pid, Line(ours))


class Command:
    """What started this process, to be executed again, where it was started."""

    def __init__(self) -> None:
        self.folder = _working_directory()
        if getattr(sys.modules["__main__"], "__spec__", None) is None and os.access(sys.argv[0], os.X_OK):
            self.arguments = sys.argv[:]  # an installed script, which may lead to another interpreter by then
        else:
            self.arguments = [sys.executable, *sys.orig_argv[1:]]

    def execute(self, environ: Mapping[str, str]) -> NoReturn:
        """Become the new program. Raises OSError."""
        os.chdir(self.folder)
        os.execve(self.arguments[0], self.arguments, environ)


def _working_directory() -> str:
    """As the shell has it if it tells: a path through a link follows that link to a new release."""
    told = os.environ.get("PWD", "")
    with contextlib.suppress(OSError):
        if os.path.isabs(told) and os.path.samefile(told, "."):
            return told
    try:
        return os.getcwd()
    except FileNotFoundError:  # removed, or never seen from where we are
        return told or "/"


def _execute(command: Command, environ: Mapping[str, str], offer: Offer, unblocked: Iterable[int]) -> NoReturn:
    """The child's life until it is another program. It never returns into the supervisor's code."""
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):  # execve resets the others just as well
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        for fd in offer.descriptors:
            os.set_inheritable(fd, True)
        command.execute(environ)
    except BaseException as error:
        problem = f"cannot execute {command.arguments[0]} in {command.folder}: {error}"
        with contextlib.suppress(BaseException):
            os.write(offer.line, msgspec.json.encode(Failed(problem)) + b"\n")
    finally:
        os._exit(EXIT_BOOT)
