"""Compressed responses: which are, for whom, and what is said about them."""

from __future__ import annotations

import gzip
import mmap
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import brotli
import pytest
from backports import zstd

from kairos._speedups.cachestore import MIN_BYTES, CacheStore
from kairos._speedups.cells import R_COMPRESSED_IN, R_COMPRESSED_OUT
from kairos.config.policies.compression import Compression
from kairos.proxy.exchange import Exchange, Filter, Handler, Response
from kairos.proxy.filters.compress import Compress, build
from tests.support.gateway import gateway, route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, origin, read_request
from tests.support.ws import header

TEXT = b"All work and no play makes Jack a dull boy. " * 100
READERS = {b"zstd": zstd.decompress, b"gzip": gzip.decompress, b"br": brotli.decompress, None: bytes}
EVERYTHING = "Accept-Encoding: gzip, deflate, br, zstd"


class Says(Handler):
    """Answers what it was told last."""

    def __init__(self) -> None:
        self.says("text/plain")

    def says(self, kind: str | None = None, body: bytes = TEXT, status: int = 200, **fields: str) -> None:
        headers = [(name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()]
        self.response = Response(status, body, [*headers, *([(b"Content-Type", kind.encode())] if kind else [])])

    def handle(self, x: Exchange) -> Response:
        return self.response


class Site:
    """What build() looks at."""

    def __init__(self, **settings: Any) -> None:
        self.policies = self
        self.cache = None
        self.compression = Compression(**settings)


def made(**settings: Any) -> Compress:
    found = build(Site(**settings))  # type: ignore[arg-type]
    assert isinstance(found, Compress)
    return found


class Stage:
    """A handler behind a filter."""

    def __init__(self, gate: InProcess, handler: Says, filter_: Compress) -> None:
        self.gate = gate
        self.handler = handler
        self.filter = filter_

    def get(self, *lines: str, method: str = "GET") -> tuple[bytes, bytes]:
        """Head, and the body decoded by what the head says."""
        data = "\r\n".join([f"{method} /a HTTP/1.1", "Host: test", *lines, "", ""]).encode()
        with self.gate.connect() as peer:
            peer.send(data)
            if method == "HEAD":
                return peer.receive_head(), b""
            head, body = peer.receive_response()
        return head, READERS[header(head, b"content-encoding")](body)


@contextmanager
def stage(**settings: Any) -> Iterator[Stage]:
    handler, filter_ = Says(), made(**settings)
    with in_process(Chain("/a", handler, filter_)) as gate:
        yield Stage(gate, handler, filter_)
        gate.wait(lambda: filter_.streams == 0, "end of all bodies")
        assert gate.reports == []


@pytest.fixture(scope="module")
def plain() -> Iterator[Stage]:
    with stage() as made:
        yield made


def coding(head: bytes) -> bytes | None:
    return header(head, b"content-encoding")


def varies(head: bytes) -> list[bytes]:
    lines = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"vary:")]
    return [item.strip().lower() for line in lines for item in line.split(b",")]


# --- which coding ---


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (["Accept-Encoding: gzip, deflate, br, zstd"], b"zstd"),
        (["Accept-Encoding: gzip, deflate, br"], b"gzip"),
        (["Accept-Encoding: br"], b"br"),
        (["Accept-Encoding: x-gzip"], b"gzip"),
        (["Accept-Encoding: gzip;q=0.5, br;q=0.9"], b"br"),
        (["Accept-Encoding: deflate", "Accept-Encoding: gzip"], b"gzip"),
        (["Accept-Encoding: *"], b"zstd"),
        (["Accept-Encoding: identity"], None),
        (["Accept-Encoding: gzip;q=0"], None),
        (["Accept-Encoding:"], None),
        ([], None),
    ],
)
def test_the_client_chooses(plain: Stage, accept: list[str], expected: bytes | None) -> None:
    plain.handler.says("text/html; charset=utf-8")
    head, body = plain.get(*accept)
    assert coding(head) == expected
    assert body == TEXT
    assert varies(head) == [b"accept-encoding"]
    assert (header(head, b"content-length") == b"%d" % len(TEXT)) == (expected is None)


