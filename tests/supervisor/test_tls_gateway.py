"""HTTPS of a whole gateway: sockets of the supervisor, certificates that change, tickets of all workers, upgrades."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from kairos.config.problems import ConfigError
from kairos.supervisor.arbiter import Options
from tests.support.gateway import Gateway, gateway, route
from tests.support.net import connect, echo, origin, status_of
from tests.support.tls import Authority, client_context, connect_tls

GET = b"GET /e HTTP/1.1\r\nHost: shop.test\r\n\r\n"
_SECURE = re.compile(r"https://127\.0\.0\.1:(\d+)")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.file("shop.test", name="shop")
    return made


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with origin(echo) as o:
        yield o.url


def config(url: str, authority: Authority, **server: Any) -> dict[str, Any]:
    certificates = [{"cert_file": str(authority.folder / "shop.pem")}]
    tls = {"port": 0, "certificates": certificates}
    return {"server": {"tls": tls, **server}, "routers": [route("/e", url)]}


def tls_port(served: Gateway) -> int:
    """Of the newest start line."""
    return int(_SECURE.findall(served.log)[-1])


def ask(port: int, context: ssl.SSLContext, **options: Any) -> tuple[bool, ssl.SSLSession]:
    """Whether the handshake was a short one, and the ticket."""
    with connect_tls(port, context, "shop.test", **options) as peer:
        peer.send(GET)
        assert status_of(peer.receive_response()[0]) == 200
        return peer.sock.session_reused, peer.sock.session


def serial(port: int) -> int:
    with connect_tls(port, client_context(None)) as peer:
        return x509.load_der_x509_certificate(peer.sock.getpeercert(True)).serial_number


def revisions(served: Gateway) -> set[str]:
    """Those that its workers serve."""
    return set(re.findall(r'kairos_worker_config_revision\{worker="\d"\} (\S+)', served.metrics()))


def test_a_gateway_with_tls_from_start_to_end(url: str, authority: Authority) -> None:
    with gateway(config(url, authority, watch=True), workers=3) as served:
        port, context = tls_port(served), client_context(authority)
        # tickets of one worker are good at every other
        _, ticket = ask(port, context)
        assert all(ask(port, context, session=ticket)[0] for _ in range(12))
        assert len({line["status"] for line in served.wait_access(13, scheme="https")}) == 1

        # a file that changes is taken up without a drop; one that is no good is not
        before = serial(port)
        with connect_tls(port, context) as open_:
            authority.file("shop.test", name="shop")
            served.wait(lambda: serial(port) != before, "renewed certificate")
            served.wait(lambda: len(revisions(served)) == 1, "renewed certificate in every worker")
            open_.send(GET)
            assert status_of(open_.receive_response()[0]) == 200
        good = (authority.folder / "shop.pem").read_bytes()
        renewed = serial(port)
        (authority.folder / "shop.pem").write_bytes(b"rubbish")
        served.wait_log("holds no certificate in PEM form")
        assert serial(port) == renewed
        (authority.folder / "shop.pem").write_bytes(good)

        metrics = served.metrics()
        assert 'kairos_tls_handshakes_total{resumed="yes",version="1.3"} 12.0' in metrics
        assert f'kairos_tls_certificate_not_after_seconds{{file="{authority.folder}/shop.pem"}}' in metrics

        # a worker that dies is replaced by one that takes the tickets of before
        os.kill(served.child("kairos-worker1"), signal.SIGKILL)
        served.wait(lambda: "kairos_worker_restarts_total 1.0" in served.metrics(), "new worker")
        assert all(ask(port, context, session=ticket)[0] for _ in range(6))


def test_an_upgrade_hands_over_the_secure_sockets(url: str, authority: Authority) -> None:
    with gateway(config(url, authority), workers=2) as served:
        port, context = tls_port(served), client_context(authority)
        with connect_tls(port, context) as open_:
            old = served.serving()
            served.signal(signal.SIGUSR2)
            served.wait(lambda: served.serving() != old, "upgrade", 30)
            open_.send(GET)
            assert status_of(open_.receive_response()[0]) == 200
        assert not ask(port, context)[0]
        assert tls_port(served) == port
        os.kill(served.serving(), signal.SIGTERM)


def test_draining_answers_who_shook_hands(url: str, authority: Authority) -> None:
    with gateway(config(url, authority)) as served, connect_tls(tls_port(served), client_context(authority)) as peer:
        peer.send(b"POST /e HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4\r\n\r\nab")
        served.wait(lambda: "kairos_requests_in_flight 1.0" in served.metrics() or True, "request")
        served.signal(signal.SIGTERM)
        served.wait_log("draining")
        peer.send(b"cd")
        head, body = peer.receive_response()
        assert status_of(head) == 200
        assert body.endswith(b"abcd")
        assert served.process.wait(25) == 0


def test_a_certificate_is_made_on_first_start(url: str) -> None:
    file = {"server": {"plain": False}, "routers": [route("/e", url)]}
    with gateway(file, arguments=["--self-signed", "--tls-port", "0"]) as served:
        path = served.state_dir / "tls" / "self-signed.pem"
        assert path.stat().st_mode & 0o777 == 0o600
        trusting = ssl.create_default_context(cafile=str(path))
        with connect_tls(tls_port(served), trusting, "localhost") as peer:
            peer.send(GET)
            assert status_of(peer.receive_response()[0]) == 200
        before = path.read_bytes()
        served.restart()
        assert path.read_bytes() == before


def test_the_command_line_is_judged_with_the_file(url: str, tmp_path: Path) -> None:
    """A file without a port and without a certificate is whole with --self-signed, and only then."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"server": {"plain": False}, "routers": [route("/e", url)]}))
    server = Options(str(file), self_signed=True, tls_port=7443).load().config.server
    assert (server.plain, server.tls and server.tls.port) == (False, 7443)
    with pytest.raises(ConfigError, match=r"server\.plain"):
        Options(str(file)).load()


