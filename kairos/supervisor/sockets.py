"""Listening sockets: made by the supervisor, accepted from by workers.

- Each worker slot has its own SO_REUSEPORT socket per address, so the kernel spreads connections and no lock is shared.
  The supervisor keeps them open too: what a killed worker had not accepted waits for its replacement.
- The port with TLS is one more address; `secure_ports` tells workers which of their sockets are of it.
- A unix socket, and sockets given by the service manager, are one for all workers ("shared").
- Closing a listener resets whatever waits in its queue; how a worker closes one without losing any stands in
  `kairos.proxy.listener`.
- In a binary upgrade the new gateway inherits the sockets (`Estate`). Until it has taken over it changes nothing that
  the old one would notice, although it accepts from those it took already: sockets it adds do not listen yet, and no
  file is its own to remove.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos.inquiry import line_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from kairos.config.model import Server

UNIX_MODE = 0o660

Address = tuple[socket.AddressFamily, tuple[str, int]]


class ListenError(Exception):
    """A socket cannot listen where it should; the text says why and what to do."""


class Asked(Struct, frozen=True):
    """What the configuration said when the sockets were made: a change of it waits for a restart."""

    host: str
    port: int
    unix: str | None
    backlog: int
    plain: bool = True
    tls_port: int | None = None

    @classmethod
    def of(cls, server: Server) -> Asked:
        secure = None if server.tls is None else server.tls.port
        return cls(server.host, server.port, server.unix, server.backlog, server.plain, secure)

    def changes(self, wanted: Asked) -> list[str]:
        """Keys of the section `server` in which `wanted` differs."""
        differ = [name for name in self.__struct_fields__ if getattr(self, name) != getattr(wanted, name)]
        return ["tls.port" if name == "tls_port" else name for name in differ]


class Estate(Struct, frozen=True):
    """The sockets that a gateway leaves to the next one, as descriptor numbers: the same in both processes."""

    asked: Asked
    activated: bool
    claims: list[int]
    shared: list[int]
    slots: dict[int, list[int]]
    files: list[tuple[str, int]]
    """Paths and inodes of the unix sockets, to be removed at the end."""
    secure_ports: list[int] = []

    @property
    def descriptors(self) -> list[int]:
        return [*self.claims, *self.shared, *(fd for own in self.slots.values() for fd in own)]


class Listeners:
    """Every listening socket of the gateway, by the worker slot that accepts from it."""

    def __init__(
        self,
        claims: list[socket.socket],
        shared: list[socket.socket],
        *,
        asked: Asked,
        activated: bool,
        secure_ports: Collection[int] = (),
    ) -> None:
        self.activated = activated
        self.asked = asked
        self.secure_ports = frozenset(secure_ports)
        """Ports on which clients speak TLS."""
        self._claims = claims
        self._shared = shared
        self.taken: list[int] = []
        """Slots of the gateway before us whose sockets are those of our first slots."""
        self._own: dict[int, list[socket.socket]] = {}
        self._silent = False
        """Whether sockets that are made now are not to listen yet."""
        self._paths: list[_UnixPath] = []

    @classmethod
    def open(cls, server: Server, inherited: list[socket.socket]) -> Listeners:
        """As configured, or the service manager's sockets instead if it gave any."""
        asked = Asked.of(server)
        if inherited:
            return cls([], inherited, asked=asked, activated=True, secure_ports=_given_secure(inherited, asked))
        claims: list[socket.socket] = []
        secure_ports = []
        try:
            if server.plain:
                claims += _claim_all(resolve(server.host, server.port))
            if asked.tls_port is not None:
                claims += (secure := _claim_all(resolve(server.host, asked.tls_port)))
                secure_ports = [sock.getsockname()[1] for sock in secure]
            shared = [listen_unix(server.unix, server.backlog)] if server.unix else []
        except BaseException:
            _close(claims)
            raise
        listeners = cls(claims, shared, asked=asked, activated=False, secure_ports=secure_ports)
        listeners._paths = [_UnixPath.of(sock) for sock in shared]
        return listeners

    @classmethod
    def adopt(cls, estate: Estate, workers: int) -> Listeners:
        """Those of the gateway before us. Of its slots only as many as there are workers: the rest it drains itself."""
        listeners = cls(
            _adopt(estate.claims),
            _adopt(estate.shared),
            asked=estate.asked,
            activated=estate.activated,
            secure_ports=estate.secure_ports,
        )
        for slot, (number, fds) in enumerate(sorted(estate.slots.items())):
            if slot < workers:
                listeners._own[slot] = _adopt(fds)
                listeners.taken.append(number)
            else:
                _close(_adopt(fds))
        listeners._silent = True
        return listeners

    def take_over(self, estate: Estate) -> None:
        """The gateway before us has left them to us."""
        self._silent = False
        for sockets in self._own.values():
            self._listen(sockets)
        self._paths = [_UnixPath(Path(path), inode) for path, inode in estate.files]

    def estate(self, slots: Collection[int]) -> Estate:
        """What the next gateway is to have: everything shared, and what the workers of these slots accept from."""
        return Estate(
            asked=self.asked,
            activated=self.activated,
            claims=[sock.fileno() for sock in self._claims],
            shared=[sock.fileno() for sock in self._shared],
            slots={slot: [sock.fileno() for sock in self._own.get(slot, [])] for slot in slots},
            files=[(str(path.path), path.inode) for path in self._paths],
            secure_ports=sorted(self.secure_ports),
        )

    def hand_over(self) -> None:
        """Another gateway has them: close our copies, and leave the files alone."""
        self._paths = []
        self.close()

    def of_slot(self, slot: int) -> list[socket.socket]:
        """What the slot's worker accepts from; made when first asked for and kept until `retire`."""
        if slot not in self._own:
            sockets = [_bind_beside(claim) for claim in self._claims]
            if not self._silent:
                self._listen(sockets)
            self._own[slot] = sockets
        return self._own[slot] + self._shared

    def _listen(self, sockets: list[socket.socket]) -> None:
        for sock in sockets:
            with _explained(sock.getsockname()[:2]):
                sock.listen(self.asked.backlog)

    def retire(self, slot: int) -> None:
        """The slot is gone: close what only it listened on."""
        _close(self._own.pop(slot, []))

    def keep_only(self, slot: int | None) -> None:
        """In a forked child: close what belongs to the siblings. None (control) accepts from nothing."""
        for number in [number for number in self._own if number != slot]:
            self.retire(number)
        _close(self._claims)
        if slot is None:
            _close(self._shared)

    def give_up_shared(self) -> None:
        """Nobody new may queue on a shared socket: workers take what waits there and close their copies."""
        for path in self._paths:  # a successor may listen there from now on
            path.unlink()
        self._paths = []
        _close(self._shared)

    def close(self) -> None:
        """Everything, at the end."""
        self.give_up_shared()
        for slot in list(self._own):
            self.retire(slot)
        _close(self._claims)

    def describe(self) -> list[str]:
        """Where the gateway can be reached, for people."""
        names = [sock.getsockname() for sock in self._claims + self._shared]
        return [_describe(name, secure=name[1] in self.secure_ports) for name in names]