@pytest.mark.parametrize("accept", ["gzip", "br", "zstd"])
def test_an_http_1_0_client_gets_the_end_of_the_connection_as_the_end(plain: Stage, accept: str) -> None:
    plain.handler.says("text/css")
    with plain.gate.connect() as peer:
        peer.send(f"GET /a HTTP/1.0\r\nHost: test\r\nAccept-Encoding: {accept}\r\n\r\n".encode())
        head, _, body = peer.receive_all().partition(b"\r\n\r\n")
    assert READERS[accept.encode()](body) == TEXT
    assert b"chunked" not in head.lower()


# --- what is compressed ---

YES = ["text/plain", "TEXT/HTML", "application/json", "application/problem+json; charset=utf-8", "image/svg+xml",
       "application/javascript", "font/ttf"]  # fmt: skip
NO = ["image/png", "video/mp4", "application/octet-stream", "application/zip", "font/woff2", "text/event-stream",
      "text/event-stream; charset=utf-8", "textual/plain", "x", ""]  # fmt: skip


@pytest.mark.parametrize("kind", YES)
def test_types_that_are(plain: Stage, kind: str) -> None:
    plain.handler.says(kind)
    assert coding(plain.get(EVERYTHING)[0]) == b"zstd"


@pytest.mark.parametrize("kind", NO)
def test_types_that_are_not_vary_by_nothing(plain: Stage, kind: str) -> None:
    plain.handler.says(kind)
    head, body = plain.get(EVERYTHING)
    assert (coding(head), varies(head), body) == (None, [], TEXT)


@pytest.mark.parametrize(
    "fields",
    [
        {"Content_Encoding": "gzip"},
        {"Content_Encoding": "identity"},
        {"Cache_Control": "max-age=60, no-transform"},
        {"Content_Range": "bytes 0-99/200"},
    ],
)
def test_what_has_its_form_keeps_it(plain: Stage, fields: dict[str, str]) -> None:
    body = gzip.compress(TEXT) if "gzip" in fields.values() else TEXT
    plain.handler.says("text/plain", body, **fields)
    data = f"GET /a HTTP/1.1\r\nHost: test\r\n{EVERYTHING}\r\n\r\n".encode()
    head, received = plain.gate.request(data)
    assert received == body
    assert coding(head) == (fields.get("Content_Encoding") or "").encode() or coding(head) is None
    assert varies(head) == []


def test_a_word_in_a_second_field_counts_too() -> None:
    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: public\r\nCache-Control: no-transform\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(TEXT), TEXT)
        )

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), made())) as gate:
        assert gate.get("/a", EVERYTHING)[1] == TEXT


def test_a_client_that_wants_no_transformation(plain: Stage) -> None:
    plain.handler.says("text/plain")
    assert coding(plain.get(EVERYTHING, "Cache-Control: no-transform")[0]) is None


