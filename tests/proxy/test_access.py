"""Who may use a route by the address asking: lists, files, bans, and what is told of them."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kairos._speedups.cells import W_ACCESS_DENIED, W_BANNED, W_BANS
from kairos.config.problems import ConfigError
from kairos.proxy.filters import access
from tests.support.gateway import gateway, route
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import Peer, connect, origin, status_of

TRUSTING = {"trusted_proxies": ["127.0.0.1"]}


def answers_as_asked(peer: Peer) -> None:
    """An origin that answers /404 with 404."""
    with contextlib.suppress(EOFError):
        while True:
            status = peer.receive_head().split(b" ")[1].rpartition(b"/")[2].decode()
            peer.send(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(answers_as_asked) as o:
        yield o.url


def document(url: str, access: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"routers": [route("/{status}", url, access=access)], **TRUSTING, **more}


def ask(served: InProcess, address: str, status: int = 200) -> int:
    """The status that a client at the address gets for /status."""
    return status_of(served.get(f"/{status}", f"X-Forwarded-For: {address}")[0])


def code_of(served: InProcess, address: str) -> str:
    return str(json.loads(served.get("/200", f"X-Forwarded-For: {address}")[1])["code"])


def cell(served: InProcess, number: int) -> int:
    return served.board.page.get(served.board.worker_block(0) + number)


# --- lists -----------------------------------------------------------------------------------------------------------

BOTH = {"allow": ["10.0.0.0/8", "2001:db8::/32", "10.1.2.3"], "deny": ["10.1.0.0/16", "2001:db8:bad::/48"]}


@pytest.mark.parametrize(
    ("lists", "allowed", "denied"),
    [
        (
            BOTH,
            ["10.0.0.1", "10.1.2.3", "2001:db8::1", "::ffff:10.0.0.1"],
            ["10.1.2.4", "2001:db8:bad::1", "192.0.2.1"],
        ),
        ({"deny": ["10.0.0.0/8"]}, ["192.0.2.1", "2001:db8::1"], ["10.0.0.1", "::ffff:10.9.9.9"]),
        ({"allow": ["10.0.0.0/8"], "deny": ["10.0.0.0/8"]}, [], ["10.0.0.1", "192.0.2.1"]),
        ({"deny": ["10.0.0.0/8"], "allow": ["10.0.0.1"], "default": "allow"}, ["10.0.0.1", "192.0.2.1"], ["10.0.0.2"]),
        ({"allow": ["0.0.0.0/0"]}, ["192.0.2.1"], ["2001:db8::1"]),
        ({"deny": ["::/0"]}, ["192.0.2.1"], ["2001:db8::1"]),
    ],
)
def test_the_most_specific_network_counts(
    backend: str, lists: dict[str, Any], allowed: list[str], denied: list[str]
) -> None:
    with serving(document(backend, lists)) as served:
        assert {address: ask(served, address) for address in allowed} == dict.fromkeys(allowed, 200)
        assert {address: ask(served, address) for address in denied} == dict.fromkeys(denied, 403)
        assert cell(served, W_ACCESS_DENIED) == len(denied)


def test_a_refusal_is_told_and_logged(backend: str) -> None:
    with serving(document(backend, {"deny": ["10.0.0.0/8"]})) as served:
        assert code_of(served, "10.0.0.1") == "access_denied"
        line = served.wait_access(status=403)
        assert (line["client"], line["detail"]) == ("10.0.0.1", "access_denied")


def test_a_client_cannot_choose_its_address(backend: str) -> None:
    """Only a trusted proxy says who asks, and only what it added itself counts."""
    lists = {"allow": ["10.0.0.1"], "deny": ["127.0.0.0/8"]}
    with serving(document(backend, lists)) as served:
        assert ask(served, "10.0.0.1, 192.0.2.1") == 403
        assert ask(served, "10.0.0.1, nonsense") == 403
        assert ask(served, "") == 403
    untrusting = {**document(backend, lists), "trusted_proxies": []}
    with serving(untrusting) as served:
        assert ask(served, "10.0.0.1") == 403


def test_a_client_without_an_address_is_in_no_list(backend: str, tmp_path: Path) -> None:
    """One on a unix socket: passes where everybody does, and not where only some may."""
    everywhere = ["0.0.0.0/0", "::/0"]
    routers = [
        route("/a/{status}", backend, "/{status}", access={"deny": everywhere, "ban": {"failures": 1}}),
        route("/b/{status}", backend, "/{status}", access={"allow": everywhere}),
    ]
    path = str(tmp_path / "s")
    with gateway({"routers": routers, "server": {"unix": path}}), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        peer = Peer(sock)
        for target, status in (("/a/401", 401), ("/a/200", 200), ("/b/200", 403)):
            peer.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert status_of(peer.receive_response()[0]) == status


def test_files_are_read_again_at_a_reload(backend: str, tmp_path: Path) -> None:
    listed = tmp_path / "deny.txt"
    listed.write_text("# scanners\n10.0.0.0/8 ; all of it\n\n  2001:db8::/32\n")
    config = document(backend, {"deny_files": [str(listed)], "deny": ["192.0.2.7"]})
    with serving(config) as served:
        assert [ask(served, a) for a in ("10.0.0.1", "2001:db8::1", "192.0.2.7", "11.0.0.1")] == [403, 403, 403, 200]
        listed.write_text("11.0.0.0/8\n")
        served.configure(config)
        assert [ask(served, a) for a in ("10.0.0.1", "2001:db8::1", "192.0.2.7", "11.0.0.1")] == [200, 200, 403, 403]


# --- bans ------------------------------------------------------------------------------------------------------------


def banning(**changes: Any) -> dict[str, Any]:
    return {"ban": {"failures": 3, **changes}}


def test_who_fails_too_often_is_refused(backend: str) -> None:
    with serving(document(backend, banning())) as served:
        assert [ask(served, "192.0.2.1", status) for status in (401, 200, 404, 403, 500, 429, 200, 401)] == [
            401, 200, 404, 403, 500, 429, 403, 403,
        ]  # fmt: skip
        assert code_of(served, "192.0.2.1") == "banned"
        assert ask(served, "192.0.2.2") == 200
        assert (cell(served, W_BANS), cell(served, W_BANNED)) == (1, 3)
        assert served.wait_access(detail="banned")["client"] == "192.0.2.1"


def test_a_ban_is_told_to_the_operator(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []

    class Log:
        def warning(self, event: str, **members: Any) -> None:
            told.append({"event": event, **members})

    monkeypatch.setattr(access, "_log", Log())
    with serving(document(backend, banning(name="login", time=90))) as served:
        for _ in range(5):
            ask(served, "192.0.2.1", 401)
    assert told == [
        {
            "event": "address banned",
            "address": "192.0.2.1",
            "seconds": 90,
            "status": 401,
            "route": "/{status}",
            "jail": "login",
        }
    ]


def test_it_may_say_how_long(backend: str) -> None:
    with serving(document(backend, banning(retry_after=True, failures=1, time=90))) as served:
        assert ask(served, "192.0.2.1", 401) == 401
        head, body = served.get("/200", "X-Forwarded-For: 192.0.2.1")
        assert status_of(head) == 429
        assert json.loads(body)["code"] == "banned_for_now"
        assert 80 < int(head.lower().split(b"retry-after: ")[1].split(b"\r\n")[0]) <= 90


def test_statuses_and_exemptions_are_a_matter_of_choice(backend: str) -> None:
    with serving(document(backend, banning(failures=1, statuses=[404], exempt=["10.0.0.0/8"]))) as served:
        assert [ask(served, "192.0.2.1", status) for status in (401, 403, 404, 200)] == [401, 403, 404, 403]
        assert [ask(served, "10.0.0.1", status) for status in (404, 404, 200)] == [404, 404, 200]


def test_what_a_list_refuses_is_no_failure(backend: str) -> None:
    with serving(document(backend, {"deny": ["192.0.2.1"], **banning(failures=1)})) as served:
        assert [ask(served, "192.0.2.1") for _ in range(3)] == [403, 403, 403]
        assert cell(served, W_BANS) == 0


def test_an_ipv6_subscriber_is_one_client(backend: str) -> None:
    with serving(document(backend, banning())) as served:
        for address in ("2001:db8::1", "2001:db8::2", "2001:db8::ffff:3"):
            assert ask(served, address, 401) == 401
        assert ask(served, "2001:db8::4") == 403
        assert ask(served, "2001:db8:0:1::4") == 200


def test_jails(backend: str) -> None:
    """Bans of one name hold on all its routes, and on no others."""
    routers = [
        route("/a/{status}", backend, "/{status}", access=banning(failures=1)),
        route("/b/{status}", backend, "/{status}", access=banning(failures=1)),
        route("/c/{status}", backend, "/{status}", access=banning(failures=1, name="other")),
        route("/d/{status}", backend, "/{status}"),
    ]
    with serving({"routers": routers, **TRUSTING}) as served:
        assert status_of(served.get("/a/401", "X-Forwarded-For: 192.0.2.1")[0]) == 401
        heads = [served.get(f"/{name}/200", "X-Forwarded-For: 192.0.2.1")[0] for name in "abcd"]
        assert [status_of(head) for head in heads] == [403, 403, 200, 200]


def test_a_ban_survives_a_reload_and_an_exemption_ends_it(backend: str) -> None:
    with serving(document(backend, banning(failures=1))) as served:
        assert ask(served, "192.0.2.1", 401) == 401
        served.configure(document(backend, banning(failures=2, time=60)))
        assert ask(served, "192.0.2.1") == 403
        served.configure(document(backend, banning(exempt=["192.0.2.0/24"])))
        assert ask(served, "192.0.2.1") == 200


def test_workers_share_their_bans(backend: str) -> None:
    """Each failure on a connection of its own, wherever the kernel puts it: the ninth is refused everywhere."""
    with gateway(document(backend, {"ban": {"failures": 8}}), workers=2) as g:

        def one(path: str) -> int:
            with connect(g.port) as peer:
                peer.send(f"GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n".encode())
                return status_of(peer.receive_response()[0])

        assert [one("/401") for _ in range(8)] == [401] * 8
        g.wait(lambda: "\nkairos_bans_total 1.0\n" in g.metrics(), "ban")
        assert [one("/200") for _ in range(20)] == [403] * 20
        g.wait_log("address banned")
        g.wait(lambda: "\nkairos_banned_requests_total 20.0\n" in g.metrics(), "refusals counted")


def test_off_costs_nothing(backend: str) -> None:
    for settings in ({"enabled": False, "deny": ["0.0.0.0/0"]}, {"ban": {"enabled": False}}, {}):
        with serving(document(backend, settings)) as served:
            assert served.plan.request_filters == ()
            assert served.plan.finish_filters == ()
    with serving(document(backend, {"deny": ["10.0.0.0/8"]})) as served:
        assert served.plan.finish_filters == ()


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allow": ["10.0.0.0/33"]}, r"access\.allow\[0\]: '10.0.0.0/33' is no network"),
        ({"deny": ["1.2.3.4", "10.0.0.1/8"]}, r"access\.deny\[1\]: '10.0.0.1/8' has bits set .* write 10.0.0.0/8"),
        ({"deny_files": ["/none"]}, r"access\.deny_files\[0\]: cannot read networks from /none: No such file"),
        ({"ban": {"exempt": ["x"]}}, r"access\.ban\.exempt\[0\]: 'x' is no network"),
        ({"ban": {"time": 600, "max_time": 60}}, r"access\.ban\.max_time: is less than a first ban lasts \(600\)"),
        ({"ban": {"statuses": []}}, r"access\.ban\.statuses"),
        ({"ban": {"statuses": [200]}}, r"access\.ban\.statuses\[0\]"),
        ({"ban": {"failures": 0}}, r"access\.ban\.failures"),
        ({"ban": {"window": 0.5}}, r"access\.ban\.window"),
        ({"denny": []}, r"did you mean 'deny'"),
    ],
)
def test_mistakes_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(document("http://127.0.0.1:1", settings))


@pytest.mark.parametrize("line", ["10.0.0.0/33", "example.com", "10.0.0.1 10.0.0.2", "\x00"])
def test_a_bad_line_of_a_file_is_told(tmp_path: Path, line: str) -> None:
    listed = tmp_path / "list"
    listed.write_text(f"10.0.0.1\n# fine\n{line}\n")
    with pytest.raises(ConfigError, match=r"access\.allow_files\[0\]: cannot read networks from .*: line 3: '"):
        checked(document("http://127.0.0.1:1", {"allow_files": [str(listed)]}))


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    tmp_path.joinpath("list").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="utf-8"):
        checked(document("http://127.0.0.1:1", {"allow_files": [str(tmp_path / "list")]}))
