"""Active health checks: rise and fall as traces, single probes of real servers, then the checker over a page."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import pytest
import trustme
from structlog.testing import capture_logs

from kairos import __version__
from kairos._speedups import cells
from kairos.config.model import Backend, Config, HealthCheck, Route, UpstreamTls
from kairos.control import health, probe
from kairos.control.health import AT_ONCE, HealthChecker, NotCheckedError, Tally, checks_of
from kairos.control.probe import Prober
from kairos.control.upstreams import monotonic_us
from kairos.resolver import Resolver
from tests.control.page import Board, in_loop, route, until
from tests.support.dns import NXDOMAIN, SERVFAIL, NameServer
from tests.support.gateway import gateway
from tests.support.gateway import route as gateway_route
from tests.support.net import Peer, dead_port, free_port, origin
from tests.support.nginx import nginx

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Script = Callable[[Peer], None]


def says(answer: bytes) -> Script:
    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(answer)

    return script


def backend(port: int, path: str | None = "/up", host: str = "http://127.0.0.1") -> Backend:
    return Backend(host=host, port=port, health_check_path=path)


# --- rise and fall --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rise", "fall", "results", "verdicts"),
    [
        (1, 1, "+-+-", "+-+-"),
        (2, 3, "---++", "++--+"),
        (2, 3, "--+--+---", "++++++++-"),
        (2, 3, "---+-+-++", "++------+"),
        (3, 2, "--++-+++", "+------+"),
        (1, 1, "++++", "++++"),
    ],
)
def test_so_many_results_in_a_row_turn_the_verdict(rise, fall, results, verdicts):
    tally, seen, turns = Tally(rise, fall, up=True), "", 0
    for result in results:
        turns += tally.note(result == "+")
        seen += "+" if tally.up else "-"
    assert seen == verdicts
    assert turns == sum(a != b for a, b in zip("+" + verdicts, verdicts, strict=False))


def test_a_verdict_that_was_found_down_rises_from_there():
    tally = Tally(2, 3, up=False)
    assert [tally.note(True), tally.up, tally.note(True), tally.up] == [False, False, True, True]


# --- what is checked ------------------------------------------------------------------------------------------------


def test_a_backend_is_checked_if_it_has_a_path_or_its_route_a_section():
    config = Config(
        routers=[
            route("/plain", "http://plain"),
            route("/path", Backend(host="http://path", health_check_path="/up")),
            route("/section", "http://section", health_check=HealthCheck(path="/own", fall=7)),
            route("/both", Backend(host="http://both", health_check_path="/up"), health_check=HealthCheck(path="/own")),
        ],
        health_check=HealthCheck(fall=5),
    )
    asked = {key: (check.path, check.spec.fall) for key, check in checks_of(config).items()}
    assert asked == {"http://path:80": ("/up", 5), "http://section:80": ("/own", 7), "http://both:80": ("/up", 3)}


def test_an_upstream_of_several_routes_has_the_check_of_the_first_that_wants_one():
    section = HealthCheck(path="/second")
    routes = [
        route("/a", "http://a"),
        route("/b", "http://a", health_check=section),
        route("/c", backend(80, "/third")),
    ]
    assert [check.path for check in checks_of(Config(routers=routes)).values()] == ["/second", "/third"]


def test_ftp_is_only_connected_to_and_dns_not_at_all():
    section = HealthCheck()
    routes = [
        route("/ftp", "ftp://files", protocol="ftp", health_check=section),
        route("/dns", "1.1.1.1", protocol="dns", health_check=section),
    ]
    assert {key: check.spec.type for key, check in checks_of(Config(routers=routes)).items()} == {
        "ftp://files:21": "tcp"
    }


# --- one probe ------------------------------------------------------------------------------------------------------


async def ask(served: Route, nameservers: list[str] | None = None) -> str:
    """Probe the route's backend; empty if it is well, else the reason."""
    (check,) = checks_of(Config(routers=[served])).values()
    prober = Prober(1, Resolver(nameservers))
    outcome = await prober.probe(check)
    await prober.close()
    return outcome.reason


def reason(served: Route) -> str:
    found: list[str] = []

    async def trace() -> None:
        found.append(await ask(served))

    in_loop(trace)
    return found[0]


