"""Binary upgrade: the installed version takes over the sockets of the running one, or nothing has happened."""

import contextlib
import http.client
import itertools
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from kairos.supervisor.sockets import ListenError
from kairos.supervisor.upgrade import Predecessor
from tests.supervisor.conftest import alive, ask, processes_with, until
from tests.support import ws
from tests.support.gateway import gateway as whole_gateway
from tests.support.gateway import route
from tests.support.net import Peer, echo, origin, read_request

SLEEP = "import time; time.sleep(600)"
UNSHARE = ("unshare",) if os.geteuid() == 0 else ("unshare", "--map-root-user")
HANGING_WORKER = "import os; os.environ['TINY_BOOT'] = 'hang:1'"


def gateways(tiny):
    """Supervisors of all who answer, asked often enough to meet all of them."""
    return {int(tiny.ask("gateway")) for _ in range(50)}


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def named(parent, name):
    found = []
    for pid in children(parent):
        with contextlib.suppress(OSError):  # it has just ended
            if comm(pid) == name:
                found.append(pid)
    return found


def comm(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


@pytest.fixture
def installed(gateway):
    """Started by a script, which can be replaced by another version."""
    gateway.install()
    return gateway.start()


# --- hand over ----------------------------------------------------------------------------------------------------


def test_the_new_one_takes_over_and_the_old_one_ends(gateway):
    gateway.start({"TINY_CONTROL": "1"})
    new = gateway.upgraded()
    assert gateway.ended() == 0
    until(lambda: gateways(gateway) == {new})
    assert sorted(map(comm, children(new))) == ["kairos-control", "kairos-worker0", "kairos-worker1"]
    os.kill(new, signal.SIGTERM)
    until(lambda: not gateway.processes())


def test_connections_of_the_old_one_are_finished_there(gateway):
    gateway.start()
    with gateway.connected() as connection:
        before = ask(connection, "pid")
        new = gateway.upgraded()
        until(lambda: gateways(gateway) == {new})  # the old one drains when the new one accepts
        assert ask(connection, "pid") == before
        assert comm(gateway.process.pid) == "kairos-old"
    assert gateway.ended() == 0


def test_connections_that_overstay_the_drain_are_cut(gateway):
    gateway.write(drain_timeout=0.5)
    gateway.start()
    with gateway.connected() as connection:
        ask(connection, "pid")
        gateway.upgraded()
        assert gateway.ended() == 0
        assert connection.recv(1) == b""


def test_nothing_is_accumulated(gateway):
    gateway.start({"TINY_CONTROL": "1"})

    def held(pid):
        return len(os.listdir(f"/proc/{pid}/fd"))

    def upgraded():
        old = gateway.serving()
        new = gateway.upgraded()
        gateway.gone(old)
        return new

    supervisor, worker = held(upgraded()), len(gateway.ask("fds").split())
    for _ in range(5):
        new = upgraded()
        until(lambda new=new: held(new) <= supervisor)  # what it shared with the old one is closed in its own time
        until(lambda: len(gateway.ask("fds").split()) <= worker)
        until(lambda new=new: sorted(gateway.processes()) == sorted([new, *children(new)]))


def test_an_installed_script_is_what_is_started_again(installed):
    installed.install("import os; os.environ['TINY_CONTROL'] = '1'")  # as a new release that differs
    new = installed.upgraded()
    assert "kairos-control" in map(comm, children(new))


def test_a_link_to_the_release_is_followed_anew(gateway):
    for release, first in (("release-1", ""), ("release-2", "import os; os.environ['TINY_CONTROL'] = '1'")):
        gateway.install(first)
        os.renames(gateway.folder / "kairos-gateway", gateway.folder / release / "kairos-gateway")
    current = gateway.folder / "current"
    current.symlink_to("release-1")
    gateway.program = ["./kairos-gateway"]
    gateway.start(launcher=("sh", "-c", 'cd current && exec "$@"', "sh"))
    current.unlink()
    current.symlink_to("release-2")
    assert "kairos-control" in map(comm, children(gateway.upgraded()))


@pytest.mark.parametrize(("before", "after", "left"), [(1, 3, "[]"), (3, 1, "[1,2]")])
def test_more_workers_or_fewer(gateway, before, after, left):
    gateway.write(workers=before)
    gateway.start()
    gateway.write(workers=after)
    with Visitors(gateway) as visitors:
        visitors.go_on()
        new = gateway.upgraded()
        visitors.go_on()
    assert gateway.logged(f"process {new} has taken over", f'"slots_left":{left}')
    assert len({gateway.ask("pid") for _ in range(60)}) == after
    assert gateway.ended() == 0


class Visitors:
    """Clients that connect without pause; a refusal or reset anywhere fails the test that left them at it."""

    def __init__(self, tiny):
        self.command = [sys.executable, "-c", VISITOR, str(tiny.port)]

    def __enter__(self):
        self.processes = [
            subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
        ]
        return self

    def go_on(self):
        for process in self.processes:
            for _ in range(20):
                assert process.stdout.readline() == "ok\n"

    def __exit__(self, *_):
        for process in self.processes:
            process.stdin.close()
        said = {line for process in self.processes for line in process.stdout}
        for process in self.processes:
            with process:
                process.wait(25)
        assert said <= {"ok\n"}


VISITOR = """
import select, socket, sys
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as connection:
            connection.sendall(b"pid\\n")
            print("ok" if connection.recv(20).strip().isdigit() else "nothing", flush=True)
    except OSError as error:
        print(repr(error), flush=True)
"""


def test_changed_listeners_wait_for_a_restart(gateway):
    gateway.start()
    gateway.write(host="127.0.0.2", backlog=17)
    gateway.upgraded()
    gateway.logged("server.host has changed: the listeners stay")
    gateway.logged("server.backlog has changed: the listeners stay")


def test_a_unix_socket_is_handed_on_and_its_file_stays(gateway):
    path = gateway.folder / "sock"
    gateway.write(unix=str(path))
    gateway.start()
    for _ in range(2):
        old = gateway.serving()
        new = gateway.upgraded()
        gateway.gone(old)
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(25)
            connection.connect(str(path))
            assert int(ask(connection, "gateway")) == new
    os.kill(new, signal.SIGTERM)
    until(lambda: not path.exists())


def test_given_sockets_are_handed_on(gateway):
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        gateway.activate(listening)
        new = gateway.upgraded()
        assert gateway.ended() == 0
        assert gateway.upgraded() != new
        assert gateway.port == listening.getsockname()[1]


def test_the_working_directory_is_that_of_the_start(gateway):
    os.rename(gateway.folder / "kairos.json", gateway.folder / "here.json")
    gateway.config = "here.json"
    gateway.start()
    new = gateway.upgraded()
    assert Path(f"/proc/{new}/cwd").resolve() == gateway.folder.resolve()
    os.kill(new, signal.SIGTERM)
    until(lambda: not alive(new))


# --- nothing has happened -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ({"first": "raise SystemExit(7)"}, "the new gateway exited with code 7"),
        ({"first": "raise SystemExit(3)"}, r"the new gateway exited with code 3 \(could not boot\)"),
        ({"interpreter": "/no/such/python"}, "cannot execute .*/kairos-gateway in .*No such file"),
        ({"first": "import os; os.environ['TINY_BOOT'] = 'exit:4'"}, "could not boot|could not load"),
        ({"first": "import os; os.environ['KAIROS_HANDOVER'] = '{\"format\": 9}'"}, "exited with code 2"),
    ],
)
def test_a_version_that_does_not_come_up_is_given_up(installed, version, reason):
    before, workers = installed.serving(), installed.workers()
    installed.install(**version)
    installed.signal(signal.SIGUSR2)
    assert re.search(f"upgrade failed, nothing has changed: .*({reason})", installed.logged("upgrade failed"))
    assert gateways(installed) == {before}
    assert installed.workers() == workers
    assert set(installed.processes()) == {before, *workers.values()}
    installed.install()
    assert installed.upgraded() != before


