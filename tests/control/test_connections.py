"""Client connections of a gateway with two workers: listed, filtered, closed; and workers that do not answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from kairos._speedups import cells
from kairos.channel import ChannelError
from kairos.cli.manage import main
from kairos.client import Client, InvalidError, NotFoundError, Target
from kairos.control.connections import ClientConnections, NoConnectionError, NoWorkerError, SilentError
from kairos.inquiry import Found, Receiver, Wanted, encode, line_of
from kairos.scoreboard import Capacity, Scoreboard
from kairos.supervisor.sockets import listen_unix
from tests.support.gateway import Gateway, gateway, route
from tests.support.net import Peer, connect, free_port, origin, read_request, status_of
from tests.support.tls import Authority, client_context, connect_tls
from tests.support.ws import echo_frames, frame, open_websocket, read_frame, switching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SLOW, EVENTS, SOCKETS, FAST = "/slow", "/events", "/ws", "/fast"


class Origin:
    """Answers /fast at once, /slow when it is let go, /events with the beginning of a stream, /ws with a tunnel."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, peer: Peer) -> None:
        while True:
            head, _ = read_request(peer)
            path = head.split(b" ", 2)[1].decode()
            if path.startswith(SOCKETS):
                peer.send(switching(head))
                return echo_frames(peer)
            if path.startswith(EVENTS):
                peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: one\n\n")
                return self._until_left(peer)
            if path.startswith(SLOW):
                self.go.wait(20)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def _until_left(self, peer: Peer) -> None:
        peer.receive_all()


@pytest.fixture(scope="module")
def behind() -> Origin:
    return Origin()