def reason_of(script: Script, timeout: float = 5.0, **check: object) -> str:
    with origin(script) as server:
        spec = HealthCheck(timeout=timeout, **check)  # type: ignore[arg-type]
        return reason(route("/a", backend(server.port), health_check=spec))


def test_the_request_says_who_asks_and_closes():
    heads = []

    def script(peer: Peer) -> None:
        heads.append(peer.receive_head())
        peer.send(OK)

    with origin(script) as server:
        spec = HealthCheck(host="shop.example")
        assert reason(route("/a", backend(server.port, "/up?deep=1&q=a b"))) == ""
        assert reason(route("/a", backend(server.port, None), health_check=spec)) == ""
        port = server.port
    first, second = (head.decode().split("\r\n") for head in heads)
    assert first[0] == "GET /up?deep=1&q=a%20b HTTP/1.1"
    assert {f"Host: 127.0.0.1:{port}", "Connection: close", f"User-Agent: kairos-health/{__version__}"} <= set(first)
    assert second[:2] == ["GET / HTTP/1.1", "Host: shop.example"]


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 301 Moved\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nup to the connection's end",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK,
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 10_000_000,
    ],
    ids=["length", "none", "redirect", "to the end", "chunked", "1xx", "two 1xx", "huge"],
)
def test_a_good_answer_is_good_however_it_is_framed(answer):
    assert reason_of(says(answer)) == ""


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "status 500"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n", "status 404"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 503 Busy\r\n\r\n", "status 503"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "status 101"),
        (b"", "closed without an answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", "the answer broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", "the answer broke off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no HTTP response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000_000, "response head beyond 65536 bytes"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_bad_answer_is_told_by_its_reason(answer, why):
    assert reason_of(says(answer)).startswith(why)


def test_head_spares_the_body():
    asked = []

    def script(peer: Peer) -> None:
        asked.append(peer.receive_head().split(b" ")[0])
        peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")

    assert reason_of(script, method="HEAD") == ""
    assert reason_of(says(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n"), method="HEAD") == "status 503"
    assert reason_of(says(b"HTTP/1.1 200 OK\r\nContent-Le"), method="HEAD") == "the answer broke off"
    assert asked == [b"HEAD"]


def test_which_statuses_are_expected_can_be_said():
    busy, fine = says(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), says(OK)
    assert reason_of(busy, expected_status=[200, 503]) == ""
    assert reason_of(busy, expected_status=["5xx"]) == ""
    assert reason_of(fine, expected_status=["5xx"]) == "status 200"


def hang(peer: Peer) -> None:
    peer.receive_head()
    peer.receive_all()


def drip(first: bytes) -> Script:
    """A byte now and then, so that no wait between two of them is long."""

    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(first)
        peer.sock.settimeout(0.02)
        while True:
            peer.send(b"x")
            with contextlib.suppress(TimeoutError):
                if peer.sock.recv(1) == b"":
                    return

    return script


@pytest.fixture
def never_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timeouts count, however late this busy machine looks at them."""
    monkeypatch.setattr(probe, "_LATE", 60.0)


@pytest.mark.parametrize(
    "script",
    [hang, drip(b"HTTP/1.1 200 OK\r\nX: "), drip(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n")],
    ids=["nothing", "head", "body"],
)
@pytest.mark.usefixtures("never_held_up")
def test_the_time_is_for_the_whole_answer(script):
    assert reason_of(script, timeout=0.5) == "timeout: no whole answer within 0.5 s"


@pytest.mark.usefixtures("never_held_up")
def test_who_refuses_and_who_does_not_accept():
    assert reason(route("/a", backend(dead_port()))) == "refused"
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        address = full.getsockname()
        with contextlib.suppress(TimeoutError, BlockingIOError):
            while True:
                waiting.enter_context(socket.create_connection(address, timeout=0.1))
        spec = HealthCheck(timeout=0.5)
        assert reason(route("/a", backend(address[1]), health_check=spec)) == "timeout: no connection within 0.5 s"


def test_tcp_only_connects():
    with origin(lambda peer: peer.receive_all() and None) as server:
        assert reason(route("/a", backend(server.port), health_check=HealthCheck(type="tcp"))) == ""
    assert reason(route("/a", backend(dead_port()), health_check=HealthCheck(type="tcp"))) == "refused"


def test_a_unix_socket(tmp_path):
    path = str(tmp_path / "app.sock")
    with origin(says(OK), family=socket.AF_UNIX, address=path):
        assert reason(route("/a", Backend(host=f"unix:{path}", health_check_path="/up"))) == ""
    os.unlink(path)
    assert reason(route("/a", Backend(host=f"unix:{path}", health_check_path="/up"))) == "No such file or directory"


def test_a_backend_of_two_addresses_is_well_if_one_accepts():
    with origin(says(OK)) as server, NameServer({"app.test": ["127.0.0.9", "127.0.0.1"]}) as names:
        served = route("/a", backend(server.port, host="http://app.test"))

        async def trace() -> None:
            assert await ask(served, [names.address]) == ""
            assert await ask(served, [names.address]) == ""

        in_loop(trace)


# --- TLS ------------------------------------------------------------------------------------------------------------

AUTHORITY, STRANGER = trustme.CA(), trustme.CA()


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


@contextlib.contextmanager
def tls_server(authority: trustme.CA, name: str = "127.0.0.1") -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)

    def script(peer: Peer) -> None:
        with context.wrap_socket(peer.sock, server_side=True) as sock:
            secure = Peer(sock)
            secure.receive_head()
            secure.send(OK)

    with origin(script) as server:
        yield server.port


def https(port: int, tls: UpstreamTls) -> Route:
    return route("/a", backend(port, host="https://127.0.0.1"), tls=tls)


def test_a_backend_of_a_trusted_authority(ca_file):
    with tls_server(AUTHORITY) as port:
        assert reason(https(port, UpstreamTls(ca_file=ca_file))) == ""
    with tls_server(AUTHORITY, "shop.example") as port:
        assert reason(https(port, UpstreamTls(ca_file=ca_file, server_name="shop.example"))) == ""


def test_a_certificate_that_does_not_hold(ca_file):
    with tls_server(STRANGER) as port:
        assert reason(https(port, UpstreamTls(ca_file=ca_file))).startswith("TLS: certificate not accepted: ")
        assert reason(https(port, UpstreamTls(verify=False))) == ""
    with tls_server(AUTHORITY, "other.example") as port:
        assert "IP address mismatch" in reason(https(port, UpstreamTls(ca_file=ca_file)))


def test_a_backend_that_does_not_speak_tls(ca_file):
    with origin(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        assert reason(https(server.port, UpstreamTls(ca_file=ca_file))).startswith("TLS: ")


@pytest.mark.usefixtures("never_held_up")
def test_a_handshake_that_hangs_takes_no_longer_than_the_timeout():
    with origin(lambda peer: peer.receive_all() and None) as server:
        served = https(server.port, UpstreamTls(verify=False))
        served = msgspec.structs.replace(served, health_check=HealthCheck(timeout=0.5))
        assert reason(served) == "timeout: no connection within 0.5 s"


# --- nginx ----------------------------------------------------------------------------------------------------------


def test_nginx_is_probed_and_has_nothing_to_complain_of(tmp_path, ca_file):
    AUTHORITY.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    (tmp_path / "large").write_bytes(b"x" * 60_000)
    plain, secure = free_port(), free_port()
    server = f"""
        listen 127.0.0.1:{plain}; listen 127.0.0.1:{secure} ssl; listen unix:{tmp_path}/sock;
        ssl_certificate {tmp_path}/cert.pem; ssl_certificate_key {tmp_path}/cert.pem;
        location = /up {{ return 200 "well"; }}
        location = /large {{ alias {tmp_path}/large; }}
    """
    tls = UpstreamTls(ca_file=ca_file)
    probed = [
        backend(plain),
        backend(plain, "/large"),
        backend(plain, "/missing"),
        backend(secure, host="https://127.0.0.1"),
        Backend(host=f"unix:{tmp_path}/sock", health_check_path="/up"),
    ]
    with nginx(tmp_path, server):

        async def trace() -> None:
            reasons = [await ask(route("/a", one, tls=tls)) for one in probed]
            assert reasons == ["", "", "status 404", "", ""]

        in_loop(trace)
    complaints = [line for line in (tmp_path / "error.log").read_text().splitlines() if "client" in line]
    assert [line for line in complaints if "/missing" not in line] == []


# --- the checker ----------------------------------------------------------------------------------------------------

QUICK = HealthCheck(interval=0.02, timeout=2.0, rise=2, fall=3)


class Patient:
    """A backend whose health the test decides."""

    def __init__(self) -> None:
        self.well = True
        self.asked = 0

    def script(self, peer: Peer) -> None:
        peer.receive_head()
        self.asked += 1
        peer.send(OK if self.well else b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")


class Ward:
    """A checker, the page it writes on, and one patient."""

    def __init__(self, patient: Patient, port: int) -> None:
        self.patient = patient
        self.key = f"http://127.0.0.1:{port}"
        self.board = Board()
        self.checker = HealthChecker(self.board.scoreboard)
        self.checked = Config(routers=[route("/a", backend(port))], health_check=QUICK)
        self.unchecked = Config(routers=[route("/a", backend(port, None))], health_check=QUICK)
        self.without = Config(routers=[route("/a", "http://other")])

    def apply(self, config: Config) -> None:
        self.checker.apply(*self.board.assign(config))

    def is_down(self) -> bool:
        return self.board.is_down(self.key)

    def word(self, word: int) -> int:
        return self.board.word(self.key, word)

    async def asked_again(self, times: int = 2) -> None:
        goal = self.patient.asked + times
        await until(lambda: self.patient.asked >= goal, "another probe")


def ward(trace: Callable[[Ward], Awaitable[None]]) -> list[dict[str, object]]:
    """Run a trace; what was logged."""
    patient = Patient()

    async def run() -> None:
        it = Ward(patient, server.port)
        try:
            await trace(it)
        finally:
            await it.checker.close()

    with origin(patient.script) as server, capture_logs() as logs:
        in_loop(run)
    return logs  # type: ignore[return-value]


def test_a_backend_falls_and_rises():
    async def trace(it: Ward) -> None:
        it.apply(it.checked)
        await it.asked_again(3)
        assert not it.is_down()
        assert it.word(cells.SU_BACK_AT_US) == 0
        it.patient.well = False
        await until(it.is_down)
        status = it.checker.status(it.key)
        assert (status.healthy, status.last_ok, status.last_reason) == (False, False, "status 500")
        failed = it.word(cells.SU_CHECKS_FAILED)
        assert failed >= QUICK.fall
        before = monotonic_us()
        it.patient.well = True
        await until(lambda: not it.is_down())
        assert before < it.word(cells.SU_BACK_AT_US) <= monotonic_us()
        assert it.word(cells.SU_CHECKS) >= 3 + failed + QUICK.rise
        assert it.checker.status(it.key).healthy

    down, up = ward(trace)
    key = down["upstream"]
    assert down == {
        "component": "health", "event": "backend is unhealthy", "log_level": "warning", "upstream": key,
        "reason": "status 500", "checks": 3,
    }  # fmt: skip
    assert up == {
        "component": "health", "event": "backend is healthy again", "log_level": "info", "upstream": key, "checks": 2
    }  # fmt: skip


@pytest.mark.parametrize("after", ["unchecked", "without"])
def test_who_is_not_checked_any_more_is_not_down(after):
    async def trace(it: Ward) -> None:
        it.patient.well = False
        it.apply(it.checked)
        await until(it.is_down)
        before = monotonic_us()
        it.apply(getattr(it, after))
        assert not it.is_down()
        assert it.word(cells.SU_BACK_AT_US) >= before
        asked = it.patient.asked
        await asyncio.sleep(5 * QUICK.interval)
        assert it.patient.asked <= asked + 1  # one may have been on its way
        assert not it.is_down()
        assert it.checker.status(it.key) is None

    ward(trace)


def test_a_reload_leaves_a_check_alone_that_did_not_change():
    async def trace(it: Ward) -> None:
        slow = Config(routers=it.checked.routers, health_check=HealthCheck(interval=3600))
        it.apply(slow)
        first = await it.checker.probe_now(it.key)
        it.apply(
            Config(routers=[*it.checked.routers, route("/b", "http://b")], health_check=HealthCheck(interval=3600))
        )
        assert it.checker.status(it.key) is first

    ward(trace)


def test_a_changed_check_goes_on_from_the_verdict():
    async def trace(it: Ward) -> None:
        it.patient.well = False
        it.apply(it.checked)
        await until(it.is_down)
        it.apply(Config(routers=it.checked.routers, health_check=HealthCheck(interval=0.02, expected_status=["4xx"])))
        assert it.is_down()
        await it.asked_again()
        it.apply(Config(routers=it.checked.routers, health_check=HealthCheck(interval=0.02, expected_status=["5xx"])))
        await until(lambda: not it.is_down())

    ward(trace)


def test_the_next_control_process_begins_with_the_verdict_it_finds():
    async def trace(it: Ward) -> None:
        it.board.assign(it.checked)
        it.board.upstream(it.key).put_out(cells.OUT_DOWN)
        it.patient.well = False
        it.apply(it.checked)
        await it.asked_again(5)
        assert it.is_down()
        it.patient.well = True
        await until(lambda: not it.is_down())

    assert [entry["event"] for entry in ward(trace)] == ["backend is healthy again"]


def test_a_check_that_begins_looks_closely_until_a_probe_agrees_with_the_verdict(monkeypatch):
    monkeypatch.setattr(health, "SPREAD", 0.01)
    monkeypatch.setattr(health, "SETTLE", 0.02)

    async def trace(it: Ward) -> None:
        it.patient.well = False
        it.apply(Config(routers=it.checked.routers, health_check=HealthCheck(interval=3600)))
        await until(it.is_down)
        assert it.patient.asked == 3
        await asyncio.sleep(0.2)
        assert it.patient.asked == 3

    ward(trace)


def test_an_operators_bits_are_not_the_checks():
    async def trace(it: Ward) -> None:
        it.patient.well = False
        it.apply(it.checked)
        await until(it.is_down)
        it.board.upstream(it.key).put_out(cells.OUT_DRAIN)
        it.patient.well = True
        await until(lambda: not it.is_down())
        assert it.word(cells.SU_OUT) == cells.OUT_DRAIN
        assert it.word(cells.SU_BACK_AT_US) == 0, "it is not back while it is drained"

    ward(trace)


def test_a_probe_at_once():
    async def trace(it: Ward) -> None:
        it.apply(it.without)
        with pytest.raises(NotCheckedError, match="health_check_path"):
            await it.checker.probe_now("http://other:80")
        it.apply(Config(routers=it.checked.routers, health_check=HealthCheck(interval=3600, fall=2)))
        it.patient.well = False
        status = await it.checker.probe_now(it.key)
        assert (status.healthy, status.in_a_row, status.last_ok) == (True, 1, False)
        assert not (await it.checker.probe_now(it.key)).healthy
        assert it.is_down()

    ward(trace)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Not one more, whichever of those that are open are closed meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_lack_of_ours_is_not_the_backends_fault():
    async def trace(it: Ward) -> None:
        it.apply(it.checked)
        await it.asked_again()
        with no_descriptors():
            for _ in range(QUICK.fall + 1):
                status = await it.checker.probe_now(it.key)
            assert (status.last_ok, status.last_reason) == (None, "Too many open files")
        assert not it.is_down()
        assert it.word(cells.SU_CHECKS_FAILED) == 0
        await it.asked_again()
        assert it.checker.status(it.key).healthy

    assert [entry["event"] for entry in ward(trace)] == ["cannot check a backend"]


def test_time_that_this_process_lost_is_not_the_backends_fault():
    async def trace() -> None:
        (check,) = checks_of(
            Config(routers=[route("/a", backend(server.port))], health_check=HealthCheck(timeout=0.1))
        ).values()
        prober = Prober(1)
        probing = asyncio.create_task(prober.probe(check))
        await until(lambda: server.connections)
        time.sleep(0.8)
        outcome = await probing
        assert (outcome.good, outcome.reason) == (None, "this process was held up")
        await prober.close()

    with origin(hang) as server:
        in_loop(trace)


def test_a_certificate_file_that_is_gone_is_not_the_backends_fault(tmp_path):
    async def trace() -> None:
        board = Board()
        checker = HealthChecker(board.scoreboard)
        tls = UpstreamTls(ca_file=str(tmp_path / "gone.pem"))
        checker.apply(*board.assign(Config(routers=[https(dead_port(), tls)], health_check=QUICK)))
        key = next(key for key in board.series.upstreams if key.startswith("https"))
        status = await checker.probe_now(key)
        assert status.last_ok is None
        assert "TLS settings" in status.last_reason
        await checker.close()

    in_loop(trace)


@pytest.mark.parametrize("code", [SERVFAIL, NXDOMAIN])
def test_what_name_servers_say_is_not_the_backends_fault(code):
    """A control process that begins in an outage of theirs: the workers still know the addresses."""

    async def trace() -> None:
        board = Board()
        checker = HealthChecker(board.scoreboard, resolver=Resolver([names.address]))
        config = Config(routers=[route("/a", backend(80, host="http://app.test"))], health_check=QUICK)
        checker.apply(*board.assign(config))
        names.code = code
        status = await checker.probe_now("http://app.test:80")
        assert (status.last_ok, status.last_reason) == (None, "app.test has no address")
        await checker.close()

    with NameServer({"app.test": ["127.0.0.1"]}) as names:
        in_loop(trace)


def test_names_outlive_their_servers():
    async def trace(it: Ward) -> None:
        port = int(it.key.rpartition(":")[2])
        with NameServer({"app.test": ["127.0.0.1"]}) as names:
            now = 0.0
            checker = HealthChecker(it.board.scoreboard, resolver=Resolver([names.address], clock=lambda: now))
            config = Config(routers=[route("/n", backend(port, host="http://app.test"))], health_check=QUICK)
            checker.apply(*it.board.assign(config))
            key = f"http://app.test:{port}"
            assert (await checker.probe_now(key)).last_ok
            names.code, now = SERVFAIL, 7200.0
            for _ in range(QUICK.fall):
                assert (await checker.probe_now(key)).last_ok
            await checker.close()

    ward(trace)


def test_so_many_probes_are_under_way_at_once():
    async def trace() -> None:
        board = Board()
        checker = HealthChecker(board.scoreboard)
        spec = HealthCheck(interval=0.01, timeout=60)
        hosts = [backend(server.port, host=f"http://127.0.1.{n}") for n in range(1, AT_ONCE + 31)]
        checker.apply(*board.assign(Config(routers=[route("/a", *hosts)], health_check=spec)))
        await until(lambda: server.connections == AT_ONCE)
        await asyncio.sleep(0.1)
        assert server.connections == AT_ONCE
        await checker.close()

    with origin(hang, address=("0.0.0.0", 0)) as server:
        in_loop(trace)


# --- a whole gateway ------------------------------------------------------------------------------------------------


class Shop:
    """A backend that counts its customers apart from its checks."""

    def __init__(self) -> None:
        self.well = True
        self.customers = 0

    def script(self, peer: Peer) -> None:
        while True:
            head = peer.receive_head()
            if b"kairos-health/" in head:
                return peer.send(OK if self.well else b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            self.customers += 1
            peer.send(OK)


def test_a_gateway_sends_nobody_to_a_backend_that_fails_its_checks():
    sick, fine = Shop(), Shop()
    with origin(sick.script) as first, origin(fine.script) as second:
        config = {
            "version": 1,
            "routers": [gateway_route("/a", f"{first.url},{second.url}", slow_start=0)],
            "health_check": {"interval": 0.1, "timeout": 5, "rise": 1, "fall": 2},
        }
        for shop in config["routers"][0]["backends"]:
            shop["health_check_path"] = "/up"
        with gateway(config, workers=2) as running:

            def visits() -> int:
                """How many of ten customers come to the sick one."""
                before = sick.customers
                for _ in range(10):
                    assert running.get("/a")[1] == b"ok"
                return sick.customers - before

            def checker() -> int:
                """Pid of the process that said something last of a backend's health."""
                return [json.loads(line)["pid"] for line in running.log.splitlines() if '"backend is ' in line][-1]

            assert visits() > 0
            sick.well = False
            running.wait_log("backend is unhealthy")
            assert visits() == 0
            assert "status 503" in running.log
            killed = checker()
            os.kill(killed, signal.SIGKILL)
            running.wait_log("control killed by SIGKILL")
            assert visits() == 0
            sick.well = True
            running.wait_log("backend is healthy again")
            assert visits() > 0
            assert checker() != killed
