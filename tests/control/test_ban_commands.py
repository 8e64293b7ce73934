"""Bans as operators see them: listed, lifted; and lists of networks that change beside the configuration."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from kairos._speedups.bans import Bans as Table
from kairos._speedups.bans import rule
from kairos._speedups.cells import BAN_CELLS
from kairos.cli.manage import main
from kairos.control.bans import Bans
from kairos.scoreboard import Scoreboard
from tests.support.gateway import Gateway, gateway, route
from tests.support.inprocess import checked
from tests.support.net import Peer, origin, status_of


def answers_as_asked(peer: Peer) -> None:
    """An origin that answers /404 with 404."""
    with contextlib.suppress(EOFError):
        while True:
            status = peer.receive_head().split(b" ")[1].rpartition(b"/")[2].decode()
            peer.send(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.fixture(scope="module")
def banning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Path]]:
    denied = tmp_path_factory.mktemp("lists") / "deny.txt"
    denied.write_text("198.51.100.0/24\n")
    access = {"deny_files": [str(denied)], "ban": {"failures": 1, "name": "login", "time": 600}}
    with origin(answers_as_asked) as o:
        routers = [route("/{status}", o.url, access=access)]
        config = {"routers": routers, "trusted_proxies": ["127.0.0.1"], "server": {"watch": True}}
        with gateway(config) as g:
            yield g, denied


def ask(g: Gateway, address: str, status: int = 200) -> int:
    return status_of(g.get(f"/{status}", X_Forwarded_For=address)[0])


def test_bans_are_listed_and_lifted(banning: tuple[Gateway, Path]) -> None:
    g, _ = banning
    assert g.admin("GET", "/api/bans") == (200, [])
    assert [ask(g, address, 401) for address in ("192.0.2.1", "2001:db8::7")] == [401, 401]
    g.wait(lambda: len(g.admin("GET", "/api/bans")[1]) == 2, "bans")
    bans = {ban["address"]: ban for ban in g.admin("GET", "/api/bans")[1]}
    assert bans.keys() == {"192.0.2.1", "2001:db8::/64"}
    assert {(ban["jail"], ban["offences"]) for ban in bans.values()} == {("login", 1)}
    assert all(590 < ban["seconds"] <= 600 for ban in bans.values())
    assert ask(g, "192.0.2.1") == 403
    assert g.admin("DELETE", "/api/bans/192.0.2.1") == (200, {"address": "192.0.2.1", "bans": 1})
    assert ask(g, "192.0.2.1") == 200
    assert g.admin("DELETE", "/api/bans/192.0.2.1")[0] == 404
    assert g.admin("DELETE", "/api/bans/nobody")[0] == 422
    assert g.admin("DELETE", "/api/bans/2001%3Adb8%3A%3A%2F64")[0] == 200
    assert ask(g, "2001:db8::8") == 200


def test_the_verbs(banning: tuple[Gateway, Path]) -> None:
    g, _ = banning
    assert ask(g, "192.0.2.9", 401) == 401
    g.wait(lambda: "192.0.2.9" in kairos(g, "bans"), "ban")
    assert "login" in kairos(g, "bans", "list")
    assert kairos(g, "bans", "lift", "192.0.2.9") == "192.0.2.9 is let in again\n"
    assert "192.0.2.9 is not banned" in kairos(g, "bans", "lift", "192.0.2.9", code=1)


def kairos(g: Gateway, *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, [*arguments, "--state-dir", str(g.state_dir)])
    assert done.exit_code == code, done.output
    return done.output


def test_a_list_that_changes_is_read_again(banning: tuple[Gateway, Path]) -> None:
    g, denied = banning
    assert [ask(g, address) for address in ("198.51.100.1", "203.0.113.1")] == [403, 200]
    denied.write_text("203.0.113.0/24\n")
    g.wait(lambda: [ask(g, address) for address in ("198.51.100.1", "203.0.113.1")] == [200, 403], "reload")


def test_a_jail_that_is_in_no_configuration_any_more() -> None:
    board = Scoreboard.create(workers=1, routes=1, pairs=1, upstreams=1)
    made = rule(1, 1_000_000, 3_600_000_000, 3_600_000_000, 1, 0)
    address = bytes(10) + b"\xff\xff\xc0\x00\x02\x01"
    for name in ("old", "new"):
        table = Table(board.page, board.bans, BAN_CELLS, made, name, board.seed)
        assert table.failed(address, time.monotonic_ns() // 1000)
    bans = Bans(board)
    bans.apply(checked({"routers": [route("/", "http://127.0.0.1:1", access={"ban": {"name": "new"}})]}))
    assert sorted((ban.address, ban.jail) for ban in bans.list()) == [("192.0.2.1", ""), ("192.0.2.1", "new")]
    assert bans.lift("192.0.2.1") == 2
    assert bans.list() == []
