"""Listening sockets: where they listen, what they say when they cannot, and that closing one loses nobody."""

import asyncio
import os
import select
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kairos.config.model import Server
from kairos.inquiry import line_of
from kairos.proxy.listener import accept_waiting, drain_listener, refuse_new
from kairos.supervisor.sockets import (
    ControlSocket,
    ListenError,
    Listeners,
    listen_unix,
    resolve,
)

LOOPBACK = "127.0.0.1"
HAS_IPV6 = os.path.exists("/proc/net/if_inet6") and "lo" in Path("/proc/net/if_inet6").read_text()


@pytest.fixture
def opened():
    """Listeners for a server section, closed at the end."""
    made = []

    def open_(slots=1, inherited=(), **server):
        listeners = Listeners.open(Server(**{"host": LOOPBACK, "port": 0, **server}), list(inherited))
        made.append(listeners)
        for slot in range(slots):
            listeners.of_slot(slot)
        return listeners

    yield open_
    for listeners in made:
        listeners.close()


def port_of(listeners):
    return listeners.of_slot(0)[0].getsockname()[1]


def connect(address, timeout=10.0):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(timeout)
    try:
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


# --- where --------------------------------------------------------------------------------------------------------


def test_every_slot_has_a_socket_of_its_own_on_one_port(opened):
    listeners = opened(slots=3)
    sockets = [listeners.of_slot(slot)[0] for slot in range(3)]
    assert len({sock.fileno() for sock in sockets}) == 3
    assert {sock.getsockname() for sock in sockets} == {(LOOPBACK, port_of(listeners))}
    assert listeners.describe() == [f"http://127.0.0.1:{port_of(listeners)}"]
    assert listeners.of_slot(1)[0] is sockets[1]  # kept for the replacement of a killed worker


def test_listeners_do_not_block(opened):
    with pytest.raises(BlockingIOError):
        opened().of_slot(0)[0].accept()


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 loopback")
def test_double_colon_serves_both_families(opened):
    listeners = opened(host="::")
    for host in (LOOPBACK, "::1"):
        connect((host, port_of(listeners))).close()
    assert listeners.describe() == [f"http://[::]:{port_of(listeners)}"]


def test_a_name_is_resolved(opened):
    listeners = opened(host="localhost")
    addresses = {sock.getsockname()[0] for sock in listeners.of_slot(0)}
    assert addresses <= {LOOPBACK, "::1"}
    assert {sock.getsockname()[1] for sock in listeners.of_slot(0)} == {port_of(listeners)}


def test_a_unix_socket_is_shared_by_all_slots(opened, tmp_path):
    path = str(tmp_path / "sock")
    listeners = opened(slots=2, unix=path)
    assert listeners.of_slot(0)[1] is listeners.of_slot(1)[1]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    connect(path).close()
    assert listeners.describe()[1] == f"unix:{path}"
    listeners.give_up_shared()
    assert not os.path.exists(path)


def test_the_file_of_a_dead_process_is_replaced(tmp_path):
    path = str(tmp_path / "sock")
    listen_unix(path, 1).close()
    listen_unix(path, 1).close()


def test_a_successors_unix_socket_is_not_removed(opened, tmp_path):
    path = str(tmp_path / "sock")
    listeners = opened(unix=path)
    os.rename(path, f"{path}.old")  # keeps the inode from being used again
    with listen_unix(path, 1):
        listeners.close()
        connect(path).close()


def test_given_sockets_are_used_instead(opened):
    with socket.create_server((LOOPBACK, 0)) as given:
        listeners = opened(slots=2, inherited=[given], port=1)
        assert listeners.activated
        assert listeners.of_slot(0) == listeners.of_slot(1) == [given]


def test_a_child_keeps_only_its_own(opened):
    listeners = opened(slots=3)
    sockets = {slot: listeners.of_slot(slot)[0] for slot in range(3)}
    listeners.keep_only(1)
    assert [sock.fileno() >= 0 for sock in sockets.values()] == [False, True, False]


