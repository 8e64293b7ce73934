"""Edits of header fields: which one counts, what is refused, what is joined once. Branches of plans, taps of bodies."""

from __future__ import annotations

from typing import Any

import pytest

from kairos.proxy.edits import Edits, addition, edit, edit_lines, edited_values
from kairos.proxy.exchange import Exchange, Filter
from kairos.proxy.fields import REQUEST_OWN
from tests.support.gateway import route
from tests.support.inprocess import Chain, in_process
from tests.support.net import echo, origin

NONE: frozenset[bytes] = frozenset()


def put(name: str, value: str | bytes | None):
    return edit(name, value, NONE)


def add(name: str, value: str):
    return addition(name, value, NONE)


@pytest.mark.parametrize(
    ("edits", "names", "lines"),
    [
        ([put("X-A", "1")], b"x-a", b"X-A: 1\r\n"),
        ([put("X-A", None)], b"x-a", b""),
        ([put("X-A", "1"), put("x-a", "2")], b"x-a", b"x-a: 2\r\n"),
        ([add("X-A", "1"), add("X-A", "2")], b"", b"X-A: 1\r\nX-A: 2\r\n"),
        ([put("X-A", "1"), add("X-A", "2")], b"x-a", b"X-A: 1\r\nX-A: 2\r\n"),
        ([add("X-A", "1"), put("X-A", "2")], b"x-a", b"X-A: 2\r\n"),
        ([Edits([put("X-A", "1"), put("X-B", "2")])], b"x-a,x-b", b"X-A: 1\r\nX-B: 2\r\n"),
        ([Edits([put("X-A", "1")]), Edits([put("X-A", None)])], b"x-a", b""),
        ([Edits([put("X-A", "1")]), put("X-C", "3"), Edits([put("X-A", "4")])], b"x-a,x-c", b"X-A: 4\r\nX-C: 3\r\n"),
    ],
)
def test_the_last_edit_of_a_name_counts(edits, names, lines):
    for _ in range(2):  # the second time as it was remembered
        assert edit_lines(list(edits)) == (names, lines)


def test_values_are_told_after_edits():
    edits: list[Any] = [Edits([put("X-A", "1"), add("x-a", "2")]), put("X-B", "3")]
    assert edited_values(edits, b"x-a", [b"0"]) == [b"1", b"2"]
    assert edited_values(edits, b"x-c", [b"0"]) == [b"0"]
    assert edited_values([put("X-C", None)], b"x-c", [b"0"]) == []
    assert edited_values(None, b"x-c", [b"0"]) == [b"0"]


@pytest.mark.parametrize("name", ["", "X A", "X:A", "X\r\nA", "é", "X\0"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(ValueError, match="not a header name"):
        put(name, "1")


@pytest.mark.parametrize("value", ["a\rb", "a\nb", b"a\0b", "\n"])
def test_what_would_break_a_head_is_refused(value):
    with pytest.raises(ValueError, match="line break or NUL"):
        put("X-A", value)


def test_fields_of_the_gateway_are_refused():
    with pytest.raises(ValueError, match="written by the gateway itself"):
        edit("hOsT", "evil", REQUEST_OWN)


class Teller(Filter):
    """Edits, and tells what is sent."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.prepared = Edits([put("X-A", "1"), put("X-B", None)])

    def on_request(self, x: Exchange) -> None:
        x.add_request_edits(self.prepared)
        x.set_request_header("X-C", "3")
        x.tap_body(5)
        self.seen += [x.upstream_header(b"x-a"), x.upstream_values(b"x-b"), x.upstream_values(b"x-d")]
        self.seen.append([name for name, _ in x.upstream_headers])

    def on_response(self, x: Exchange) -> None:
        x.add_response_edits(self.prepared)
        x.add_response_header("X-A", "2")
        self.seen.append(x.shown_values(b"x-a"))

    def on_finish(self, x: Exchange) -> None:
        self.seen.append(x.tapped_body)


@pytest.mark.parametrize(("body", "tapped"), [("12345", b"12345"), ("123456", None)])
def test_a_filter_edits_with_what_it_made_at_load(body: str, tapped: bytes | None):
    teller = Teller()
    lines = ["X-A: 0", "X-B: 2", "X-D: 4", "X-D: 5", f"Content-Length: {len(body)}"]
    request = "\r\n".join(["POST /x HTTP/1.1", "Host: h", *lines, "", body]).encode()
    with origin(echo) as o, in_process(Chain("/x", route("/x", o.url), teller)) as gate:
        head, seen = gate.request(request)
        gate.wait(lambda: len(teller.seen) == 6, "end")
    sent = [line for line in seen.split(b"\r\n") if line[:2] == b"X-" and line[3:4] == b":"]
    assert sent == [b"X-D: 4", b"X-D: 5", b"X-A: 1", b"X-C: 3"]
    assert b"X-A: 1\r\nX-A: 2\r\n" in head
    names = [b"Host", b"X-D", b"X-D", b"Content-Length", b"X-A", b"X-C"]
    assert teller.seen == [b"1", [], [b"4", b"5"], names, [b"1", b"2"], tapped]


@pytest.mark.parametrize("pieces", [(b"hello",), (b"he", b"l", b"lo")])
def test_a_tap_sees_the_body_however_it_comes(pieces: tuple[bytes, ...]):
    teller = Teller()
    with origin(echo) as o, in_process(Chain("/x", route("/x", o.url), teller)) as gate, gate.connect() as peer:
        peer.send(b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in pieces:
            peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        peer.send(b"0\r\n\r\n")
        peer.receive_response()
        gate.wait(lambda: len(teller.seen) == 6, "end")
    assert teller.seen[-1] == b"hello"


def test_a_plan_goes_on_as_one_of_its_branches_only():
    class Switch(Filter):
        def on_request(self, x: Exchange) -> None:
            x.switch_plan(
                x.plan.branches["other"] if x.header(b"x-to") == b"branch" else gate.runtime.snapshot.routed[1]
            )

    switch = Switch()
    with (
        origin(echo) as o,
        in_process(
            Chain("/x", route("/x", o.url), switch),
            Chain("/y", route("/y", o.url, "/branch")),
            Chain("/z", route("/z", o.url)),
        ) as gate,
    ):
        plan, branch = gate.runtime.snapshot.routed[:2]
        snapshot = gate.runtime.snapshot
        plan.branches["other"] = snapshot._plan("/y", branch.route, branch.handler, [switch], snapshot.config.timeouts)
        assert gate.get("/x", "X-To: branch")[1].startswith(b"GET /branch HTTP/1.1\r\n")
        assert gate.get("/x")[0].startswith(b"HTTP/1.1 500 ")
        assert "is no branch of /x" in str(gate.reports.pop())
