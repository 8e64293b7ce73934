"""A backend as the data plane connects to it: its host taken apart, once, by a pure function."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.config.backend import Backend
    from kairos.config.model import Protocol
    from kairos.config.problems import Findings, Path

_HTTP_SCHEMES = frozenset({"http", "https", "ws", "wss"})
_SCHEMES: dict[str, frozenset[str]] = {
    "http": _HTTP_SCHEMES,
    "websocket": _HTTP_SCHEMES,
    "ftp": frozenset({"ftp", "ftps"}),
    "dns": frozenset({"dns", "udp", "tcp"}),
}
_PORTS = {
    "http": 80, "ws": 80, "https": 443, "wss": 443, "ftp": 21, "ftps": 990, "dns": 53, "udp": 53, "tcp": 53,
}  # fmt: skip
_TLS = frozenset({"https", "wss", "ftps"})

_SCHEME = re.compile(r"(?:([A-Za-z][A-Za-z0-9+.-]*)://)?(.*)", re.S)
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]*))?")
_NAME = re.compile(r"[A-Za-z0-9._~-]{1,253}")


class OriginError(ValueError):
    """A backend that cannot be connected to; the text says why."""


class Origin(Struct, frozen=True):
    """Where to connect, and what to say there."""

    scheme: str
    host: str
    """Name in ASCII (IDNA) or address without brackets; empty for a unix socket."""
    port: int
    tls: bool
    unix: str | None
    authority: bytes
    """Value of Host: without the port where it is the scheme's default."""
    key: str
    """`scheme://host:port`, or `unix:/path`: names the origin in pools and metrics."""


def parse_backend(backend: Backend, protocol: Protocol) -> Origin:
    """Raises OriginError."""
    host = backend.host
    if host.startswith("unix:"):
        return _unix(host.removeprefix("unix:"), backend, protocol)
    scheme, rest = _split_scheme(host, protocol)
    _refuse_extras(rest, host)
    name, own_port = _split_port(rest.removesuffix("/"), host)
    if own_port is not None and backend.port not in (None, own_port):
        raise OriginError(f"'{host}' names port {own_port}, but port says {backend.port}: keep one of them")
    port = own_port or backend.port or _PORTS[scheme]
    name, shown = _name(name, host)
    authority = shown if port == _PORTS[scheme] else f"{shown}:{port}"
    return Origin(scheme, name, port, scheme in _TLS, None, authority.encode(), f"{scheme}://{shown}:{port}")


def _unix(path: str, backend: Backend, protocol: Protocol) -> Origin:
    if protocol not in ("http", "websocket"):
        raise OriginError(f"a unix socket cannot serve protocol {protocol}")
    if backend.port is not None:
        raise OriginError("a unix socket has no port")
    path = "/" + path.lstrip("/") if path.startswith("/") else path
    if not path.startswith("/") or "\0" in path or len(path.encode()) > 107:
        raise OriginError("write unix:/path, of at most 107 bytes")
    return Origin("http", "", 0, False, path, b"localhost", f"unix:{path}")


def _split_scheme(host: str, protocol: Protocol) -> tuple[str, str]:
    match = _SCHEME.fullmatch(host)
    assert match is not None
    allowed = _SCHEMES[protocol]
    scheme = match[1].lower() if match[1] else None
    if scheme is None and protocol in ("ftp", "dns"):
        return protocol, _bracketed(host)
    if scheme in allowed:
        return str(scheme), match[2]
    if allowed is _HTTP_SCHEMES:
        raise OriginError(f"Backend host must start with http://, https://, ws://, or wss://: '{host}'")
    raise OriginError(f"a backend of protocol {protocol} starts with {_listed(allowed)} or is a bare host: '{host}'")


def _listed(schemes: frozenset[str]) -> str:
    return ", ".join(f"{scheme}://" for scheme in sorted(schemes))


def _bracketed(host: str) -> str:
    """A bare IPv6 address, as in a list of name servers."""
    address = _ipv6(host)
    return host if address is None else f"[{address}]"


def _ipv6(text: str) -> str | None:
    try:
        return None if "%" in text else str(ipaddress.IPv6Address(text))
    except ValueError:
        return None


def _refuse_extras(rest: str, host: str) -> None:
    """Only a name and a port: everything else would be lost or end up in a URL unseen."""
    if "@" in rest:
        raise OriginError("credentials in a backend's host are refused: the file would show them")
    if "?" in rest or "#" in rest:
        raise OriginError(f"'{host}' has a query or fragment: put a query into internal_path")
    if "/" in rest.removesuffix("/"):
        raise OriginError(f"'{host}' has a path: put it into internal_path")


def _split_port(rest: str, host: str) -> tuple[str, int | None]:
    match = _AUTHORITY.fullmatch(rest)
    if match is None:
        raise OriginError(f"'{host}' is no host (write an IPv6 address in brackets)")
    if match[2] is None:
        return match[1], None
    if not match[2] or len(match[2]) > 5 or not 1 <= int(match[2]) <= 65_535:
        raise OriginError(f"the port in '{host}' must be between 1 and 65535")
    return match[1], int(match[2])


def _name(name: str, host: str) -> tuple[str, str]:
    """The name to resolve, and as it stands in a URL."""
    if not name:
        raise OriginError(f"'{host}' has no host name")
    if name.startswith("["):
        address = _ipv6(name[1:-1])
        if address is None:
            raise OriginError(f"{name} is no IPv6 address (zones are refused)")
        return address, f"[{address}]"
    lowered = ascii_name(name)
    if lowered is None:
        raise OriginError(f"'{host}' is no host name")
    return lowered, lowered


def ascii_name(name: str) -> str | None:
    """A host name in lower case and ASCII (IDNA); underscores pass, as containers use them. None if it is none."""
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            return None
    if not _NAME.fullmatch(name) or ".." in name or name.startswith("."):
        return None
    return name.lower()


def check_backends(backends: Iterable[Backend], keys: Path, found: Findings) -> None:
    """Report those that cannot be connected to."""
    for at, backend in enumerate(backends):
        try:
            parse_backend(backend, "http")
        except OriginError as error:
            found.error((*keys, at, "host"), str(error))