def test_a_version_that_hangs_is_given_up(gateway):
    gateway.install()
    gateway.start({"TINY_LIMIT": "UPGRADE_TIMEOUT=2"})
    gateway.install(SLEEP)
    gateway.signal(signal.SIGUSR2)
    gateway.logged("upgrade failed, nothing has changed: the new gateway was not ready within 2 s")
    assert gateways(gateway) == {gateway.process.pid}
    assert supervisors(gateway) == {gateway.process.pid}


def test_a_bad_file_keeps_the_new_one_from_starting(gateway):
    gateway.start()
    gateway.config.write_text('{"version": 1, "routes": []}')
    gateway.signal(signal.SIGUSR2)
    gateway.logged("upgrade failed, nothing has changed", "routes")
    assert gateways(gateway) == {gateway.process.pid}


def test_a_new_one_that_is_killed_leaves_the_sockets_alone(installed):
    """Its first worker is ready, its second not yet: neither may close what the old gateway listens on."""
    before = installed.serving()
    installed.install(HANGING_WORKER)
    with Visitors(installed) as visitors:
        installed.signal(signal.SIGUSR2)
        heir = until(lambda: supervisors(installed) - {before}).pop()
        ready = until(lambda: next((pid for pid in children(heir) if comm(pid) == "kairos-worker0"), None))
        installed.logged('"event":"worker 0 is ready"', f'"child":{ready}')
        os.kill(heir, signal.SIGKILL)
        installed.logged("nothing has changed: the new gateway killed by SIGKILL")
        until(lambda: not alive(ready))
        visitors.go_on()
    assert gateways(installed) == {before}