class ControlSocket:
    """Where workers reach the control process, and it them: unix sockets in a folder only this user may enter.

    The supervisor keeps them open, so that what connects while one is respawned waits instead of failing.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._folder = _private_folder() if wanted else None
        self.path = f"{self._folder}/control" if wanted else ""
        self.listeners = [listen_unix(self.path, backlog=128)] if wanted else []
        self._lines: dict[int, socket.socket] = {}

    def line(self, slot: int) -> socket.socket | None:
        """Where control asks the slot's worker; made when first asked for and kept until `retire`."""
        if self.path and slot not in self._lines:
            self._lines[slot] = listen_unix(line_of(self.path, slot), backlog=16)
        return self._lines.get(slot)

    def retire(self, slot: int) -> None:
        """The slot is gone."""
        if (line := self._lines.pop(slot, None)) is not None:
            line.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(line_of(self.path, slot))

    def keep_only(self, slot: int | None) -> None:
        """In a forked child: close what it does not serve. None: it is control."""
        if slot is not None:
            _close(self.listeners)
        _close([line for own, line in self._lines.items() if own != slot])

    def close(self) -> None:
        """At the end of the gateway."""
        _close([*self.listeners, *self._lines.values()])
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _private_folder() -> str:
    try:
        return tempfile.mkdtemp(prefix="kairos-")
    except OSError as error:
        raise ListenError(f"cannot make a folder for the control process's socket: {error}; set TMPDIR") from error


