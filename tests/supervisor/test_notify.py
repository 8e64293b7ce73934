"""systemd's protocol against a real datagram socket, and sockets passed to a new process like systemd does it."""

import os
import signal
import socket
import struct
import time

import pytest

from kairos.supervisor.notify import Notifier, inherited_sockets
from tests.supervisor.conftest import until


@pytest.fixture
def manager(tmp_path):
    """Where a service manager listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(25)
        yield sock


def told(manager):
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().splitlines())


def environment(manager, **more):
    return {"NOTIFY_SOCKET": manager.getsockname(), **more}


# --- reports ------------------------------------------------------------------------------------------------------


def test_life_of_a_gateway_as_the_manager_hears_it(manager, gateway):
    began = time.monotonic_ns() // 1000
    gateway.start({"NOTIFY_SOCKET": manager.getsockname()})
    ready = told(manager)
    assert (ready["READY"], ready["MAINPID"]) == ("1", str(gateway.process.pid))
    assert ready["STATUS"] == f"serving on http://127.0.0.1:{gateway.port}"
    gateway.signal(signal.SIGHUP)
    reloading = told(manager)
    assert reloading["RELOADING"] == "1"
    assert began < int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert told(manager)["READY"] == "1"
    gateway.signal(signal.SIGTERM)
    assert told(manager) == {"STOPPING": "1", "STATUS": "draining"}
    assert gateway.ended() == 0


def test_a_refused_reload_ends_in_ready_too(manager, gateway):
    gateway.start({"NOTIFY_SOCKET": manager.getsockname()})
    told(manager)
    gateway.config.write_text("no configuration")
    gateway.signal(signal.SIGHUP)
    assert [told(manager).get("RELOADING"), told(manager).get("READY")] == ["1", "1"]


def test_the_watchdog_is_fed_at_half_its_time(manager, gateway):
    gateway.start({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "100000"})
    heard = [told(manager) for _ in range(6)]
    assert heard.count({"WATCHDOG": "1"}) >= 4


def test_in_an_upgrade_one_supervisor_speaks_at_a_time(manager, gateway):
    """So that NotifyAccess=main is enough: the old one until it names the new one, which is silent before."""
    manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    gateway.start({"NOTIFY_SOCKET": manager.getsockname(), "WATCHDOG_USEC": "4000000"})
    old, new = gateway.process.pid, gateway.upgraded()
    speakers, said = [], []
    while new not in speakers:
        text, credentials, _, _ = manager.recvmsg(4096, 100)
        speakers.append(struct.unpack("3i", credentials[0][2])[0])  # pid, uid, gid
        said.append(dict(line.split("=", 1) for line in text.decode().splitlines()))
    assert set(speakers[:-1]) == {old}
    assert said[-2] == {"MAINPID": str(new)}
    assert (said[-1]["READY"], said[-1]["MAINPID"]) == ("1", str(new))
    assert told(manager) == {"WATCHDOG": "1"}


def test_watchdog_beats(manager):
    notifier = Notifier(environment(manager, WATCHDOG_USEC="2000000"))
    notifier.beat(10.0)
    notifier.beat(10.9)
    notifier.beat(11.0)
    assert notifier.next_beat() == 12.0
    assert [told(manager), told(manager)] == [{"WATCHDOG": "1"}] * 2
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(1)
    notifier.close()


@pytest.mark.parametrize("extra", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}])
def test_no_watchdog(manager, extra):
    notifier = Notifier(environment(manager, **extra))
    assert notifier.next_beat() == float("inf")
    notifier.close()


def test_abstract_address():
    name = f"kairos-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}"})
        notifier.stopping("bye")
        assert told(sock) == {"STOPPING": "1", "STATUS": "bye"}
        notifier.close()


@pytest.mark.parametrize("address", ["", "/no/such/socket", "vsock:2:1"])
def test_a_manager_that_is_not_there_is_no_trouble(address):
    Notifier({"NOTIFY_SOCKET": address}).ready("fine")


def test_a_manager_that_went_away_is_no_trouble(manager):
    notifier = Notifier(environment(manager))
    manager.close()
    notifier.ready("fine")
    notifier.close()


def test_variables_are_not_left_for_children(manager):
    variables = environment(manager, WATCHDOG_USEC="1", WATCHDOG_PID="2", LISTEN_PID="3", LISTEN_FDS="1", HOME="/")
    Notifier(variables).close()
    inherited_sockets(variables)
    assert variables == {"HOME": "/"}


# --- given sockets ------------------------------------------------------------------------------------------------


def given(fds, pid=None):
    """What sd_listen_fds(3) finds in the environment; descriptors that follow each other."""
    return {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(len(fds)), "LISTEN_FDNAMES": "http"}


def test_sockets_meant_for_another_process_are_left_alone():
    assert inherited_sockets(given([3], pid=1)) == []


def test_only_listening_stream_sockets_are_taken(tmp_path):
    """A file, a datagram socket, a socket that does not listen, and one that does, side by side."""
    first = 200
    with (
        open(tmp_path / "file", "w") as file,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
        socket.socket() as silent,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        for offset, thing in enumerate((file, datagram, silent, listening)):
            os.dup2(thing.fileno(), first + offset)
        try:
            (found,) = inherited_sockets(given(range(4)), first_fd=first)
            with found:
                assert found.getsockname() == listening.getsockname()
                assert found.getblocking() is False
                assert found.get_inheritable() is False
        finally:
            for offset in range(3):
                os.close(first + offset)


def test_a_gateway_serves_on_a_given_socket_and_leaves_it_open(gateway):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        gateway.write(port=1)  # not asked for when a socket is given
        gateway.activate(listening)
        assert gateway.port == listening.getsockname()[1]
        assert {gateway.ask("name") for _ in range(50)} <= {"kairos-worker0", "kairos-worker1"}
        gateway.signal(signal.SIGTERM)
        assert gateway.ended() == 0
        with gateway.connected() as waiting:  # the manager goes on listening: the next gateway would serve this
            listening.accept()[0].close()
            assert waiting.recv(1) == b""


def test_one_worker_less_leaves_a_given_socket_to_the_others(gateway):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        gateway.activate(listening)
        gateway.signal(signal.SIGTTOU)
        until(lambda: len(gateway.workers()) == 1)
        assert {gateway.ask("name") for _ in range(20)} == {"kairos-worker0"}
