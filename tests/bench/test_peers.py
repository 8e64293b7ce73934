"""The configurations are accepted by the programs they are for, and the programs do with them what is compared."""

import shutil
import ssl
import subprocess
import time
from http.client import HTTPConnection, HTTPSConnection

import pytest

from bench import cases, load, origin, peers, processes
from bench.origin import Origin
from kairos.config.load import load_checked


@pytest.fixture(params=[1, 2], ids=["one-worker", "two-workers"])
def setup(request, tmp_path):
    ports = [processes.free_port() for _ in range(4)]
    target = Origin((ports[0], ports[1]), ports[2])
    return peers.Setup(ports[3], target, tmp_path, request.param, logging=True)


def accepted(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_nginx_accepts_its_configuration(setup):
    file = setup.home / "nginx.conf"
    file.write_text(peers.nginx_config(setup))
    assert "warn" not in accepted(processes.program("nginx"), "-t", "-e", "stderr", "-c", str(file))


def test_nginx_accepts_the_origin(tmp_path):
    file = tmp_path / "origin.conf"
    file.write_text(origin.nginx_config((processes.free_port(), processes.free_port()), tmp_path))
    assert "warn" not in accepted(processes.program("nginx"), "-t", "-e", "stderr", "-c", str(file))


def test_haproxy_accepts_its_configuration(setup):
    file = setup.home / "haproxy.cfg"
    file.write_text(peers.haproxy_config(setup))
    assert "WARNING" not in accepted(processes.program("haproxy"), "-c", "-f", str(file))


def test_kairos_accepts_its_configuration(setup):
    file = setup.home / "kairos.json"
    file.write_text(peers.kairos_config(setup))
    assert {route.external_path for route in load_checked(file).config.routers} >= {"/rich/{id}", "/ws"}


@pytest.mark.parametrize("logging", [True, False], ids=["log", "no-log"])
@pytest.mark.parametrize("name", peers.COMPARED)
def test_a_proxy_passes_what_the_cases_ask_for(tmp_path, name, logging):
    with origin.started(tmp_path) as target, peers.started(name, target, tmp_path / name, 1, logging) as peer:
        sizes = {path: _size(peer.port, "GET", path) for path in ("/plain/1", "/files/16k", "/files/1m")}
        assert sizes == {"/plain/1": 6, "/files/16k": 16 * 1024, "/files/1m": 1024 * 1024}
        assert _size(peer.port, "POST", "/upload", bytes(16 * 1024)) == 6
        assert _headers(peer.port, "/rich/1") >= {(name.lower(), value) for name, value in origin.RICH_RESPONSE.items()}
        echoed = load.run_websocket(peer.port, "/ws", 2, 0.2)
        assert (echoed.completed > 2, echoed.errors) == (True, 0)
        connection = HTTPSConnection("127.0.0.1", peer.tls_port, timeout=10, context=_untrusting())
        connection.request("GET", "/rich/1")
        assert connection.getresponse().getheader("ETag") == origin.RICH_RESPONSE["ETag"]
        connection.close()
        assert all(load.run_handshakes(peer.tls_port, version, 1).completed > 2 for version in ("1.2", "1.3"))
    lines = _log_lines(tmp_path / name)
    assert bool(lines) == logging


def test_with_policies_a_token_is_asked_for(tmp_path):
    name, _, value = cases.authorization().partition(": ")
    with origin.started(tmp_path) as target, peers.started("policies", target, tmp_path / "p", 1, True) as peer:
        connection = HTTPConnection("127.0.0.1", peer.port, timeout=25)
        for headers, status in (({}, 401), ({name: value}, 200)):
            connection.request("GET", "/rich/1", headers=headers)
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (status, True)
        connection.close()


def _log_lines(home):
    files = (home / "access.log", home / "output.log")
    return [line for file in files if file.exists() for line in file.read_text().splitlines() if "/files/16k" in line]


def _answer(port, method, path, body=None):
    connection = HTTPConnection("127.0.0.1", port, timeout=25)
    connection.request(method, path, body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    assert answer.status == 200
    return answer, content


def _size(port, method, path, body=None):
    return len(_answer(port, method, path, body)[1])


def _untrusting():
    """A context for a certificate that nobody signed."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _headers(port, path):
    return {(name.lower(), value) for name, value in _answer(port, "GET", path)[0].getheaders()}


def test_a_proxy_that_does_not_start_shows_what_it_said(tmp_path):
    log = tmp_path / "log"
    command = ["/bin/sh", "-c", "echo no such file; exit 3"]
    with (
        processes.running(command, log) as child,
        pytest.raises(processes.BenchError, match="ended with 3:\nno such file"),
    ):
        processes.wait_until_serving(child, processes.free_port(), "/", log)


def test_a_child_that_ignores_sigterm_is_killed_with_its_tree(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "STOP_WITHIN_S", 0.2)
    script = "trap '' TERM; (trap '' TERM; while :; do sleep 1; done) & while :; do sleep 1; done"
    with processes.running(["/bin/sh", "-c", script], tmp_path / "log") as child:
        while len(members := processes.procfs.tree(child.pid)) < 2:
            pass
    assert child.returncode == -9
    for member in members:  # killed, but perhaps not dead yet
        while (found := processes.procfs.stat(member)) is not None and found.parent != 1:
            time.sleep(0.01)


def test_a_missing_program_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(processes.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(processes.BenchError, match=r"apt-get install .* nginx-light haproxy"):
        processes.require(["nginx", "haproxy"])