def late(what):
    """A version whose worker 0, told to accept, does not or does not say so."""
    return f"import os; os.environ['TINY_LISTEN'] = '{what}:0'"


def one_that_may_accept(tiny):
    """The heir, once the old gateway has told it to go."""
    before = tiny.serving()
    tiny.signal(signal.SIGUSR2)
    tiny.logged("upgrade: the new gateway may accept")
    return (supervisors(tiny) - {before}).pop()


@pytest.mark.parametrize("what", ["hang", "mute"])
def test_a_new_one_killed_before_it_is_known_to_accept_leaves_the_old_one_at_it(installed, what):
    before = installed.serving()
    installed.install(late(what))
    with Visitors(installed) as visitors:
        heir = one_that_may_accept(installed)
        until(lambda: heir in gateways(installed))  # both accept
        visitors.go_on()
        orphans = children(heir)
        os.kill(heir, signal.SIGKILL)
        installed.logged("nothing has changed: the new gateway killed by SIGKILL")
        until(lambda: not any(map(alive, orphans)))
        visitors.go_on()
        assert gateways(installed) == {before}
        installed.install()
        assert installed.upgraded() not in (before, heir)
        visitors.go_on()


def test_the_word_of_a_new_one_that_has_died_since_counts_for_nothing(installed):
    before = installed.serving()
    installed.install(late("wait"))
    heir = one_that_may_accept(installed)
    installed.signal(signal.SIGSTOP)
    (installed.folder / "accept").touch()
    installed.logged("accepting beside the gateway that is to be replaced")
    os.kill(heir, signal.SIGKILL)
    until(lambda: "State:\tZ" in Path(f"/proc/{heir}/status").read_text())
    installed.signal(signal.SIGCONT)
    installed.logged("nothing has changed: the new gateway killed by SIGKILL")
    assert installed.process.poll() is None
    assert gateways(installed) == {before}


def test_a_new_one_that_does_not_come_to_accept_is_given_up_and_finishes_what_it_has(gateway):
    gateway.install()
    gateway.write(workers=1)
    gateway.start({"TINY_LIMIT": "ACCEPT_TIMEOUT=2"})
    before = gateway.serving()
    gateway.install(late("mute"))
    with contextlib.ExitStack() as visits:
        heir = one_that_may_accept(gateway)
        connection = until(lambda: visited(gateway, heir, visits))
        gateway.logged("finishing what was accepted", f'"pid":{heir}')
        assert int(ask(connection, "gateway")) in (heir, 1, before)  # an orphan once its supervisor was killed
        assert gateways(gateway) == {before}
    gateway.logged("nothing has changed: the new gateway did not accept within 2 s")
    until(lambda: supervisors(gateway) == {before})


def visited(tiny, supervisor, visits):
    """A connection to a worker of this gateway, or nothing."""
    connection = visits.enter_context(tiny.connected())
    return connection if int(ask(connection, "gateway")) == supervisor else None


def supervisors(tiny):
    found = set()
    for pid in tiny.processes():
        try:
            if comm(pid) in ("kairos-gateway", "kairos-upgrade", "kairos-old"):
                found.add(pid)
        except OSError:
            continue  # it has just ended
    return found


