"""Where a token stands in a request, beside the plain Authorization header, and how it is taken out of what goes on.

More than one token in a request is none: the backend could read the one that nobody verified (RFC 6750 section 2).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from kairos.config.policies.jwt import DEFAULT_NAMES
from kairos.proxy.filters.authenticate import Refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kairos.config.policies.jwt import TokenSource
    from kairos.proxy.exchange import Exchange

TWO = Refusal("unauthorized", "More than one token", b'Bearer realm="kairos", error="invalid_request"')
_SCHEME = re.compile(rb"bearer +(.*)", re.IGNORECASE | re.DOTALL)


class Place:
    """One TokenSource: finds tokens, and takes them out."""

    def __init__(self, source: TokenSource) -> None:
        self.kind = source.in_
        self.name = source.name or DEFAULT_NAMES[source.in_]
        self.raw = self.name.encode()
        self.authorization = self.kind == "header" and self.name.lower() == "authorization"

    def find(self, x: Exchange) -> Iterator[bytes]:
        """All that stand there."""
        if self.kind == "header":
            yield from self._in_headers(x)
        elif self.kind == "cookie":
            yield from (value for name, value in cookies(x) if name == self.raw)
        elif self.kind == "query":
            yield from (unquote_to_bytes(value) for name, value in parameters(x.query_string) if name == self.raw)
        else:
            yield from _behind(protocols(x), self.raw)

    def _in_headers(self, x: Exchange) -> Iterator[bytes]:
        for value in x.header_values(self.raw.lower()):
            scheme = _SCHEME.fullmatch(value)
            if scheme is not None:
                yield scheme[1]
            elif not self.authorization:
                yield value

    def withhold(self, x: Exchange) -> None:
        """Take the token out of what goes to the backend."""
        if not any(True for _ in self.find(x)):
            return
        if self.kind == "header":
            x.set_request_header(self.name, None)
        elif self.kind == "cookie":
            drop_cookie(x, self.raw)
        elif self.kind == "query":
            x.upstream_target = without(x.upstream_target, self.raw)
        else:
            self.settle_protocol(x)

    def settle_protocol(self, x: Exchange) -> None:
        """A token is no subprotocol: the backend sees the others. Where there are none, this one is agreed on."""
        offered = protocols(x)
        kept = list(_without_token(offered, self.raw))
        x.set_request_header("Sec-WebSocket-Protocol", b", ".join(kept) or None)
        if not kept:
            x.set_response_header("Sec-WebSocket-Protocol", self.raw)


def token_in(x: Exchange, places: Sequence[Place]) -> bytes | Refusal | None:
    """The request's token."""
    found = {token for place in places for token in place.find(x) if token}
    if len(found) > 1:
        return TWO
    return next(iter(found), None)


def cookies(x: Exchange) -> Iterator[tuple[bytes, bytes]]:
    """Name and value of each pair, as sent (RFC 6265 section 4.2.1)."""
    return pairs(x.header_values(b"cookie"))


def pairs(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Name and value of each pair in Cookie fields."""
    for line in lines:
        for pair in line.split(b";"):
            name, equals, value = pair.strip(b" \t").partition(b"=")
            if equals:
                yield name, value


def drop_cookie(x: Exchange, name: bytes) -> None:
    """Take a cookie out of what goes to the backend, which others may have changed already."""
    kept = b"; ".join(key + b"=" + value for key, value in pairs(x.upstream_values(b"cookie")) if key != name)
    x.set_request_header("Cookie", kept or None)


def parameters(query: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Decoded name and raw value of each parameter."""
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        yield unquote_to_bytes(name.replace(b"+", b" ")), value


def without(target: bytes, name: bytes) -> bytes:
    """A target whose query lacks a parameter."""
    path, mark, query = target.partition(b"?")
    kept = b"&".join(pair for pair in query.split(b"&") if not _named(pair, name))
    return path + mark + kept if kept else path


def _named(pair: bytes, name: bytes) -> bool:
    return next(parameters(pair))[0] == name


def protocols(x: Exchange) -> list[bytes]:
    """The subprotocols a WebSocket client offers, in order."""
    lists = x.header_values(b"sec-websocket-protocol")
    return [item.strip(b" \t") for value in lists for item in value.split(b",")]


def _behind(offered: Sequence[bytes], name: bytes) -> Iterator[bytes]:
    """What follows the name."""
    for at in range(1, len(offered)):
        if offered[at - 1].lower() == name.lower():
            yield offered[at]


def _without_token(offered: Iterable[bytes], name: bytes) -> Iterator[bytes]:
    marked = False
    for item in offered:
        if marked:
            marked = False
        elif item.lower() == name.lower():
            marked = True
        else:
            yield item
