r"""Requests in corpus/*.http: anyone can add a file.

A file holds one request (or what a client sends on one connection). Its first lines, each with a `#`, say what must
come of it:

    # why: one line
    # status: 400            of the only response
    # code: bad_length       row of the error table, for answers of the gateway's own
    # close: yes             the gateway ends the connection after it (default: no; then it serves one more request)
    # origin: 0              complete requests the origin sees (default: 0 with close, else 1)
    # sees: GET /echo        bytes that the head at the origin has ...
    # hides: X-Real-IP       ... or has not, case ignored; body: and its exact body

Then come the bytes: `\r`, `\n`, `\t`, `\\` and `\xNN` are escapes; the line breaks of the file itself are not sent.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.robust.conftest import Site, ask, assert_error, send_all
from tests.support.net import status_of

FOLDER = Path(__file__).parent / "corpus"
ESCAPES = {b"r": b"\r", b"n": b"\n", b"t": b"\t", b"\\": b"\\"}
FEEDS = {"whole": lambda data: len(data), "halves": lambda data: len(data) // 2 + 1, "bytes": lambda data: 1}
KEYS = {"why", "status", "code", "close", "origin", "sees", "hides", "body"}


def unescape(text: bytes) -> bytes:
    def byte(match: re.Match[bytes]) -> bytes:
        return ESCAPES[match[1]] if match[1] else bytes.fromhex(match[2].decode())

    return re.sub(rb"\\(?:([rnt\\])|x([0-9a-f]{2}))", byte, text.replace(b"\n", b""))


class Case:
    """A file of the corpus."""

    def __init__(self, path: Path) -> None:
        lines = path.read_bytes().splitlines(keepends=True)
        count = next(i for i, line in enumerate(lines) if not line.startswith(b"# "))
        self.notes: dict[str, list[bytes]] = {}
        for line in lines[:count]:
            key, _, value = line[2:].strip().partition(b": ")
            assert key.decode() in KEYS, f"{path.name}: unknown note {key!r}"
            self.notes.setdefault(key.decode(), []).append(unescape(value))
        self.data = unescape(b"".join(lines[count:]))
        self.status = int(self.notes["status"][0])
        self.closes = self.notes.get("close") == [b"yes"]
        self.origin = int(self.notes.get("origin", [b"0" if self.closes else b"1"])[0])


@pytest.mark.parametrize("feed", FEEDS)
@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.http")))
def test_corpus(site: Site, name: str, feed: str) -> None:
    case = Case(FOLDER / name)
    with site.connect() as bystander, site.connect() as peer:
        send_all(peer, case.data, FEEDS[feed](case.data))
        if case.closes:
            response = peer.receive_all()
            assert b"\r\nConnection: close\r\n" in response
        else:
            response = b"".join(peer.receive_response())
            assert status_of(ask(peer, "/echo/again")) == 200
        assert response.count(b"HTTP/1.1 ") == 1, "one request has one answer"
        assert status_of(ask(bystander, "/echo/bystander")) == 200
    if "code" in case.notes:
        assert_error(response, case.status, case.notes["code"][0].decode())
    assert status_of(response) == case.status, response
    seen = [
        (head, body)
        for head, body in site.recorder.seen
        if not head.startswith((b"GET /echo/again ", b"GET /echo/bystander "))
    ]
    assert len(seen) == case.origin, seen
    for head, body in seen:
        check(case, head.lower(), body)


def check(case: Case, head: bytes, body: bytes) -> None:
    for wanted in case.notes.get("sees", ()):
        assert wanted.lower() in head, head
    for unwanted in case.notes.get("hides", ()):
        assert unwanted.lower() not in head, head
    if "body" in case.notes:
        assert body == case.notes["body"][0]