def test_term_during_an_upgrade_ends_both(installed):
    installed.install(HANGING_WORKER)
    installed.signal(signal.SIGUSR2)
    installed.logged(
        "worker 0 is ready", f'"pid":{until(lambda: supervisors(installed) - {installed.process.pid}).pop()}'
    )
    installed.signal(signal.SIGTERM)
    assert installed.ended() == 0
    until(lambda: not installed.processes())


def test_what_else_is_asked_for_meanwhile(installed):
    installed.install(SLEEP)
    installed.signal(signal.SIGUSR2)
    installed.logged("the new gateway boots")
    installed.signal(signal.SIGUSR2)
    installed.logged("upgrade refused: another is under way")
    for signum in ("SIGTTIN", "SIGTTOU"):
        installed.signal(getattr(signal, signum))
        installed.logged(f"{signum} ignored: an upgrade is under way")
    installed.write("/new")
    installed.signal(signal.SIGHUP)
    (heir,) = (pid for name, pid in installed.workers().items() if "worker" not in name)
    os.kill(heir, signal.SIGKILL)
    installed.logged("upgrade failed")
    installed.logged("revision 2 is in use")


def test_signals_to_the_old_pid_concern_its_own_drain(gateway):
    gateway.start()
    with gateway.connected() as connection:
        ask(connection, "pid")
        new = gateway.upgraded()
        gateway.signal(signal.SIGHUP)
        gateway.logged(f"SIGHUP ignored: process {new} has taken over")
        gateway.signal(signal.SIGTERM)
        gateway.logged("once more stops it at once")
        assert ask(connection, "pid")
        until(lambda: gateway.signal(signal.SIGTERM) or "stopping at once" in gateway.lines())
        assert gateway.ended() == 0
    until(lambda: gateways(gateway) == {new})


@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        ('{"format": 2, "sockets": "elsewhere"}', "hands over in format 2, not 1: it needs a restart"),
        ('{"format": 1}', "not what a running gateway hands over: .*required field"),
        ("7", "not what a running gateway hands over"),
        ("{}", "not what a running gateway hands over"),
    ],
)
def test_an_offer_that_is_not_understood_is_refused(offer, reason):
    environ = {"KAIROS_HANDOVER": offer, "HOME": "/"}
    with pytest.raises(ListenError, match=reason):
        Predecessor.of(environ)
    assert environ == {"HOME": "/"}


# --- PID 1 --------------------------------------------------------------------------------------------------------


@pytest.fixture
def contained(gateway):
    """PID 1 of a namespace of its own; `process` is unshare, which ends as PID 1 does."""
    gateway.start(launcher=(*UNSHARE, "--pid", "--fork", "--kill-child"))
    gateway.first = children(gateway.process.pid)[0]
    return gateway


def heirs_of(first):
    return [pid for pid in children(first) if comm(pid).startswith("kairos-g")]


def test_pid_1_stays_forwards_signals_and_ends_like_the_last(contained):
    first = contained.first
    os.kill(first, signal.SIGUSR2)
    (second,) = until(lambda: len(children(first)) == 1 and heirs_of(first))
    assert comm(first) == "kairos-old"
    os.kill(first, signal.SIGUSR2)
    (third,) = until(lambda: len(children(first)) == 1 and heirs_of(first) != [second] and heirs_of(first))
    contained.write("/b")
    os.kill(first, signal.SIGHUP)
    contained.logged("revision 2 is in use")
    assert contained.ask("revision") == "2"
    assert comm(third) == "kairos-gateway"
    os.kill(first, signal.SIGTERM)
    assert contained.ended() == 0
    until(lambda: not contained.processes())


def test_pid_1_ends_when_the_last_one_dies(contained):
    first = contained.first
    os.kill(first, signal.SIGUSR2)
    (second,) = until(lambda: len(children(first)) == 1 and heirs_of(first))
    os.kill(second, signal.SIGKILL)
    assert contained.ended() == 128 + signal.SIGKILL


# --- the whole gateway at work --------------------------------------------------------------------------------------