@pytest.fixture(scope="module")
def g(behind: Origin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    tls_port = free_port()
    server = {"tls": {"port": tls_port, "certificates": [{"cert_file": authority.file("shop.test")}]}}
    with origin(behind) as o:
        paths = (route(SLOW, o.url), route(FAST, o.url), route(EVENTS, o.url), route(SOCKETS, o.url, upgrade=True))
        admin = {"port": free_port()}
        with gateway({"server": server, "admin": admin, "routers": list(paths)}, workers=2) as made:
            made.tls_port, made.authority = tls_port, authority  # type: ignore[attr-defined]
            made.admin_url = f"http://127.0.0.1:{admin['port']}"  # type: ignore[attr-defined]
            yield made
        behind.go.set()


@pytest.fixture(scope="module")
def client(g: Gateway) -> Iterator[Client]:
    with Client(target=Target.local(str(g.state_dir))) as made:
        yield made


@pytest.fixture
def peers(g: Gateway, client: Client) -> Iterator[Callable[..., Peer]]:
    """Makes connections; none of them is left behind."""
    made: list[Peer] = []

    def make(path: str = "", query: str = "") -> Peer:
        made.append(connect(g.port))
        if path:
            made[-1].send(f"GET {path}{query} HTTP/1.1\r\nHost: shop.test\r\nX-Request-Id: of{path}\r\n\r\n".encode())
        return made[-1]

    make.keep = made.append  # type: ignore[attr-defined]
    yield make
    for peer in made:
        peer.close()
    g.wait(lambda: client.list_connections().connections == 0, "end of all connections")


def only(g: Gateway, client: Client, **which: Any) -> Any:
    """The one connection that fits, once there is one."""
    g.wait(lambda: client.list_connections(**which).matched == 1, f"connection {which}")
    (found,) = client.list_connections(**which).found
    return found


def test_one_that_idles(g: Gateway, client: Client, peers: Any) -> None:
    peer = peers(FAST, "?token=secret")
    assert peer.receive_response()[1] == b"ok"
    found = only(g, client, state=["idle"])
    host, port = peer.sock.getsockname()
    assert (found.client, found.peer, found.listener) == (host, f"{host}:{port}", f"127.0.0.1:{g.port}")
    assert (found.protocol, found.requests, found.request, found.tls, found.through) == ("http", 1, None, None, None)
    assert found.bytes_received > 60
    assert found.bytes_sent > 40
    assert 0 <= found.idle <= found.age < 60
    assert found.id.startswith(f"{found.worker}-{g.child(f'kairos-worker{found.worker}')}-")


def test_a_request_under_way(g: Gateway, client: Client, peers: Any) -> None:
    peers(SLOW, "?token=secret")
    found = only(g, client, route=SLOW, state=["waiting"])
    under_way = found.request
    assert (under_way.method, under_way.host, under_way.path) == ("GET", "shop.test", SLOW)
    assert (under_way.route, under_way.waits_for, under_way.status, under_way.attempts) == (SLOW, "response", None, 1)
    assert under_way.id == "of/slow"
    assert under_way.backend.startswith("http://127.0.0.1:")
    assert b"secret" not in json.dumps(g.admin("GET", "/api/connections")[1]).encode()
    assert client.list_connections(backend=under_way.backend).matched == 1
    assert client.list_connections(backend="http://elsewhere:1").matched == 0
    assert client.list_connections(min_request=3600).matched == 0


def test_tunnels_and_event_streams(g: Gateway, client: Client, peers: Any) -> None:
    tunnel, _ = open_websocket(g.port, SOCKETS)
    peers.keep(tunnel)
    tunnel.send(frame(b"x" * 100))
    assert read_frame(tunnel).payload == b"x" * 100
    stream = peers(EVENTS)
    assert b"data: one" in stream.receive_until(b"\n\n")
    found = only(g, client, protocol="websocket")
    assert (found.state, found.request.status, found.request.path) == ("tunnel", 101, SOCKETS)
    assert found.request.bytes_in > 100  # counted by the thread that moves them
    assert found.request.bytes_out > 100
    found = only(g, client, protocol="sse")
    assert (found.state, found.request.status) == ("streaming", 200)
    assert client.list_connections(state=["tunnel", "streaming"]).states == {"tunnel": 1, "streaming": 1}


def test_over_tls(g: Any, client: Client, peers: Any) -> None:
    peers.keep(connect_tls(g.tls_port, client_context(g.authority)))
    found = only(g, client, port=g.tls_port, state=["idle"])
    assert (found.tls.version, found.tls.server_name, found.tls.resumed) == ("TLSv1.3", "shop.test", False)
    assert found.tls.cipher.startswith("TLS_")
    assert found.tls.client_certificate is False
    silent = connect(g.tls_port)
    peers.keep(silent)
    assert only(g, client, state=["handshake"]).tls.version is None


def test_what_fits_is_counted_and_the_first_are_shown(g: Gateway, client: Client, peers: Any) -> None:
    made = [peers() for _ in range(6)]
    g.wait(lambda: client.list_connections().connections == 6, "the connections")
    made.append(peers())  # the newest, whichever worker is quicker
    g.wait(lambda: client.list_connections().connections == 7, "the connections")
    answer = client.list_connections(limit=3)
    assert (answer.matched, len(answer.found), answer.cut, answer.complete) == (7, 3, True, True)
    assert answer.states == {"idle": 7}
    assert [one.age for one in answer.found] == sorted((one.age for one in answer.found), reverse=True)
    newest = client.list_connections(sort="newest", limit=1).found[0]
    assert newest.peer == f"127.0.0.1:{made[-1].sock.getsockname()[1]}"
    assert {worker.slot: worker.connections for worker in answer.workers}.keys() == {0, 1}
    assert sum(worker.matched for worker in answer.workers) == 7
    by_worker = [client.list_connections(worker=slot).matched for slot in (0, 1)]
    assert by_worker == [worker.connections for worker in answer.workers]
    counted = client.list_connections(limit=0)
    assert (counted.matched, counted.found, counted.cut) == (7, [], True)


@pytest.mark.parametrize(
    ("networks", "fits"),
    [
        (["127.0.0.1"], 1),
        (["127.0.0.0/8"], 1),
        (["10.0.0.0/8"], 0),
        (["::/0"], 0),
        (["10.0.0.0/8", "127.0.0.1/32"], 1),
    ],
)
def test_by_address(g: Gateway, client: Client, peers: Any, networks: list[str], fits: int) -> None:
    peers()
    g.wait(lambda: client.list_connections().connections == 1, "the connection")
    assert client.list_connections(client=networks).matched == fits


def test_by_age_and_idle_time(g: Gateway, client: Client, peers: Any) -> None:
    peers()
    g.wait(lambda: client.list_connections().connections == 1, "the connection")
    assert client.list_connections(min_age=3600).matched == 0
    assert client.list_connections(min_idle=3600).matched == 0
    g.wait(lambda: client.list_connections(min_age=0.05, min_idle=0.05).matched == 1, "its age")


# --- closing ----------------------------------------------------------------------------------------------------------


def test_an_idle_one_is_closed(g: Gateway, client: Client, peers: Any) -> None:
    peer, other = peers(FAST), peers(FAST)
    for one in (peer, other):
        one.receive_response()
    g.wait(lambda: client.list_connections(state=["idle"]).matched == 2, "both")
    name = f"127.0.0.1:{peer.sock.getsockname()[1]}"
    (found,) = [one for one in client.list_connections().found if one.peer == name]
    assert client.close_connection(found.id).id == found.id
    assert peer.closed()
    other.send(b"GET /fast HTTP/1.1\r\nHost: x\r\n\r\n")
    assert other.receive_response()[1] == b"ok"
    with pytest.raises(NotFoundError, match="no connection"):
        client.close_connection(found.id)


def test_a_request_under_way_fails(g: Gateway, client: Client, peers: Any) -> None:
    peer = peers(SLOW)
    found = only(g, client, route=SLOW, state=["waiting"])
    client.close_connection(found.id)
    head, body = peer.receive_response()
    assert (status_of(head), json.loads(body)["code"]) == (503, "closed_by_operator")
    assert peer.closed()
    g.wait_access(detail="closed_by_operator", path=SLOW, status=503, flag="LR")


def test_gently_the_answer_goes_out_first(g: Gateway, client: Client, peers: Any, behind: Origin) -> None:
    peer = peers(SLOW)
    found = only(g, client, route=SLOW, state=["waiting"])
    client.close_connection(found.id, gently=True)
    behind.go.set()
    head, body = peer.receive_response()
    behind.go.clear()
    assert (status_of(head), body) == (200, b"ok")
    assert b"Connection: close" in head
    assert peer.closed()


def test_tunnels_and_streams_are_cut(g: Gateway, client: Client, peers: Any) -> None:
    tunnel, _ = open_websocket(g.port, SOCKETS)
    peers.keep(tunnel)
    stream = peers(EVENTS)
    stream.receive_until(b"\n\n")
    only(g, client, protocol="websocket")
    only(g, client, protocol="sse")
    closed = client.close_connections(state=["tunnel", "streaming"])
    assert (closed.closed, closed.states, closed.complete) == (2, {"tunnel": 1, "streaming": 1}, True)
    assert tunnel.receive_all() == b""
    assert not stream.receive_all().endswith(b"0\r\n\r\n")
    g.wait_access(detail="closed_by_operator", path=SOCKETS, status=101)
    g.wait_access(detail="closed_by_operator", path=EVENTS)


def test_those_of_an_address_are_closed(g: Gateway, client: Client, peers: Any) -> None:
    made = [peers() for _ in range(5)]
    g.wait(lambda: client.list_connections().connections == 5, "the connections")
    assert client.close_connections(client=["10.0.0.0/8"]).closed == 0
    assert client.close_connections(client=["127.0.0.1"]).closed == 5
    assert all(peer.closed() for peer in made)


def test_closing_is_recorded(g: Gateway, client: Client, peers: Any) -> None:
    peers(SLOW)
    found = only(g, client, route=SLOW, state=["waiting"])
    client.close_connection(found.id)
    client.close_connections(client=["192.0.2.1"])

    def entries() -> Any:
        return [
            (one["action"], one["target"], {"status": 200, **wanted} == one["detail"])
            for one in g.admin("GET", "/api/audit?limit=20")[1]["entries"]
            for wanted in (details_of_one, details_of_many)
        ]

    details_of_one = {
        "client": "127.0.0.1",
        "state": "waiting",
        "gently": False,
        "route": SLOW,
        "request_id": "of/slow",
    }
    details_of_many = {"closed": 0, "gently": False, "query": "client=192.0.2.1"}
    g.wait(lambda: ("connection.close", found.id, True) in entries(), "the entry of one")
    g.wait(lambda: ("connections.close", "/api/connections", True) in entries(), "the entry of many")


def test_what_makes_no_sense_is_refused(client: Client) -> None:
    with pytest.raises(InvalidError, match="say which"):
        client.close_connections()
    for ask in (
        lambda: client.list_connections(client=["nowhere"]),
        lambda: client.close_connection("nonsense"),
        lambda: client.close_connection("1-2"),
        lambda: client.list_connections(limit=1001),
        lambda: client.list_connections(state=["angry"]),  # type: ignore[list-item]
    ):
        with pytest.raises(InvalidError):
            ask()
    for gone in ("0-1-1", "99-1-1"):
        with pytest.raises(NotFoundError, match="gone"):
            client.close_connection(gone)
    with pytest.raises(NotFoundError, match="there are 0, 1"):
        client.list_connections(worker=7)


def test_connections_to_backends(g: Gateway, client: Client, peers: Any) -> None:
    peers(FAST).receive_response()
    (pool,) = client.list_pools()
    assert [worker.slot for worker in pool.workers] == [0, 1]
    assert pool.open == sum(worker.open for worker in pool.workers) > 0
    assert pool.idle <= pool.open <= pool.connects
    rows = [line.split()[:2] for line in run(g, "pools").output.splitlines()[1:]]
    assert rows == [[pool.backend, "all"], [pool.backend, "0"], [pool.backend, "1"]]


# --- the command ------------------------------------------------------------------------------------------------------


def run(g: Gateway, *words: str) -> Any:
    return CliRunner().invoke(main, ["connections", *words, "--state-dir", str(g.state_dir)])


def test_the_command_lists_and_closes(g: Gateway, client: Client, peers: Any) -> None:
    slow, idle = peers(SLOW, "?token=secret"), peers(FAST)
    idle.receive_response()
    found = only(g, client, route=SLOW, state=["waiting"])
    shown = run(g, "list")
    assert shown.exit_code == 0, shown.output
    (line,) = [line for line in shown.output.splitlines() if line.startswith(f"{found.id} ")]
    assert "waiting (response)" in line
    assert f"GET {SLOW} for" in line
    assert "secret" not in shown.output
    assert shown.output.splitlines()[-1] == "2 of 2 connections: 1 idle, 1 waiting"
    assert "2 of 2 connections" in run(g).output
    listed = json.loads(run(g, "list", "--route", SLOW, "--sort", "newest", "-o", "json").output)
    assert [one["id"] for one in listed["found"]] == [found.id]
    assert "1 of 2 connections, 0 of them shown" in run(g, "list", "--state", "idle", "-n", "0").output
    assert run(g, "close", found.id).output == "1 connections are closed\n"
    assert status_of(slow.receive_head()) == 503
    assert run(g, "close", "--client", "127.0.0.0/8", "--gently").output == (
        "1 connections are closed once their answers are out\n"
    )
    assert idle.closed()
    assert run(g, "close").exit_code == 2
    assert run(g, "close", found.id, "--state", "idle").exit_code == 2
    gone = run(g, "close", found.id)
    assert (gone.exit_code, "no connection" in gone.output) == (1, True)


def test_top_shows_the_longest_requests(g: Gateway, client: Client, peers: Any) -> None:
    peers(SLOW, "?token=secret")
    found = only(g, client, route=SLOW, state=["waiting"])
    shown = CliRunner().invoke(main, ["top", "--once", "--state-dir", str(g.state_dir)]).output
    assert "connections: 1 waiting" in shown
    assert found.id in shown
    assert f"GET {SLOW}" in shown
    without = CliRunner().invoke(main, ["top", "--once", "--longest", "0", "--state-dir", str(g.state_dir)]).output
    assert found.id not in without
    assert "connections: 1 waiting" in without


def test_a_viewer_sees_no_connections(g: Any, client: Client) -> None:
    client.add_user(name="looker", roles=["viewer"])
    token = g.admin("POST", "/api/users/looker/tokens", {"name": "t"})[1]["token"]
    remote = ["--url", g.admin_url, "--token", token]
    g.wait(lambda: CliRunner().invoke(main, ["status", *remote]).exit_code == 0, "the admin port")
    for words in (["list"], ["close", "--state", "idle"], ["close", "0-1-1"]):
        refused = CliRunner().invoke(main, ["connections", *words, *remote])
        assert (refused.exit_code, "it needs connections:" in refused.output) == (4, True)
    assert CliRunner().invoke(main, ["connections", "pools", *remote]).exit_code == 0
    shown = CliRunner().invoke(main, ["top", "--once", *remote])
    assert (shown.exit_code, "connections:" in shown.output, "worker" in shown.output) == (0, False, True)


# --- workers that do not answer ---------------------------------------------------------------------------------------


def test_a_worker_that_hangs_is_named_and_the_others_answer(g: Gateway, client: Client, peers: Any) -> None:
    for _ in range(8):
        peers()
    g.wait(lambda: client.list_connections().connections == 8, "the connections")
    pid = g.child("kairos-worker0")
    os.kill(pid, signal.SIGSTOP)
    try:
        answer = client.list_connections()
    finally:
        os.kill(pid, signal.SIGCONT)
    hanging, other = answer.workers
    assert hanging.problem == f"worker 0 (process {pid}) did not answer within 2 s"
    assert (answer.complete, hanging.complete, other.complete) == (False, False, True)
    assert {one.worker for one in answer.found} <= {1}
    assert (answer.connections, answer.matched) == (8, other.connections)
    assert client.list_connections().matched == 8


def test_a_worker_that_was_killed_has_a_successor_that_answers(g: Gateway, client: Client, peers: Any) -> None:
    killed = g.child("kairos-worker1")
    os.kill(killed, signal.SIGKILL)

    def answers() -> bool:
        answer = client.list_connections()
        return answer.complete and [worker.slot for worker in answer.workers] == [0, 1]

    g.wait(lambda: g.child("kairos-worker1") not in (0, killed) and answers(), "an answer of both")
    with pytest.raises(NotFoundError, match=r"the worker of connection .* is gone"):
        client.close_connection(f"1-{killed}-1")


class Line:
    """A worker's end of the line, which says what the test wants."""

    def __init__(self, board: Scoreboard, folder: Path, slot: int, says: bytes | None) -> None:
        board.page.set(board.worker_block(slot) + cells.W_PID, 4000 + slot)
        self.sock = listen_unix(line_of(str(folder / "control"), slot), backlog=8)
        self.sock.setblocking(True)
        self._says = says
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        peer, _ = self.sock.accept()
        with peer:
            receiver = Receiver()
            while receiver.question(peer.recv(4096)) is None:
                pass
            if self._says is None:
                peer.recv(1)  # until nobody waits any more
            else:
                peer.sendall(self._says)

    def close(self) -> None:
        self._thread.join(10)
        self.sock.close()


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        (None, "worker 1 (process 4001) did not answer within 0.05 s"),
        (b"", "worker 1 (process 4001) could not be asked: it ended before it answered"),
        (b"\x00\x00\x00\x02xx", "worker 1 (process 4001) could not be asked: not a message of this protocol"),
        (b"\xff\xff\xff\xff", "worker 1 (process 4001) could not be asked: a frame claims"),
        (encode(Found(4001, 90, 40, False, {"idle": 3}, [])), "looked at 40 of 90 connections"),
    ],
    ids=["silent", "gone", "nonsense", "lies", "late"],
)
def test_what_a_worker_may_come_to(tmp_path: Path, says: bytes | None, problem: str) -> None:
    board = Scoreboard(Capacity(workers=3, routes=1, pairs=1, upstreams=1))
    good = encode(Found(4000, 5, 5, True, {"idle": 5}, []))
    lines = [Line(board, tmp_path, 0, good), Line(board, tmp_path, 1, says)]

    async def ask() -> Any:
        asked = ClientConnections(board, str(tmp_path / "control"), 0.05 if says is None else 10)
        return await asked.look(Wanted(), "oldest", 10)

    try:
        answer = asyncio.run(ask())
    finally:
        for line in lines:
            line.close()
    first, second = answer.workers
    assert (first.complete, first.problem, second.complete, answer.complete) == (True, "", False, False)
    assert problem in second.problem
    assert answer.matched == 5 + (3 if "looked" in problem else 0)


