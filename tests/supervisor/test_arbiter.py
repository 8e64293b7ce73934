"""The supervisor at work: real forks, real signals, and a worker small enough to be beyond suspicion."""

import ctypes
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from kairos._speedups import cells
from tests.supervisor.conftest import alive, ask, until

PR_SET_CHILD_SUBREAPER = 36


def pids(gateway):
    """Every worker that answers, asked often enough to meet all of them."""
    return {gateway.ask("pid") for _ in range(50)}


def revisions(gateway):
    return {gateway.ask("revision") for _ in range(50)}


# --- start --------------------------------------------------------------------------------------------------------


def test_every_worker_serves_and_bears_its_name(gateway):
    gateway.start()
    assert {gateway.ask("name") for _ in range(50)} == {"kairos-worker0", "kairos-worker1"}
    assert Path(f"/proc/{gateway.process.pid}/comm").read_text() == "kairos-gateway\n"


def test_a_child_holds_nothing_of_its_siblings(gateway):
    gateway.write(workers=1)
    gateway.start()
    alone = len(gateway.ask("fds").split())
    for slot in (1, 2):
        gateway.signal(signal.SIGTTIN)
        gateway.logged(f"worker {slot} is ready")
    assert {len(gateway.ask("fds").split()) for _ in range(60)} == {alone}


@pytest.mark.parametrize(("boot", "code"), [("exit:3", 3), ("exit:4", 4), ("exit:1", 3), ("raise", 3), ("kill", 3)])
def test_a_boot_that_fails_ends_the_gateway_and_says_why(gateway, boot, code):
    gateway.start({"TINY_BOOT": boot}, wait=False)
    assert gateway.ended() == code
    assert re.search(r"giving up: worker \d (exited|died)", gateway.lines())


def test_a_worker_killed_while_it_boots_is_tried_again(gateway):
    gateway.start({"TINY_BOOT": f"once:{gateway.folder}/marker"})
    assert "starts again in" in gateway.lines()


# --- deaths -------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_its_waiting_connections_are_served(gateway):
    gateway.write(workers=1)
    gateway.start()
    victim = int(gateway.ask("pid"))
    os.kill(victim, signal.SIGSTOP)  # what connects now waits in the queue
    waiting = [socket.create_connection(("127.0.0.1", gateway.port), timeout=25) for _ in range(20)]
    os.kill(victim, signal.SIGKILL)
    answers = {ask(connection, "pid") for connection in waiting}
    for connection in waiting:
        connection.close()
    assert len(answers) == 1
    assert answers != {str(victim)}


def test_death_of_control_costs_no_connection(gateway):
    gateway.write(workers=1)
    gateway.start({"TINY_CONTROL": "1"})
    with gateway.connected() as connection:
        before = ask(connection, "pid")
        control = gateway.workers()["kairos-control"]
        os.kill(control, signal.SIGKILL)
        until(lambda: gateway.workers().get("kairos-control", control) != control)
        assert ask(connection, "pid") == before


def test_workers_end_with_their_supervisor(gateway):
    gateway.start()
    workers = gateway.workers().values()
    gateway.signal(signal.SIGKILL)
    gateway.process.wait()
    until(lambda: not any(map(alive, workers)))