class Succession:
    """A gateway in its folder over all upgrades: `Gateway.process` is only the first of its supervisors."""

    def __init__(self, made):
        self.made = made

    def serving(self):
        return int((self.made.state_dir / "lock").read_text().split()[0])

    def upgrade(self):
        before = self.serving()
        os.kill(before, signal.SIGUSR2)
        return until(lambda: (now := self.serving()) != before and now, "a new gateway")

    def verb(self, *arguments):
        """`kairos-gateway upgrade`: exit code and what it says."""
        command = [sys.executable, "-m", "kairos.cli.gateway", "upgrade", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
        return done.returncode, done.stdout + done.stderr

    def end(self):
        """Of the heirs: the first one is the fixture's."""
        while heirs := set(processes_with(str(self.made.config_path))) - {self.made.process.pid}:
            for pid in heirs & {self.serving()}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            time.sleep(0.1)
            self.made.process.poll()


@contextlib.contextmanager
def running(*routes, **server):
    with whole_gateway({"version": 1, "server": server, "routers": list(routes)}, workers=2) as made:
        succession = Succession(made)
        try:
            yield made, succession
        finally:
            succession.end()


class Ledger:
    """An origin that notes the number of every POST it gets."""

    def __init__(self):
        self.seen = []

    def __call__(self, peer):
        while True:
            head, body = read_request(peer)
            if head.startswith(b"POST"):
                self.seen.append(int(body))
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Poster(threading.Thread):
    """Sends numbered POSTs, so many on each connection; every one must be answered, and is never sent again."""

    def __init__(self, port, numbers, requests_per_connection):
        super().__init__()
        self.port, self.numbers, self.kept = port, numbers, requests_per_connection
        self.over = threading.Event()
        self.sent, self.failed = [], []

    def run(self):
        while not self.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            with contextlib.closing(connection):
                for _ in range(self.kept):
                    if self.over.is_set() or not self.post(connection):
                        break

    def post(self, connection):
        """Whether the connection can be used again."""
        self.sent.append(next(self.numbers))
        try:
            connection.request("POST", "/a", str(self.sent[-1]))
            response = connection.getresponse()
            assert (response.status, response.read()) == (200, b"ok")
        except (OSError, http.client.HTTPException, AssertionError) as error:
            self.failed.append((self.sent[-1], repr(error)))
            return False
        return not response.will_close


def test_ten_upgrades_cost_no_request_and_repeat_none():
    ledger, numbers = Ledger(), itertools.count()
    with origin(ledger) as backend, running(route("/a", backend.url)) as (made, succession):
        posters = [Poster(made.port, numbers, kept) for kept in (1, 1, 100_000, 100_000)]
        for poster in posters:
            poster.start()
        for _ in range(10):
            succession.upgrade()
            goal = [len(poster.sent) + 10 for poster in posters]
            until(lambda goal=goal: all(len(p.sent) >= n for p, n in zip(posters, goal, strict=True)), "traffic")
        for poster in posters:
            poster.over.set()
            poster.join()
        assert [failure for poster in posters for failure in poster.failed] == []
        assert sorted(ledger.seen) == sorted(number for poster in posters for number in poster.sent)
        serving = succession.serving()
        until(lambda: set(processes_with(str(made.config_path))) == {serving, *children(serving)}, "one gateway")


@contextlib.contextmanager
def posting(port):
    """Clients that post all the time, on connections new and kept; no post may fail until the end."""
    numbers = itertools.count()
    posters = [Poster(port, numbers, kept) for kept in (1, 1, 100_000)]
    for poster in posters:
        poster.start()
    try:
        yield posters
    finally:
        for poster in posters:
            poster.over.set()
            poster.join()


def killed_on_the_way(old):
    """Have an heir started and kill it at some moment; whether it had not taken over, so that nothing may be amiss."""
    os.kill(old, signal.SIGUSR2)
    heir = until(lambda: named(old, "kairos-gateway"))[0]
    until(lambda: named(heir, "kairos-worker0") or comm(old) == "kairos-old")
    time.sleep(random.uniform(0, 0.3))  # the outcome is looked at, not foreseen
    os.kill(heir, signal.SIGSTOP)
    if comm(old) != "kairos-upgrade":
        os.kill(heir, signal.SIGCONT)
        return False
    os.kill(heir, signal.SIGKILL)
    until(lambda: comm(old) != "kairos-upgrade")
    return comm(old) == "kairos-gateway"


def test_a_new_one_killed_at_any_moment_before_it_has_taken_over_costs_no_request():
    with (
        origin(Ledger()) as backend,
        running(route("/a", backend.url)) as (made, succession),
        posting(made.port) as posters,
    ):
        for _ in range(6):
            old = succession.serving()
            if not killed_on_the_way(old):
                until(lambda old=old: succession.serving() != old, "the new one")
            goal = [len(poster.sent) + 10 for poster in posters]
            until(lambda goal=goal: all(len(p.sent) >= n for p, n in zip(posters, goal, strict=True)), "traffic")
            assert [failure for poster in posters for failure in poster.failed] == []


def test_a_client_that_is_kept_is_told_to_close_and_ready_never_fails():
    with origin(echo) as backend, running(route("/a", backend.url)) as (made, succession), made.connect() as peer:

        def told_to_close():
            peer.send(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
            head, _ = peer.receive_response()
            assert head.startswith(b"HTTP/1.1 200 ")
            return b"connection: close" in head.lower()

        assert not told_to_close()
        succession.upgrade()
        until(told_to_close)
        assert peer.closed()


def test_a_websocket_goes_on_across_an_upgrade():
    def talk(peer):
        head, _ = read_request(peer)
        peer.send(ws.switching(head))
        while data := peer.sock.recv(100):
            peer.send(data.upper())

    config = route("/ws", "http://127.0.0.1:1", protocol="websocket")
    with origin(talk) as backend:
        config["backends"] = route("/ws", backend.url)["backends"]
        with running(config) as (made, succession), made.connect() as peer:
            peer.send(ws.handshake("/ws"))
            assert peer.receive_head().startswith(b"HTTP/1.1 101")
            for _ in range(2):
                succession.upgrade()
                peer.send(b"hello")
                assert peer.receive_exactly(5) == b"HELLO"
            assert made.process.poll() is None


def test_workers_that_leave_a_unix_socket_leave_its_file(tmp_path):
    path = str(tmp_path / "sock")
    with origin(echo) as backend, running(route("/a", backend.url), unix=path) as (made, succession):
        for _ in range(2):
            old = succession.serving()
            succession.upgrade()
            until(lambda old=old: made.process.poll() is not None if old == made.process.pid else not alive(old))
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                peer = Peer(sock)
                peer.send(b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert peer.receive_response()[0].startswith(b"HTTP/1.1 200 ")
                assert peer.closed()


def test_the_verb_tells_how_it_went():
    with origin(echo) as backend, running(route("/a", backend.url)) as (made, succession):
        folder = ("--state-dir", str(made.state_dir))
        old = succession.serving()
        code, said = succession.verb(*folder)
        new = succession.serving()
        assert (code, said) == (0, f"process {new} serves now\n")
        assert new != old
        made.config_path.write_text("{")
        code, said = succession.verb(*folder)
        assert code == 1
        assert "config.json" in said
        assert succession.serving() == new
        code, said = succession.verb("--pid", str(new))
        assert (code, said) == (1, f"not upgraded: process {new} serves on as it was; its log says why\n")
        made.write({"version": 1, "routers": [route("/a", backend.url)]})
        assert succession.verb("--pid", str(new)) == (0, f"process {new} has handed over to a new gateway\n")
        assert succession.serving() != new


def test_the_verb_finds_nobody(tmp_path):
    verb = Succession(None).verb
    code, said = verb("--state-dir", str(tmp_path))
    assert code == 1
    assert "name its process with --pid" in said
    assert verb("--pid", str(os.getpid()))[0] == 1
    assert verb("--pid", "1", "--state-dir", "x")[0] == 2


# --- hung workers -------------------------------------------------------------------------------------------------


def test_a_worker_that_hangs_is_replaced_and_its_traceback_logged(gateway):
    gateway.write(workers=1)
    gateway.start({"TINY_LIMIT": "HANG_TIMEOUT=3"})
    stuck = gateway.ask("pid")
    with gateway.connected() as connection:
        connection.sendall(b"hang\n")
        gateway.logged("worker 0 has been stuck for", "killing it")
        until(lambda: gateway.ask("pid") != stuck)
    assert "in answer" in gateway.lines()
    gateway.logged("worker 0 killed by SIGABRT", f'"child":{stuck}')


def test_a_stopped_worker_is_killed_for_it_cannot_abort(gateway):
    gateway.write(workers=1)
    gateway.start({"TINY_LIMIT": "HANG_TIMEOUT=3"})
    stopped = int(gateway.ask("pid"))
    os.kill(stopped, signal.SIGSTOP)
    assert gateway.ask("pid") != str(stopped)
    gateway.logged("worker 0 killed by SIGKILL", f'"child":{stopped}')