@pytest.mark.parametrize("status", [206, 204, 304])
def test_statuses_that_are_left_alone(plain: Stage, status: int) -> None:
    plain.handler.says("text/plain", TEXT if status == 206 else b"", status)
    with plain.gate.connect() as peer:
        peer.send(f"GET /a HTTP/1.1\r\nHost: test\r\n{EVERYTHING}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = peer.receive_all().partition(b"\r\n\r\n")
    assert coding(head) is None
    assert body == (TEXT if status == 206 else b"")


def test_small_responses_stay_as_they_are(plain: Stage) -> None:
    plain.handler.says("text/plain", TEXT[:1023])
    assert (coding(plain.get(EVERYTHING)[0]), varies(plain.get(EVERYTHING)[0])) == (None, [])
    plain.handler.says("text/plain", TEXT[:1024])
    assert coding(plain.get(EVERYTHING)[0]) == b"zstd"


def test_small_responses_are_compressed_for_who_refuses_anything_else(plain: Stage) -> None:
    plain.handler.says("text/plain", b"x")
    assert coding(plain.get("Accept-Encoding: gzip, identity;q=0")[0]) == b"gzip"
    plain.handler.says("text/plain", b"")
    assert coding(plain.get("Accept-Encoding: gzip, identity;q=0")[0]) is None


def test_errors_are_compressed_like_anything() -> None:
    class Fails(Handler):
        def handle(self, x: Exchange) -> None:
            x.fail_as("forbidden", "no " * 1000)

    with in_process(Chain("/a", Fails(), made())) as gate:
        head, body = gate.get("/a", "Accept-Encoding: gzip")
    assert head.startswith(b"HTTP/1.1 403 ")
    assert b'"code":"forbidden"' in gzip.decompress(body)


def test_types_by_choice() -> None:
    with stage(types=["application/*", "*/*+xml", "text/csv"]) as s:
        for kind, expected in (("application/x", b"zstd"), ("image/svg+xml", b"zstd"), ("text/csv", b"zstd"),
                               ("text/plain", None)):  # fmt: skip
            s.handler.says(kind)
            assert coding(s.get(EVERYTHING)[0]) == expected


# --- what is said about it ---


def test_vary_is_merged_and_said_once(plain: Stage) -> None:
    for given, expected in (
        ("Origin", [b"origin", b"accept-encoding"]),
        ("Origin, Accept-Encoding", [b"origin", b"accept-encoding"]),
        ("accept-encoding", [b"accept-encoding"]),
        ("*", [b"*"]),
    ):
        plain.handler.says("text/plain", Vary=given)
        assert varies(plain.get(EVERYTHING)[0]) == expected
        assert varies(plain.get()[0]) == expected


def test_another_filters_vary_stands_beside() -> None:
    class Cors(Filter):
        def on_response(self, x: Exchange) -> None:
            x.add_response_header("Vary", b"Origin")

    with in_process(Chain("/a", Says(), made(), Cors())) as gate:
        assert sorted(varies(gate.get("/a", EVERYTHING)[0])) == [b"accept-encoding", b"origin"]


def test_fields_about_the_bytes_as_they_were_are_left_out(plain: Stage) -> None:
    plain.handler.says(
        "text/plain", Accept_Ranges="bytes", Content_MD5="x", Digest="sha-256=x", Content_Digest="x", Repr_Digest="x"
    )
    head, _ = plain.get(EVERYTHING)
    assert b"anges" not in head
    assert b"igest" not in head
    assert b"MD5" not in head
    assert b"anges" in plain.get()[0]


def test_head_has_the_fields_of_get(plain: Stage) -> None:
    plain.handler.says("text/plain", ETag='"v1"')
    got, _ = plain.get(EVERYTHING)
    asked, _ = plain.get(EVERYTHING, method="HEAD")
    drop = (b"x-request-id", b"transfer-encoding")
    lines = [
        [line for line in head.split(b"\r\n") if line.partition(b":")[0].lower() not in drop] for head in (got, asked)
    ]
    assert lines[0] == lines[1]
    assert coding(asked) == b"zstd"
    assert header(asked, b"content-length") is None


def test_a_strong_tag_becomes_weak(plain: Stage) -> None:
    for given, expected in (('"v1"', b'W/"v1"'), ('W/"v1"', b'W/"v1"')):
        plain.handler.says("text/plain", ETag=given)
        assert header(plain.get(EVERYTHING)[0], b"etag") == expected
        assert header(plain.get()[0], b"etag") == given.encode()


def test_a_304_names_the_tag_the_client_has(plain: Stage) -> None:
    plain.handler.says(None, b"", 304, ETag='"v1"')

    def asked(tag: str) -> bytes | None:
        with plain.gate.connect() as peer:
            peer.send(f"GET /a HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\n{EVERYTHING}\r\n\r\n".encode())
            return header(peer.receive_head(), b"etag")

    assert asked('W/"v1"') == b'W/"v1"'
    assert asked('"v1"') == b'"v1"'
    assert asked('W/"v0", W/"v1"') == b'W/"v1"'


# --- marked tags ---


def test_marked_tags_come_back_without_their_mark() -> None:
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        while request := read_request(peer):
            seen.append(request[0])
            head = b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n'
            peer.send(head % len(TEXT) + TEXT)

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), made(etag="suffix"))) as gate:
        head, _ = gate.get("/a", "Accept-Encoding: gzip")
        assert header(head, b"etag") == b'"v1-gzip"'
        gate.get("/a", 'If-Match: "v1-gzip", "v2-zstd", "v3", "v-4"')
        gate.get("/a", 'If-None-Match: "v1-br", W/"v2"')
        gate.get("/a", 'If-Range: "v1-gzip"', "Range: bytes=5-9")
        gate.get("/a", 'If-Range: "v1"', "Range: bytes=5-9")
    assert header(seen[1], b"if-match") == b'"v1", "v2", "v3", "v-4"'
    assert header(seen[2], b"if-none-match") == b'"v1", W/"v2"'
    assert header(seen[3], b"range") is None
    assert header(seen[3], b"if-range") is None
    assert header(seen[4], b"range") == b"bytes=5-9"