def test_control_socket_lives_in_a_private_folder():
    control = ControlSocket(wanted=True)
    folder = os.path.dirname(control.path)
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    connect(control.path).close()
    control.close()
    assert not os.path.exists(folder)


def test_a_worker_s_line_waits_for_whoever_serves_the_slot():
    control = ControlSocket(wanted=True)
    line = control.line(1)
    assert control.line(1) is line
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(line_of(control.path, 1))  # a worker that is being respawned finds it
        line.accept()[0].close()
    control.retire(1)
    assert line.fileno() < 0
    assert not os.path.exists(line_of(control.path, 1))
    assert control.line(1) is not line
    control.close()


@pytest.mark.parametrize(("slot", "kept"), [(None, [True, False, False]), (1, [False, False, True])])
def test_a_child_keeps_its_line_and_control_its_socket(slot, kept):
    control = ControlSocket(wanted=True)
    sockets = [*control.listeners, control.line(0), control.line(1)]
    control.keep_only(slot)
    assert [sock.fileno() >= 0 for sock in sockets] == kept
    control.close()


def test_without_control_nobody_asks():
    assert ControlSocket(wanted=False).line(0) is None


# --- why not ------------------------------------------------------------------------------------------------------


def test_a_port_in_use(opened):
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ListenError) as error:
            opened(port=port)
    assert str(error.value) == (
        f"cannot listen on http://127.0.0.1:{port}: port {port} is in use by another process; "
        "choose another with --port or stop it"
    )


def test_a_second_gateway_does_not_share_the_port_unawares(opened):
    first = opened()
    with pytest.raises(ListenError, match="is in use by another process"):
        opened(port=port_of(first))


def test_a_successor_may_listen_once_the_first_has_drained(opened):
    first = opened()
    port = port_of(first)
    asyncio.run(drained(first.of_slot(0)[0]))
    assert port_of(opened(port=port)) == port


def test_an_address_of_another_machine(opened):
    with pytest.raises(ListenError, match=r"192\.0\.2\.1 is not an address of this machine; choose another"):
        opened(host="192.0.2.1")


def test_a_name_that_means_nothing():
    with pytest.raises(ListenError, match=r"'no\.such\.invalid': it is no address and does not resolve"):
        resolve("no.such.invalid", 0)


def test_a_port_for_root_only(opened, monkeypatch):
    def refuse(self, name):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)  # tests may run as root, who may
    with pytest.raises(ListenError, match="port 80 needs root or CAP_NET_BIND_SERVICE; choose one above 1023"):
        opened(port=80)


def test_unix_paths_that_cannot_be(opened, tmp_path):
    file = tmp_path / "file"
    file.write_text("precious")
    for path, reason in {
        str(file): "a file that is no socket is there",
        str(tmp_path / "no" / "sock"): f"the directory {tmp_path}/no does not exist",
        str(tmp_path / ("x" * 120)): "path too long",
    }.items():
        with pytest.raises(ListenError, match=reason):
            opened(unix=path)
    assert file.read_text() == "precious"
    with listen_unix(str(tmp_path / "sock"), 1), pytest.raises(ListenError, match="another process listens there"):
        opened(unix=str(tmp_path / "sock"))


# --- closing without loss -----------------------------------------------------------------------------------------


async def drained(sock, **kwargs):
    return [connection async for connection in drain_listener(sock, **{"shared": False, "settle": 0.05, **kwargs})]


def test_what_waits_in_the_queue_is_handed_over(opened):
    listener = opened().of_slot(0)[0]
    clients = [connect(listener.getsockname()) for _ in range(20)]
    served = asyncio.run(drained(listener))
    assert listener.fileno() == -1
    assert {sock.getpeername() for sock in served} == {client.getsockname() for client in clients}
    by_peer = {sock.getpeername(): sock for sock in served}
    for client in clients:
        with client, by_peer[client.getsockname()] as sock:
            sock.send(b"hello")
            assert client.recv(5) == b"hello"


