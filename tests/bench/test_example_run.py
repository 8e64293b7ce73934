"""`make run`: services come up in order, greet, and end together."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.processes import free_port
from kairos.config.load import load_checked

ROOT = Path(__file__).parents[2]
SCENE = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {examples!r})
import run

run.READY_WITHIN_S, run.STOP_WITHIN_S = 5.0, 1.0
python = sys.executable
origin = [python, {origin!r}, "--port"]
services = [run.Service("one", [*origin, {ports[0]!r}, "--name", "one"], {ports[0]}), {second}]
sys.exit(asyncio.run(run.run(services, "READY")))
"""


def scene(second):
    """A run.py with two services of which the second is given as source."""
    ports = [str(free_port()), str(free_port())]
    origin = str(ROOT / "examples" / "origins" / "http_origin.py")
    source = SCENE.format(
        examples=str(ROOT / "examples"), origin=origin, ports=ports, second=second.format(ports=ports)
    )
    return subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(child):
    out, err = child.communicate(timeout=30)
    return child.returncode, out, err


def test_two_services_until_a_signal():
    for number in (signal.SIGINT, signal.SIGTERM):
        child = scene('run.Service("two", [*origin, {ports[1]!r}, "--name", "two"], {ports[1]})')
        while (line := child.stdout.readline()) != "READY\n":
            assert line.startswith(("one: ", "two: "))
        os.kill(child.pid, number)
        assert ended(child) == (0, "", "")


def test_a_service_that_dies_ends_everything():
    child = scene(
        'run.Service("two", [python, "-c", "import socket, sys; '
        "s = socket.create_server(('127.0.0.1', {ports[1]})); s.accept(); sys.exit(7)\"], {ports[1]})"
    )
    code, _, err = ended(child)
    assert (code, err) == (1, "two ended with 7\n")


def test_a_service_that_never_answers_is_named():
    child = scene('run.Service("two", [python, "-c", "import time; time.sleep(60)"], {ports[1]})')
    code, out, err = ended(child)
    assert code == 1
    assert "two does not answer on port" in err
    assert "READY" not in out


@pytest.fixture
def config():
    return load_checked(ROOT / "examples" / "config.json").config


def test_the_example_config_shows_what_it_should(config):
    routes = {route.external_path: route for route in config.routers}
    assert config.server.port == 5900
    assert len(routes["/"].backends) == 2
    assert routes["/ws/chat"].protocol == "websocket"
    assert {"/api/users/{id}", "/all/{rest:path}", "/events"} <= routes.keys()