def test_a_304_has_the_mark_the_client_sent() -> None:
    with stage(etag="suffix") as s:
        s.handler.says(None, b"", 304, ETag='"v1"')
        for sent, expected in (('"v1-gzip"', b'"v1-gzip"'), ('"v1"', b'"v1"'), ('"x", "v1-zstd"', b'"v1-zstd"')):
            with s.gate.connect() as peer:
                peer.send(f"GET /a HTTP/1.1\r\nHost: t\r\nIf-None-Match: {sent}\r\n{EVERYTHING}\r\n\r\n".encode())
                assert header(peer.receive_head(), b"etag") == expected


# --- streams ---


class Inflater:
    def __init__(self, name: str) -> None:
        made = {"gzip": zlib.decompressobj(31), "zstd": zstd.ZstdDecompressor(), "br": brotli.Decompressor()}[name]
        self.read: Any = made.process if name == "br" else made.decompress  # type: ignore[attr-defined]


def chunk(peer: Peer) -> bytes:
    size = int(peer.receive_until(b"\r\n"), 16)
    return peer.receive_exactly(size + 2)[:-2]


@pytest.mark.parametrize("accept", ["gzip", "zstd", "br"])
@pytest.mark.parametrize("kind", ["text/plain", "text/event-stream"])
def test_a_slow_stream_is_not_stuck_in_the_encoder(accept: str, kind: str) -> None:
    """The origin sends the next line only when the client has the one before."""
    lines = [b"data: line %d\n\n" % number for number in range(20)]

    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % kind.encode())
        for line in lines:
            peer.send(b"%x\r\n%s\r\n" % (len(line), line))
            go_on.acquire(timeout=25)
        peer.send(b"0\r\n\r\n")

    go_on = threading.Semaphore(0)
    with (
        origin(script) as o,
        in_process(Chain("/a", route("/a", o.url), made(event_streams=True))) as gate,
        gate.connect() as peer,
    ):
        peer.send(f"GET /a HTTP/1.1\r\nHost: test\r\nAccept-Encoding: {accept}\r\n\r\n".encode())
        assert coding(peer.receive_head()) == accept.encode()
        inflater = Inflater(accept)
        for line in lines:
            got = b""
            while len(got) < len(line):
                got += inflater.read(chunk(peer))
            assert got == line
            go_on.release()
        while rest := chunk(peer):
            inflater.read(rest)


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
@pytest.mark.parametrize("accept", ["gzip", "zstd", "br"])
def test_large_bodies_pass_in_pieces_whatever_their_framing(framing: str, accept: str) -> None:
    body = TEXT * 300

    def script(peer: Peer) -> None:
        peer.receive_head()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
        if framing == "chunked":
            peer.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(body), 50_000):
                peer.send(b"%x\r\n%s\r\n" % (len(body[at : at + 50_000]), body[at : at + 50_000]))
            peer.send(b"0\r\n\r\n")
        else:
            length = b"Content-Length: %d\r\n" % len(body) if framing == "length" else b"Connection: close\r\n"
            peer.send(head + length + b"\r\n" + body)
            if framing == "close":
                peer.close()

    filter_ = made()
    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), filter_)) as gate:
        head, received = gate.get("/a", f"Accept-Encoding: {accept}")
        assert header(head, b"transfer-encoding") == b"chunked"
        assert READERS[accept.encode()](received) == body
        assert filter_.streams == 0
        gate.wait(lambda: gate.route_cell(R_COMPRESSED_IN) == len(body), "count")
        assert gate.route_cell(R_COMPRESSED_OUT) == len(received)


def begins(then: Callable[[Peer], Any]) -> Callable[[Peer], None]:
    """An origin that sends the beginning of a body."""

    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\n" + TEXT)
        then(peer)

    return script


def asks(gate: InProcess) -> Peer:
    peer = gate.connect()
    peer.send(f"GET /a HTTP/1.1\r\nHost: test\r\n{EVERYTHING}\r\n\r\n".encode())
    return peer


