"""What must hold of any bytes whatever. The tests and the long runner (`python -m tests.fuzz`) share these."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httptools

from kairos._speedups.http1 import ChunkedDecoder, parse_request, parse_response
from kairos.proxy.unusual import Refused, canonical_request
from tests.fuzz.judge import Verdict, feed

if TYPE_CHECKING:
    from kairos._speedups.http1 import HeadDict

HOP_BY_HOP = {
    b"connection", b"keep-alive", b"content-length", b"transfer-encoding", b"upgrade", b"trailer", b"proxy-connection",
}  # fmt: skip
REQUEST_ONLY = {
    b"host", b"http2-settings", b"x-request-id", b"x-real-ip", b"expect", b"forwarded", b"te", b"proxy",
    b"proxy-authorization",
}  # fmt: skip
PROTECTED = {
    b"host", b"content-type", b"authorization", b"cookie", b"x-request-id", b"content-encoding", b"cache-control",
    b"set-cookie", b"via",
}  # fmt: skip
LETTERS = frozenset(b"-0123456789abcdefghijklmnopqrstuvwxyz")


def request_head(data: bytes) -> None:
    """Whatever the scanner takes, httptools takes with the same meaning, however the bytes are cut."""
    found = parse_request(data)
    _prefixes(data, found, parse_request)
    if not isinstance(found, dict):
        return
    head = data[: found["length"]]
    for piece in (0, 1):
        verdict = Verdict()
        parser = verdict.parser = httptools.HttpRequestParser(verdict)
        assert feed(parser, head, piece), "httptools refuses it"
        assert verdict.headers_complete
        assert parser.get_method() == found["method"]
        assert verdict.url == found["target"]
        assert verdict.fields == found["fields"]
        assert parser.get_http_version() == f"1.{found['minor']}"
        keep = not found["close"] and (found["minor"] == 1 or found["keep_alive"])
        apart = found["close"] and found["keep_alive"]  # close wins here
        apart = apart or b"proxy-connection" in head.lower()  # which httptools reads as Connection
        assert verdict.keep_alive == keep or apart
        if not parser.should_upgrade():
            _body_length(parser, verdict, found)
    assert found["host"] == {name.lower(): value for name, value in found["fields"]}.get(b"host", b"")
    _copied(head, found, HOP_BY_HOP | REQUEST_ONLY)


def response_head(data: bytes) -> None:
    """The same for responses."""
    found = parse_response(data)
    _prefixes(data, found, parse_response)
    if not isinstance(found, dict) or found["status"] == 101:  # its meaning hangs on what was asked
        return
    head = data[: found["length"]]
    for piece in (0, 1):
        verdict = Verdict()
        parser = httptools.HttpResponseParser(verdict)
        assert feed(parser, head, piece), "httptools refuses it"
        assert verdict.headers_complete
        assert parser.get_status_code() == found["status"]
        assert verdict.reason == found["reason"]
        assert verdict.fields == found["fields"]
        assert parser.get_http_version() == f"1.{found['minor']}"
        has_body = found["status"] >= 200 and found["status"] not in (204, 304)
        if has_body and (found["chunked"] or found["content_length"] >= 0):
            _body_length(parser, verdict, found)
    _copied(head, found, HOP_BY_HOP | {b"x-request-id"})


def _prefixes(data: bytes, found: object, parse: object) -> None:
    """A head is taken at its last byte and no sooner; what follows it changes nothing."""
    length = found["length"] if isinstance(found, dict) else len(data)
    for at in range(1, length):
        early = parse(data[:at])  # type: ignore[operator]
        assert not isinstance(early, dict), f"taken after {at} of {length} bytes"
        if isinstance(found, dict):
            assert early is None, f"refused after {at} bytes: {early}"
    if isinstance(found, dict):
        assert parse(data[:length]) == found  # type: ignore[operator]


def _body_length(parser: httptools.HttpRequestParser, verdict: Verdict, found: HeadDict) -> None:
    length = found["content_length"]
    if found["chunked"]:
        assert length < 0
        assert not verdict.complete
        assert feed(parser, b"1\r\nx\r\n0\r\n\r\n")
        assert (verdict.body, verdict.complete) == (b"x", True)
    elif 0 < length < 1000:
        assert feed(parser, b"x" * (length - 1))
        assert not verdict.complete
        assert feed(parser, b"x")
        assert verdict.complete
    else:
        assert verdict.complete == (length <= 0)


def _copied(head: bytes, found: HeadDict, dropped: set[bytes]) -> None:
    """Exactly the lines that may go on are copied, as they stand and in order."""
    lines = head[:-2].split(b"\r\n")[1:-1]
    names = {
        token.strip(b" \t").lower()
        for name, value in found["fields"]
        if name.lower() == b"connection"
        for part in value.split(b",")
        for token in part.replace(b"\t", b" ").split(b" ")
    }
    kept = [line + b"\r\n" for line in lines if _goes_on(line.partition(b":")[0].lower(), dropped, names)]
    assert found["copied"] == b"".join(kept)


def _goes_on(name: bytes, dropped: set[bytes], named: set[bytes]) -> bool:
    if name in dropped or not LETTERS.issuperset(name):
        return False
    if b"host" in dropped and name.startswith(b"x-forwarded-") and len(name) > 12:
        return False
    return name not in named or name in PROTECTED or name.startswith(b"x-forwarded-")


def canonical(data: bytes) -> None:
    """A head made canonical is one the scanner can judge, and means what httptools read in the original."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return
    try:
        made = canonical_request(data[:end])
    except Refused:
        return
    found = parse_request(made)
    assert found is not None
    assert found != "unusual"
    if not isinstance(found, dict):
        return
    assert found["length"] == len(made)
    verdict = Verdict()
    parser = httptools.HttpRequestParser(verdict)
    assert feed(parser, data[:end])
    assert verdict.fields == found["fields"]
    assert parser.get_method() == found["method"]
    target = re.sub(rb"^[A-Za-z]+://[^/?]*", b"", verdict.url)
    assert found["target"].removesuffix(b"?") == (target if target[:1] == b"/" else b"/" + target).removesuffix(b"?")


def chunked_body(data: bytes) -> None:
    """What the decoder takes, httptools takes with the same payload and the same end, however the bytes are cut."""
    whole = decode(data, len(data) or 1)
    for piece in (1, 2, 7):
        assert decode(data, piece)[:2] == whole[:2]
    payload, rest = whole[0], whole[1]
    if payload is None or rest is None:
        return
    if any(name in data.lower() for name in (b"content-length", b"transfer-encoding")):
        return  # httptools refuses these as trailers, here they are dropped
    verdict = Verdict()
    parser = httptools.HttpRequestParser(verdict)
    assert feed(parser, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    body = data[: len(data) - len(rest)]
    assert feed(parser, body[:-1])
    assert not verdict.complete
    assert feed(parser, body[-1:])
    assert (verdict.body, verdict.complete) == (payload, True)


def decode(data: bytes, piece: int) -> tuple[bytes | None, bytes | None]:
    """Payload (None: refused) and what follows the body (None: it is not over)."""
    decoder = ChunkedDecoder()
    payload = b""
    for at in range(0, len(data), piece):
        try:
            out, done, rest = decoder.feed(data[at : at + piece])
        except ValueError:
            return None, None
        payload += out
        if done:
            return payload, rest + data[at + piece :]
    return payload, None