def test_after_refuse_new_a_handshake_goes_unanswered_but_is_not_reset(opened):
    listener = opened().of_slot(0)[0]
    with connect(listener.getsockname()) as early:
        refuse_new(listener)
        with pytest.raises(TimeoutError):
            connect(listener.getsockname(), timeout=0.1)
        (accepted,) = accept_waiting(listener)
        with accepted:
            accepted.send(b"still here")  # the filter was inherited, and lets all but SYNs pass
            assert early.recv(10) == b"still here"


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6 loopback")
def test_refuse_new_over_ipv6(opened):
    listener = opened(host="::1").of_slot(0)[0]
    refuse_new(listener)
    with pytest.raises(TimeoutError):
        connect(("::1", listener.getsockname()[1]), timeout=0.1)


def test_a_client_refused_by_one_socket_is_served_by_another(opened):
    """Its SYN is sent again after a second, when the closed socket is out of the group."""
    listeners = opened(slots=2)
    first, second = (listeners.of_slot(slot)[0] for slot in range(2))
    refuse_new(first)
    clients = [socket.socket() for _ in range(16)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(second.getsockname())
    assert asyncio.run(drained(first)) == []
    for client in clients:
        with client:
            select.select([], [client], [], 10)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert client.getpeername() == second.getsockname()


def test_the_supervisors_copy_is_out_of_the_way_too(opened):
    """The supervisor keeps a socket open that its worker has drained: nobody may be sent there."""
    listeners = opened()
    supervisors = listeners.of_slot(0)[0]
    name = supervisors.getsockname()
    workers = supervisors.dup()
    workers.setblocking(False)
    asyncio.run(drained(workers))
    assert supervisors.fileno() >= 0
    with pytest.raises(ConnectionRefusedError):
        connect(name)


def test_a_shared_socket_goes_on_for_the_others(tmp_path):
    with listen_unix(str(tmp_path / "sock"), 8) as others:
        mine = others.dup()
        mine.setblocking(False)
        with connect(str(tmp_path / "sock")), connect(str(tmp_path / "sock")):
            served = asyncio.run(drained(mine, shared=True))
            assert len(served) == 2
            with connect(str(tmp_path / "sock")):
                served += accept_waiting(others)
        assert len(served) == 3
        for sock in served:
            sock.close()


CLIENT = """
import socket, sys
seen = set()
while "ConnectionRefusedError" not in seen:
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 10) as connection:
            seen.add(connection.recv(2).decode() or "closed unheard")
    except OSError as error:
        seen.add(type(error).__name__)
print(*sorted(seen))
"""


def test_no_reset_while_sockets_of_a_busy_group_come_and_go(opened):
    """Clients connect as fast as they can while one socket after the other is drained and replaced."""
    listeners = opened(slots=3)
    command = [sys.executable, "-c", CLIENT, LOOPBACK, str(port_of(listeners))]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    asyncio.run(Group(listeners).churn(rounds=9))
    assert {client.communicate(timeout=30)[0].strip() for client in clients} == {"ConnectionRefusedError ok"}


class Group:
    """Three sockets that answer, and one loop that takes them away in turn."""

    def __init__(self, listeners):
        self.listeners = listeners
        self.answered = 0

    async def churn(self, rounds):
        for slot in range(3):
            self.serve(slot)
        for slot in (number % 3 for number in range(rounds)):
            await self.busy()
            await self.drain(slot)
            self.serve(slot)
        for slot in range(3):
            await self.drain(slot)

    async def busy(self):
        goal = self.answered + 100
        while self.answered < goal:
            await asyncio.sleep(0.01)

    def serve(self, slot):
        listener = self.listeners.of_slot(slot)[0]
        asyncio.get_running_loop().add_reader(
            listener, lambda: [self.answer(sock) for sock in accept_waiting(listener)]
        )

    async def drain(self, slot):
        listener = self.listeners.of_slot(slot)[0]
        asyncio.get_running_loop().remove_reader(listener)
        async for connection in drain_listener(listener, shared=False, settle=0.05):
            self.answer(connection)
        self.listeners.retire(slot)

    def answer(self, connection):
        connection.send(b"ok")
        connection.close()
        self.answered += 1