def test_a_body_that_breaks_off_is_cut_for_the_client_too() -> None:
    """Its end must not look like one."""
    filter_ = made()
    with origin(begins(Peer.close)) as o, in_process(Chain("/a", route("/a", o.url), filter_)) as gate:
        with asks(gate) as peer:
            assert not peer.receive_all().endswith(b"0\r\n\r\n")
        gate.wait(lambda: filter_.streams == 0, "end")


def test_a_client_that_leaves_ends_the_encoder() -> None:
    filter_ = made()
    with origin(begins(Peer.receive_all)) as o, in_process(Chain("/a", route("/a", o.url), filter_)) as gate:
        with asks(gate) as peer:
            peer.receive_head()
            assert filter_.streams == 1
        gate.wait(lambda: filter_.streams == 0, "end")


def test_no_more_streams_than_allowed() -> None:
    filter_ = made(max_streams=2)
    with origin(begins(Peer.receive_all)) as o, in_process(Chain("/a", route("/a", o.url), filter_)) as gate:
        peers = []
        for expected in (b"zstd", b"zstd", None):
            peers.append(asks(gate))
            assert coding(peers[-1].receive_head()) == expected
        for peer in peers:
            peer.close()
        gate.wait(lambda: filter_.streams == 0, "end")


def test_answers_in_one_piece_that_would_keep_the_loop_go_out_as_they_are() -> None:
    with stage(codings=["br", "gzip"]) as s:
        for size, accept, expected in ((300_000, "br", None), (300_000, "gzip", b"gzip"), (5_000_000, "gzip", None)):
            s.handler.says("text/plain", b"x" * size)
            head, body = s.get(f"Accept-Encoding: {accept}")
            assert (coding(head), len(body)) == (expected, size)


# --- what a cache answers ---


@pytest.fixture
def store() -> CacheStore:
    return CacheStore(mmap.mmap(-1, MIN_BYTES), 7, True)


def test_what_is_stored_is_compressed_once(store: CacheStore) -> None:
    handler = Says()
    with in_process(Chain("/a", handler, Compress(Compression(), store))) as gate:
        s = Stage(gate, handler, made())
        handler.says("text/plain", Age="3")
        for accept in ("gzip", "zstd", "gzip", "zstd", "br"):
            head, body = s.get(f"Accept-Encoding: {accept}")
            assert (coding(head), body) == (accept.encode(), TEXT)
        kept = store.every_key()
        assert len(kept) == 3
        assert {key.partition(b"\n")[0] for key in kept} == {b"http://test/a"}
        handler.says("text/plain", TEXT + b"!", Age="3")
        assert s.get("Accept-Encoding: gzip")[1] == TEXT + b"!"
        assert len(store.every_key()) == 4
        handler.says("text/plain", TEXT + b"?")  # not from the cache
        assert s.get("Accept-Encoding: gzip")[1] == TEXT + b"?"
        s.get("Accept-Encoding: gzip", method="HEAD")
        assert len(store.every_key()) == 4
        assert store.purge_url(b"http://test/a", 1) == 4


def test_what_was_compressed_before_is_what_goes_out(store: CacheStore) -> None:
    """Whichever worker did it: here the stored form is another one of the same body."""
    handler = Says()
    with in_process(Chain("/a", handler, Compress(Compression(), store))) as gate:
        s = Stage(gate, handler, made())
        handler.says("text/plain", Age="3")
        s.get("Accept-Encoding: gzip")
        (key,) = store.every_key()
        store.put(key, b"%d" % len(TEXT), gzip.compress(TEXT, 9, mtime=1))
        data = b"GET /a HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip\r\n\r\n"
        assert gate.request(data)[1] == gzip.compress(TEXT, 9, mtime=1)


def test_what_is_padded_is_never_stored(store: CacheStore) -> None:
    handler = Says()
    handler.says("text/plain", Age="3")
    with in_process(Chain("/a", handler, Compress(Compression(breach="pad"), store))) as gate:
        Stage(gate, handler, made()).get("Accept-Encoding: gzip")
    assert store.every_key() == []


