"""Request heads the scanner leaves alone, judged by httptools (llhttp, strict) and written in the scanner's form.

So there is one state machine behind both: absolute-form targets come out as heads the scanner judges like any other,
everything else (other methods, versions and forms of target) is refused with a row of the error table.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import httptools

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_VERSION = re.compile(rb"HTTP/\d\.\d")
_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"))


class Refused(Exception):  # noqa: N818 - it is an answer
    """The head is not acceptable; `kind` is a row of errors.KINDS."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class _Collector:
    """What httptools calls back with."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


def canonical_request(head: bytes) -> bytes:
    """The head with an origin-form target; its field lines stay as they are, for the scanner to judge.

    Raises:
        Refused: httptools does not take it, or nothing here can serve it.
    """
    method, _, version = _request_line(head)
    collector, parser = _parse(head)
    if not collector.complete or parser.get_http_version() not in ("1.0", "1.1"):
        raise Refused("bad_start_line")
    if method not in _METHODS:
        raise Refused("method_unknown")
    target, host = _origin_form(collector.url)
    given = [value.strip().lower() for name, value in collector.fields if name.lower() == b"host"]
    if host is not None and given != [host.lower()]:
        raise Refused("bad_host")  # RFC 9112 section 3.2.2 ignores Host; two opinions are an attack more often
    return b"%s %s %s\r\n%s" % (method, target, version, head.partition(b"\r\n")[2])


def _request_line(head: bytes) -> tuple[bytes, bytes, bytes]:
    parts = head.partition(b"\r\n")[0].split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]):
        raise Refused("bad_start_line")
    if not _VERSION.fullmatch(parts[2]):
        raise Refused("bad_start_line")
    if parts[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise Refused("http_version")
    return parts[0], parts[1], parts[2]


def _parse(head: bytes) -> tuple[_Collector, httptools.HttpRequestParser]:
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserInvalidMethodError:
        raise Refused("method_unknown") from None
    except httptools.HttpParserError:
        raise Refused("bad_field" if collector.url else "bad_start_line") from None
    return collector, parser


def _origin_form(url: bytes) -> tuple[bytes, bytes | None]:
    """Path and query, and the authority of an absolute-form target (RFC 9112 section 3.2.2)."""
    if url.startswith(b"/"):
        return url, None
    try:
        parts = urlsplit(url)
    except ValueError:
        raise Refused("bad_target") from None
    if parts.scheme.lower() not in (b"http", b"https") or not parts.netloc or b"@" in parts.netloc or parts.fragment:
        raise Refused("bad_target")
    target = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
    return target, parts.netloc
