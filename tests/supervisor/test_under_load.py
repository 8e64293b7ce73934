"""The whole gateway while clients are at work: nothing the supervisor does of its own accord costs a request."""

import http.client
import os
import signal
import threading

import pytest

from tests.supervisor.conftest import until
from tests.support.gateway import gateway, route
from tests.support.net import echo, origin


class Load:
    """Clients that ask without pause, one request per connection or many."""

    def __init__(self, port):
        self.port = port
        self.outcomes = []
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(kept,)) for kept in (1, 1, 1000, 1000)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def ask(self, requests_per_connection):
        while not self.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=25)
            try:
                for number in range(requests_per_connection):
                    if self.over.is_set() or not self.request(connection, fresh=number == 0):
                        break
            finally:
                connection.close()

    def request(self, connection, *, fresh):
        """Whether the connection can be used again.

        A kept one may be closed just as a request sets out: clients then ask again on a fresh one (RFC 9112 9.3.1).
        """
        try:
            connection.request("GET", "/a")
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as error:
            if fresh:
                self.outcomes.append(type(error).__name__)
            return False
        self.outcomes.append(response.status)
        return not response.will_close

    def goes_on(self):
        """Some more requests were answered."""
        goal = len(self.outcomes) + 40
        until(lambda: len(self.outcomes) >= goal, "traffic")


@pytest.fixture
def running():
    with origin(echo) as backend, gateway({"version": 1, "routers": [route("/a", backend.url)]}, workers=2) as made:
        yield made


def test_reloads_and_workers_more_or_less_cost_no_request(running):
    with Load(running.port) as load:
        for revision in range(2, 5):
            running.signal(signal.SIGHUP)
            running.wait_log(f"revision {revision} is in use")
            running.signal(signal.SIGTTIN)
            running.wait(lambda: len(children(running)) == 4, "third worker")
            load.goes_on()
            running.signal(signal.SIGTTOU)
            running.wait(lambda: len(children(running)) == 3, "end of the third worker", 40)
            load.goes_on()
    assert set(load.outcomes) == {200}


def test_death_of_control_costs_no_request(running):
    with Load(running.port) as load:
        for _ in range(2):
            kill_and_wait_for_heir(running, "kairos-control")
            load.goes_on()
    assert set(load.outcomes) == {200}


def test_a_killed_worker_costs_what_it_had_in_flight(running):
    with Load(running.port) as load:
        load.goes_on()
        kill_and_wait_for_heir(running, "kairos-worker0")
        load.goes_on()
    failed = [outcome for outcome in load.outcomes if outcome != 200]
    assert len(failed) <= len(load.threads)


def kill_and_wait_for_heir(running, name):
    victim = children(running)[name]
    os.kill(victim, signal.SIGKILL)
    running.wait(lambda: children(running).get(name, victim) != victim, f"heir of {name}")


def children(running):
    """Living children of the supervisor by name."""
    pid = running.process.pid
    found = {}
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        pids = file.read().split()
    for child in pids:
        try:
            with open(f"/proc/{child}/comm") as comm:
                found[comm.read().strip()] = int(child)
        except OSError:
            continue  # it has just ended
    return found
