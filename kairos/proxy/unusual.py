"""Request heads the scanner leaves alone, judged by httptools (llhttp, strict) and written in the scanner's form.

So there is one state machine behind both: absolute-form targets and methods no route can name come out as heads the
scanner takes, everything else is refused with a row of the error table.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import httptools

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
_VERSION = re.compile(rb"HTTP/\d\.\d")


class Refused(Exception):
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
    """The head with an origin-form target and one Host field.

    Raises:
        Refused: httptools does not take it, or nothing here can serve it.
    """
    method, _, version = _request_line(head)
    collector, parser = _parse(head)
    if not collector.complete or parser.get_http_version() not in ("1.0", "1.1"):
        raise Refused("http_version" if version != b"HTTP/1.1" else "bad_start_line")
    if method == b"CONNECT":
        raise Refused("method_unknown")
    target, host = _origin_form(collector.url)
    fields = collector.fields
    if host is not None:
        given = [value for name, value in fields if name.lower() == b"host"]
        if any(value.strip().lower() != host.lower() for value in given):
            raise Refused("bad_host")  # RFC 9112 section 3.2.2 ignores Host; two opinions are an attack more often
        fields = [(b"Host", host), *((name, value) for name, value in fields if name.lower() != b"host")]
    if method not in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"):
        raise Refused("method_unknown")
    lines = b"".join(b"%s: %s\r\n" % field for field in fields)
    return b"%s %s %s\r\n%s\r\n" % (method, target, version, lines)


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