def test_closing_at_a_worker_that_hangs(tmp_path: Path) -> None:
    board = Scoreboard(Capacity(workers=1, routes=1, pairs=1, upstreams=1))
    line = Line(board, tmp_path, 0, None)

    async def ask() -> None:
        with pytest.raises(SilentError, match=r"worker 0 .* did not answer"):
            await ClientConnections(board, str(tmp_path / "control"), 0.05).close_one("0-4000-1", gently=False)

    asyncio.run(ask())
    line.close()


def test_one_of_a_worker_that_is_not_there(tmp_path: Path) -> None:
    board = Scoreboard(Capacity(workers=3, routes=1, pairs=1, upstreams=1))
    board.page.set(board.worker_block(2) + cells.W_PID, 4002)

    async def ask() -> None:
        asked = ClientConnections(board, str(tmp_path / "control"), 10)
        with pytest.raises(SilentError, match=r"worker 2 .* could not be asked: .*No such file"):
            await asked.close_one("2-4002-1", gently=False)
        with pytest.raises(NoConnectionError):
            await asked.close_one("2-4001-1", gently=False)
        with pytest.raises(NoWorkerError):
            await asked.look(Wanted(), "oldest", 10, worker=1)

    asyncio.run(ask())


def test_more_than_one_message_is_none() -> None:
    with pytest.raises(ChannelError, match="more than one"):
        Receiver().answer(encode(Found(1, 0, 0, True, {}, [])) * 2)