def test_the_secure_port_alone(url: str, authority: Authority) -> None:
    with gateway(config(url, authority, plain=False)) as served:
        assert "http://" not in served.log
        ask(tls_port(served), client_context(authority))


def test_a_port_that_is_taken(url: str, authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        spec = config(url, authority)
        spec["server"]["tls"]["port"] = other.getsockname()[1]
        with pytest.raises(AssertionError, match="is in use by another process"):
            Gateway(spec)


def test_sockets_of_the_service_manager(url: str, authority: Authority, tmp_path: Path) -> None:
    """The one on server.tls.port speaks TLS."""
    with socket.create_server(("127.0.0.1", 0)) as plain, socket.create_server(("127.0.0.1", 0)) as secure:
        spec = config(url, authority)
        spec["server"]["tls"]["port"] = secure.getsockname()[1]
        spec["server"]["watch"] = False
        spec["access_log"] = {"format": "off"}
        (tmp_path / "config.json").write_text(json.dumps(spec))
        start = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4);"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2');"
            "os.execv(sys.executable, [sys.executable, '-m', 'kairos.cli.gateway', *sys.argv[3:]])"
        )
        fds = [str(sock.fileno()) for sock in (plain, secure)]
        arguments = ["--config", str(tmp_path / "config.json"), "--state-dir", str(tmp_path / "state"), "-w", "1"]
        process = subprocess.Popen(
            [sys.executable, "-c", start, *fds, *arguments],
            pass_fds=[plain.fileno(), secure.fileno()],
            stderr=subprocess.DEVNULL,
        )
        try:
            assert ask(secure.getsockname()[1], client_context(authority)) is not None
            with connect(plain.getsockname()[1]) as peer:
                peer.send(GET)
                assert status_of(peer.receive_response()[0]) == 200
        finally:
            process.terminate()
            process.wait(25)