def test_orphans_are_reaped_like_pid_1_does(gateway):
    """The gateway is made a subreaper, as PID 1 of a container is by nature."""
    become = ctypes.CDLL(None).prctl
    gateway.start(preexec_fn=lambda: become(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    orphan = int(gateway.ask("orphan"))
    until(lambda: not alive(orphan))  # a zombie would still be there
    assert str(orphan) not in gateway.lines()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_workers_are_deaf_to_signals_meant_for_the_group(gateway, signum):
    gateway.write(workers=1)
    gateway.start()
    with gateway.connected() as connection:
        before = ask(connection, "pid")
        os.kill(int(before), signum)
        assert ask(connection, "pid") == before


# --- the end ------------------------------------------------------------------------------------------------------


def test_term_lets_connections_finish(gateway):
    gateway.start()
    with gateway.connected() as connection:
        ask(connection, "pid")
        gateway.signal(signal.SIGTERM)
        gateway.logged("draining for up to 30 s")
        until(lambda: refused(gateway.port))
        assert ask(connection, "pid")
    assert gateway.ended() == 0


def refused(port):
    """Whether nobody listens any more. A SYN that a closing listener ignored is not waited for."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        try:
            probe.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
    return False


def test_second_term_cuts(gateway):
    gateway.start()
    with gateway.connected() as connection:
        ask(connection, "pid")
        gateway.signal(signal.SIGTERM)
        gateway.logged("draining")
        until(lambda: gateway.signal(signal.SIGINT) or "stopping at once" in gateway.lines())
        assert gateway.ended() == 0
        assert connection.recv(1) == b""


def test_a_drain_that_takes_too_long_is_cut(gateway):
    gateway.write(drain_timeout=0.1)
    gateway.start()
    with gateway.connected() as connection:
        ask(connection, "pid")
        gateway.signal(signal.SIGTERM)
        assert gateway.ended() == 0


def test_a_stopped_worker_cannot_hold_the_end_up(gateway):
    gateway.write(workers=1, drain_timeout=0.1)
    gateway.start()
    os.kill(int(gateway.ask("pid")), signal.SIGSTOP)
    gateway.signal(signal.SIGTERM)
    assert gateway.ended() == 0
    assert "did not drain in time; killing it" in gateway.lines()


def test_control_outlives_the_workers(gateway):
    gateway.start({"TINY_CONTROL": "1"})
    gateway.signal(signal.SIGTERM)
    assert gateway.ended() == 0
    deaths = re.findall(r'"event":"(\w+)[^"]* exited with code 0', gateway.lines())
    assert deaths == ["worker", "worker", "control"]


# --- reload -------------------------------------------------------------------------------------------------------


def test_hup_brings_a_new_revision_to_all(gateway):
    gateway.start({"TINY_CONTROL": "1"})
    gateway.write("/a", "/b")
    gateway.signal(signal.SIGHUP)
    gateway.logged("revision 2 is in use")
    until(lambda: revisions(gateway) == {"2"})


def test_hup_with_a_bad_file_changes_nothing_and_says_why(gateway):
    gateway.start()
    before = pids(gateway)
    gateway.config.write_text('{"version": 1, "routes": []}')
    gateway.signal(signal.SIGHUP)
    gateway.logged("reload refused", "routes")
    assert revisions(gateway) == {"1"}
    assert pids(gateway) == before


def test_a_file_that_is_gone_changes_nothing(gateway):
    gateway.start()
    gateway.config.unlink()
    gateway.signal(signal.SIGHUP)
    gateway.logged("reload refused", "No such file")
    assert revisions(gateway) == {"1"}


def test_a_nack_leaves_everybody_where_they_were(gateway):
    gateway.start()
    gateway.write("/nack")
    gateway.signal(signal.SIGHUP)
    gateway.logged("reload abandoned: worker 0 refused it", "no room for /nack")
    assert revisions(gateway) == {"1"}
    gateway.write("/fine")
    gateway.signal(signal.SIGHUP)
    gateway.logged("revision 3 is in use")
    until(lambda: revisions(gateway) == {"3"})


def test_a_worker_that_dies_of_a_revision_stops_it(gateway):
    gateway.start()
    gateway.write("/die")
    gateway.signal(signal.SIGHUP)
    gateway.logged("reload abandoned: worker 0 killed by SIGKILL")
    until(lambda: len(gateway.workers()) == 2)
    assert revisions(gateway) == {"1"}


def test_term_ends_a_reload_that_hangs(gateway):
    gateway.start()
    gateway.write("/mute")
    gateway.signal(signal.SIGHUP)
    gateway.signal(signal.SIGTERM)
    assert gateway.ended() == 0


def test_a_large_revision_passes_the_channel_in_pieces(gateway):
    gateway.start()
    gateway.write(*(f"/route/{number}" for number in range(3000)))
    gateway.signal(signal.SIGHUP)
    gateway.logged("revision 2 is in use")
    until(lambda: revisions(gateway) == {"2"})


def test_a_replacement_begins_with_the_revision_in_use(gateway):
    gateway.write(workers=1)
    gateway.start()
    gateway.write("/b", workers=1)
    gateway.signal(signal.SIGHUP)
    gateway.logged("revision 2 is in use")
    victim = gateway.ask("pid")
    os.kill(int(victim), signal.SIGKILL)
    until(lambda: gateway.ask("pid") != victim)
    assert gateway.ask("revision") == "2"


def test_listeners_that_changed_are_told_to_need_a_restart(gateway):
    gateway.start()
    gateway.write(backlog=17)
    gateway.signal(signal.SIGHUP)
    gateway.logged("server.backlog has changed")


# --- other signals ------------------------------------------------------------------------------------------------


def test_one_worker_more_and_one_less(gateway):
    gateway.start()
    gateway.signal(signal.SIGTTIN)
    until(lambda: len(pids(gateway)) == 3)
    gateway.signal(signal.SIGTTOU)
    until(lambda: len(gateway.workers()) == 2)
    assert len(pids(gateway)) == 2


def test_usr1_reaches_the_workers(gateway):
    gateway.write(workers=1)
    gateway.start()
    gateway.signal(signal.SIGUSR1)
    until(lambda: gateway.ask("reopened") == "1")


def test_the_file_says_how_many_workers_after_a_reload(gateway):
    gateway.write(workers=1)
    gateway.start()
    gateway.write(workers=3)
    gateway.signal(signal.SIGHUP)
    until(lambda: len(pids(gateway)) == 3)


def test_a_supervisor_with_nothing_to_do_sleeps(gateway):
    gateway.start()
    pids(gateway)
    stat = Path(f"/proc/{gateway.process.pid}/status")

    def switches():
        return re.search(r"^voluntary_ctxt_switches:\s+(\d+)", stat.read_text(), re.MULTILINE)[1]

    before = until(lambda: switches() if "S (sleeping)" in stat.read_text() else None)
    pids(gateway)
    assert int(switches()) - int(before) <= 1  # it looks after the workers now and then


# --- what operators said ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ('{"http://127.0.0.1:9": {"state": "maintenance", "weight": 30, "breaker": "open"}, "http://a:1": {}}', True),
        ('{"http://127.0.0.1:9": {"state"', False),
    ],
)
def test_it_is_known_before_there_is_a_worker(gateway, kept, words):
    state = gateway.folder / "state"
    state.mkdir()
    (state / "backends.json").write_text(kept)
    gateway.start({"TINY_STATE": str(state)})
    expected = (cells.OUT_MAINTENANCE, cells.FORCED_OPEN, 31) if words else (0, 0, 0)
    assert gateway.ask("words") == " ".join(map(str, expected))