def resolve(host: str, port: int) -> list[Address]:
    """The addresses a host stands for: `::` serves IPv4 too, a name may have several."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise ListenError(f"cannot listen on host {host!r}: it is no address and does not resolve ({error})") from error
    unique = dict.fromkeys((family, (str(name[0]), port)) for family, _, _, _, name in found)
    return [address for address in unique if address[0] in (socket.AF_INET, socket.AF_INET6)]


def _claim_all(addresses: list[Address]) -> list[socket.socket]:
    """One bound socket per address, all with the same port where the system chooses it."""
    claims: list[socket.socket] = []
    try:
        for family, (host, port) in addresses:
            claims.append(_claim(family, (host, claims[0].getsockname()[1] if claims else port)))
    except BaseException:
        _close(claims)
        raise
    return claims


def _claim(family: socket.AddressFamily, name: tuple[str, int]) -> socket.socket:
    """Take a port without listening on it, and only if nobody does.

    With SO_REUSEPORT from the start two gateways of one user would share a port unawares; set after the bind, it lets
    our own listeners in.
    """
    sock = _tcp_socket(family, name)
    try:
        with _explained(name):
            sock.bind(name)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_beside(claim: socket.socket) -> socket.socket:
    """A further socket on a claimed address. The kernel sends it nobody before it listens."""
    name = claim.getsockname()[:2]
    sock = _tcp_socket(claim.family, name)
    try:
        with _explained(name):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(name)
    except BaseException:
        sock.close()
        raise
    return sock


def _tcp_socket(family: socket.AddressFamily, name: tuple[str, int]) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"cannot listen on {_describe(name)}: {error.strerror}") from error
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, name[0] != "::")
    return sock


@dataclass(frozen=True, slots=True)
class _UnixPath:
    """A socket's file, removed only while it is still that file."""

    path: Path
    inode: int

    @classmethod
    def of(cls, sock: socket.socket) -> _UnixPath:
        path = Path(sock.getsockname()).absolute()
        return cls(path, path.stat().st_ino)

    def unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self.inode:
                self.path.unlink()


def listen_unix(path: str, backlog: int, mode: int = UNIX_MODE) -> socket.socket:
    """A unix socket. A file left behind by a dead process is replaced, a living one's is not."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    umask = os.umask(0o777 & ~mode)  # the file must never be there with more rights than asked for
    try:
        with _explained(path):
            sock.bind(path)
            sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(umask)
    return sock


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # nothing there, or bind will say what is wrong
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen on unix:{path}: a file that is no socket is there; remove it or move away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except BlockingIOError:
            pass  # somebody listens, with a full queue: bind will say that it is in use


def _adopt(fds: list[int]) -> list[socket.socket]:
    """Inherited sockets, which are not to be inherited further."""
    sockets = [socket.socket(fileno=fd) for fd in fds]
    for sock in sockets:
        sock.set_inheritable(False)
        sock.setblocking(False)
    return sockets


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _given_secure(inherited: list[socket.socket], asked: Asked) -> list[int]:
    """Of the sockets of a service manager, those on server.tls.port."""
    ports = [sock.getsockname()[1] for sock in inherited if sock.family != socket.AF_UNIX]
    return [port for port in ports if port == asked.tls_port]


def _describe(name: tuple[str, int] | tuple[str, int, int, int] | str, *, secure: bool = False) -> str:
    if isinstance(name, str):
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if secure else 'http'}://{host}:{name[1]}"


@contextlib.contextmanager
def _explained(name: tuple[str, int] | str) -> Iterator[None]:
    """OSErrors of bind and listen, in the words of the person who has to act."""
    try:
        yield
    except OSError as error:
        raise ListenError(f"cannot listen on {_describe(name)}: {_advice(error, name)}") from error


def _advice(error: OSError, name: tuple[str, int] | str) -> str:
    if isinstance(name, str):
        return _unix_advice(error, name)
    host, port = name
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is in use by another process; choose another with --port or stop it"
        case errno.EACCES:
            return f"port {port} needs root or CAP_NET_BIND_SERVICE; choose one above 1023 with --port"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine; choose another with --host (0.0.0.0 means all)"
    return error.strerror or str(error)


def _unix_advice(error: OSError, path: str) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another process listens there; stop it or change server.unix"
        case errno.EACCES:
            return f"no right to create it in {os.path.dirname(path) or '.'}"
        case errno.ENOENT:
            return f"the directory {os.path.dirname(path) or '.'} does not exist"
    return error.strerror or str(error)  # a path too long has no errno but a good text