def test_a_cache_in_front_of_a_backend() -> None:
    def script(peer: Peer) -> None:
        while read_request(peer):
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: max-age=60\r\n"
            peer.send(head + b"Content-Length: %d\r\n\r\n" % len(TEXT) + TEXT)

    with origin(script) as o:
        config = {"routers": [route("/a", o.url)], "compression": {}, "cache": {}}
        with gateway(config) as g:
            for number, accept in enumerate(("gzip", "gzip", "br", "zstd", "gzip")):
                head, body = g.get("/a", Accept_Encoding=accept)
                assert READERS[accept.encode()](body) == TEXT
                assert (header(head, b"age") is not None) == (number > 0)
                assert varies(head) == [b"accept-encoding"]


# --- towards the upstream ---


@pytest.mark.parametrize(("choice", "expected"), [("pass", b"gzip"), ("strip", None)])
def test_accept_encoding_towards_the_upstream(choice: str, expected: bytes | None) -> None:
    seen: list[bytes] = []

    def script(peer: Peer) -> None:
        seen.append(peer.receive_head())
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(TEXT) + TEXT)

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), made(accept_encoding=choice))) as gate:
        head, _ = gate.get("/a", "Accept-Encoding: gzip")
    assert header(seen[0], b"accept-encoding") == expected
    assert coding(head) == b"gzip"


# --- secrets (BREACH) ---


def test_padding_makes_lengths_differ() -> None:
    with stage(breach="pad", codings=["gzip", "zstd", "br"]) as s:
        for accept in ("gzip", "zstd", "br"):
            data = f"GET /a HTTP/1.1\r\nHost: test\r\nAccept-Encoding: {accept}\r\n\r\n".encode()
            bodies = [s.gate.request(data)[1] for _ in range(20)]
            assert {READERS[accept.encode()](body) for body in bodies} == {TEXT}
            assert len({len(body) for body in bodies}) > 3
            # the padding, and the mark of a further flush where the answer came in two pieces
            assert max(map(len, bodies)) - min(map(len, bodies)) <= 64 + 16


@pytest.mark.parametrize(
    ("request_", "response", "expected"),
    [
        ([], {}, b"gzip"),
        (["Cookie: a=b"], {}, None),
        (["Authorization: Basic x"], {}, None),
        (["Cookie: a=b"], {"Cache_Control": "public, max-age=60"}, b"gzip"),
        (["Cookie: a=b"], {"Cache_Control": "s-maxage=60"}, b"gzip"),
        (["Cookie: a=b"], {"Cache_Control": "private"}, None),
        (["Cookie: a=b", "Sec-Fetch-Site: same-origin"], {}, b"gzip"),
        (["Cookie: a=b", "Sec-Fetch-Site: none"], {}, b"gzip"),
        (["Cookie: a=b", "Sec-Fetch-Site: same-site"], {}, None),
        (["Cookie: a=b", "Sec-Fetch-Site: cross-site", "Referer: http://test/"], {}, None),
        (["Cookie: a=b", "Referer: http://test/page"], {}, b"gzip"),
        (["Cookie: a=b", "Referer: http://TEST/page"], {}, b"gzip"),
        (["Cookie: a=b", "Referer: http://test.evil/page"], {}, None),
        (["Cookie: a=b", "Referer: http://evil/http://test/"], {}, None),
        (["Cookie: a=b", "Referer: http://test@evil/"], {}, None),
        (["Cookie: a=b", "Referer: test"], {}, None),
    ],
)
def test_what_another_site_could_guess_is_left_as_it_is(
    request_: list[str], response: dict[str, str], expected: bytes | None
) -> None:
    with stage(breach="avoid") as s:
        s.handler.says("text/html", **response)
        assert coding(s.get("Accept-Encoding: gzip", *request_)[0]) == expected


# --- settings ---


def test_a_route_without_the_policy_has_no_filter() -> None:
    site = Site()
    site.compression = None  # type: ignore[assignment]
    assert build(site) is None  # type: ignore[arg-type]


def test_only_what_asks_looks_at_requests() -> None:
    assert type(made()) is Compress
    assert type(made(accept_encoding="strip")) is not Compress


@pytest.mark.parametrize("count", [1000])
def test_what_is_remembered_is_bounded(plain: Stage, count: int) -> None:
    with plain.gate.connect() as peer:
        for number in range(count):
            plain.handler.says(f"text/x{number}")
            peer.send(f"GET /a HTTP/1.1\r\nHost: test\r\nAccept-Encoding: gzip;q=0.{number:03}\r\n\r\n".encode())
            assert coding(peer.receive_response()[0]) == (b"gzip" if number else None)
