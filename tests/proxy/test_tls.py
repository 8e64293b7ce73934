"""HTTPS: handshakes, certificates by name, tickets, client certificates, and that HTTP over it is as it is without."""

from __future__ import annotations

import datetime
import json
import os
import secrets
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from kairos._speedups import cells
from kairos._speedups.tls import rotate_ticket_key
from kairos.proxy.exchange import Exchange, Filter, Handler, Response
from tests.support.gateway import route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, echo, origin, status_of
from tests.support.tls import Authority, client_context, connect_tls, s_client
from tests.support.ws import echo_frames, frame, handshake, read_frame, switching

GET = b"GET /e HTTP/1.1\r\nHost: shop.test\r\n\r\n"
CLOSE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
MB = 1 << 20
VERSIONS = ["1.2", "1.3"]


class Shown(Handler):
    """Answers with what the connection is."""

    def handle(self, x: Exchange) -> Response:
        der = x.client_certificate
        shown = {
            "scheme": x.scheme,
            "secure": x.secure,
            "name": None if x.server_name is None else x.server_name.decode(),
            "client": None if der is None else x509.load_der_x509_certificate(der).subject.rfc4514_string(),
        }
        return Response(200, json.dumps(shown).encode())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.shop = made.file("shop.test", "*.shop.test")  # type: ignore[attr-defined]
    made.bank = made.file("bank.test")  # type: ignore[attr-defined]
    return made


def tls(*certificates: str | dict[str, Any], **members: Any) -> dict[str, Any]:
    listed = [one if isinstance(one, dict) else {"cert_file": one} for one in certificates]
    return {"server": {"tls": {"certificates": listed, **members}}}


@pytest.fixture(scope="module")
def shop(authority: Authority) -> Iterator[InProcess]:
    """A handler and an echoing origin behind HTTPS."""
    with (
        origin(echo) as o,
        in_process(
            Chain("/e", Shown()), Chain("/o", route("/o", o.url)), **tls(authority.shop, authority.bank)
        ) as served,
    ):
        yield served


def ask(served: InProcess, context: ssl.SSLContext, name: str | None = "shop.test", **options: Any) -> dict[str, Any]:
    with connect_tls(served.tls_port, context, name, **options) as peer:
        peer.send(GET)
        return json.loads(peer.receive_response()[1])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_log_says_what_tls_a_request_came_over(shop: InProcess, authority: Authority, version: str) -> None:
    context = client_context(authority, version)
    with connect_tls(shop.tls_port, context) as peer:
        cipher = peer.sock.cipher()[0]
        for at in range(2):
            path = f"/e?{version}-{at}"
            peer.send(GET.replace(b"/e", path.encode()))
            peer.receive_response()
            line = shop.wait_access(query=f"{version}-{at}")
            assert (line["tls_version"], line["tls_cipher"], line["server_name"]) == (
                f"TLSv{version}",
                cipher,
                "shop.test",
            )
    shop.get("/e?plain")
    assert not {"tls_version", "tls_cipher", "server_name"} & shop.wait_access(query="plain").keys()


def test_the_suite_is_chosen_here(shop: InProcess) -> None:
    for version, offered, chosen in (
        ("-tls1_3", "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
        ("-tls1_3", "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
        ("-tls1_2", "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ):
        option = "-ciphersuites" if version == "-tls1_3" else "-cipher"
        assert f"Cipher is {chosen}\n" in s_client(shop.tls_port, version, option, offered)


def name_shown(port: int, name: str) -> str:
    """Of the certificate a client of that name gets."""
    context = client_context(None)
    with connect_tls(port, context, name or None) as peer:
        found = x509.load_der_x509_certificate(peer.sock.getpeercert(True))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)[0]


# ---- handshakes


@pytest.mark.parametrize("version", VERSIONS)
def test_a_request_over_tls(shop: InProcess, authority: Authority, version: str) -> None:
    context = client_context(authority, version)
    with connect_tls(shop.tls_port, context) as peer:
        assert (peer.sock.version(), peer.sock.selected_alpn_protocol()) == (f"TLSv{version}", "http/1.1")
        for _ in range(3):
            peer.send(GET)
            head, body = peer.receive_response()
            assert status_of(head) == 200
    assert json.loads(body) == {"scheme": "https", "secure": True, "name": "shop.test", "client": None}


def test_the_backend_and_the_log_are_told_of_https(shop: InProcess, authority: Authority) -> None:
    with connect_tls(shop.tls_port, client_context(authority)) as peer:
        peer.send(b"GET /o HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        sent = peer.receive_response()[1].lower()
    assert b"\r\nx-forwarded-proto: https\r\n" in sent
    assert b"\r\nx-forwarded-port: %d\r\n" % shop.tls_port in sent
    assert b";proto=https" in sent
    assert shop.wait_access(path="/o")["scheme"] == "https"


def test_the_plain_port_stays_plain(shop: InProcess) -> None:
    assert json.loads(shop.get("/e")[1])["scheme"] == "http"


def test_curl_is_content(shop: InProcess, authority: Authority) -> None:
    env = {**os.environ, "LD_PRELOAD": ""}  # in a sanitizer run that is meant for us alone
    command = ["curl", "-sS", "--cacert", authority.ca_file, "--resolve", f"shop.test:{shop.tls_port}:127.0.0.1"]
    done = subprocess.run(
        [*command, f"https://shop.test:{shop.tls_port}/e"], capture_output=True, timeout=20, check=False, env=env
    )
    assert json.loads(done.stdout)["secure"], done.stderr


def test_what_arrives_in_single_bytes(shop: InProcess, authority: Authority) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(authority).wrap_bio(incoming, outgoing, server_hostname="shop.test")
    with socket.create_connection(("127.0.0.1", shop.tls_port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def turn() -> None:
            for byte in outgoing.read():
                sock.send(bytes([byte]))
            incoming.write(sock.recv(65536))

        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                turn()
        client.write(GET)
        answer = b""
        while b'"secure"' not in answer:
            try:
                answer += client.read(65536)
            except ssl.SSLWantReadError:
                turn()
    assert answer.startswith(b"HTTP/1.1 200")


def test_only_clients_of_http_1_1_are_served(shop: InProcess) -> None:
    assert "no application protocol" in s_client(shop.tls_port, "-alpn", "h2")
    assert "ALPN protocol: http/1.1" in s_client(shop.tls_port, "-alpn", "h2,http/1.1")
    assert "No ALPN negotiated" in s_client(shop.tls_port)


def test_old_versions_and_renegotiation_are_refused(shop: InProcess) -> None:
    assert "Cipher is (NONE)" in s_client(shop.tls_port, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    assert "no renegotiation" in s_client(shop.tls_port, "-tls1_2", data=b"R\n")


def test_plain_http_on_the_secure_port_is_told_so(shop: InProcess) -> None:
    before = shop.worker_cell(cells.W_TLS_NO_TLS)
    with Peer(socket.create_connection(("127.0.0.1", shop.tls_port))) as peer:
        peer.send(GET)
        head, body = peer.receive_response()
        assert status_of(head) == 400
        assert json.loads(body)["code"] == "tls_required"
        assert peer.closed()
    assert shop.worker_cell(cells.W_TLS_NO_TLS) == before + 1


def test_bytes_that_are_neither_end_the_connection(shop: InProcess) -> None:
    before = shop.worker_cell(cells.W_TLS_PROTOCOL)
    with socket.create_connection(("127.0.0.1", shop.tls_port)) as sock:
        sock.sendall(b"\x16\x03\x01\x00\x05hello")
        while sock.recv(100):
            pass
    assert shop.worker_cell(cells.W_TLS_PROTOCOL) == before + 1


def test_failed_handshakes_are_counted_by_reason(shop: InProcess) -> None:
    def counted(cell: int) -> int:
        return shop.worker_cell(cell)

    rejected, gone = counted(cells.W_TLS_REJECTED), counted(cells.W_TLS_GONE)
    with pytest.raises(ssl.SSLCertVerificationError):
        connect_tls(shop.tls_port, ssl.create_default_context())
    shop.wait(lambda: counted(cells.W_TLS_REJECTED) == rejected + 1, "alert")
    with socket.create_connection(("127.0.0.1", shop.tls_port)) as sock:
        sock.sendall(b"\x16\x03\x01")
    shop.wait(lambda: counted(cells.W_TLS_GONE) == gone + 1, "count")
    socket.create_connection(("127.0.0.1", shop.tls_port)).close()  # a load balancer that looks whether we live
    connect_tls(shop.tls_port, client_context(None)).close()
    assert counted(cells.W_TLS_GONE) == gone + 1


def test_a_handshake_that_takes_too_long_is_ended(authority: Authority) -> None:
    with in_process(Chain("/e", Shown()), **tls(authority.shop, handshake_timeout=0.2)) as served:
        for sent in (b"", b"\x16\x03\x01"):
            with socket.create_connection(("127.0.0.1", served.tls_port), timeout=25) as sock:
                sock.sendall(sent)
                assert sock.recv(100) == b""
        assert served.worker_cell(cells.W_TLS_TIMEOUT) == 2


def test_connections_above_the_limit_get_no_handshake(authority: Authority) -> None:
    limits = {"connections_per_ip": 1}
    with in_process(Chain("/e", Shown()), limits=limits, **tls(authority.shop)) as served:
        context = client_context(authority)
        with connect_tls(served.tls_port, context), pytest.raises((ssl.SSLError, ConnectionError)):
            connect_tls(served.tls_port, context)
        served.wait(lambda: served.worker_cell(cells.W_CONNECTIONS_OPEN) == 0, "end")
        assert ask(served, context)["secure"]


# ---- certificates by name


def test_the_certificate_is_that_of_the_name(shop: InProcess) -> None:
    found = {name: name_shown(shop.tls_port, name) for name in ("shop.test", "a.shop.test", "BANK.test")}
    assert found == {"shop.test": "shop.test", "a.shop.test": "shop.test", "BANK.test": "bank.test"}


@pytest.mark.parametrize("name", ["a.b.shop.test", "else.test", ""])
def test_the_first_certificate_is_for_names_nobody_lists(shop: InProcess, name: str) -> None:
    assert name_shown(shop.tls_port, name) == "shop.test"


def test_unknown_names_may_be_rejected(authority: Authority) -> None:
    with in_process(Chain("/e", Shown()), **tls(authority.shop, unknown_names="reject")) as served:
        assert "unrecognized name" in s_client(served.tls_port, name="else.test")
        assert served.worker_cell(cells.W_TLS_UNKNOWN_NAME) == 1
        assert name_shown(served.tls_port, "") == "shop.test"


def test_listed_names_count_instead_of_the_certificates_own(authority: Authority) -> None:
    certificates = [{"cert_file": authority.shop}, {"cert_file": authority.bank, "names": ["x.test", "*.x.test"]}]
    with in_process(Chain("/e", Shown()), **tls(*certificates)) as served:
        found = [name_shown(served.tls_port, name) for name in ("x.test", "a.x.test", "bank.test")]
    assert found == ["bank.test", "bank.test", "shop.test"]


def test_keys_of_two_kinds_for_one_name(authority: Authority) -> None:
    import trustme

    rsa = authority.file("two.test", name="rsa", key_type=trustme.KeyType.RSA)
    ec = authority.file("two.test", name="ec", key_type=trustme.KeyType.ECDSA)
    with in_process(Chain("/e", Shown()), **tls(rsa, ec)) as served:
        for kind in ("RSA", "ECDSA"):
            said = s_client(served.tls_port, "-tls1_2", "-cipher", f"ECDHE-{kind}-AES128-GCM-SHA256", name="two.test")
            assert f"ECDHE-{kind}-AES128-GCM-SHA256" in said


def test_a_reload_brings_new_certificates_and_leaves_connections(authority: Authority) -> None:
    path = authority.file("old.test", name="renewed")
    with (
        in_process(Chain("/e", Shown()), **tls(path)) as served,
        connect_tls(served.tls_port, client_context(authority), "old.test") as peer,
    ):
        authority.file("new.test", name="renewed")
        served.reload_the_same()
        assert name_shown(served.tls_port, "new.test") == "new.test"
        peer.send(GET)
        assert status_of(peer.receive_response()[0]) == 200


def test_ciphers_groups_and_versions_are_as_set(authority: Authority) -> None:
    settings = {"ciphers": "ECDHE-ECDSA-CHACHA20-POLY1305", "ciphersuites": "TLS_AES_128_GCM_SHA256", "groups": "P-384"}
    with in_process(Chain("/e", Shown()), **tls(authority.shop, **settings)) as served:
        assert "New, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256" in s_client(served.tls_port)
        said = s_client(served.tls_port, "-tls1_2")
        assert "ECDHE-ECDSA-CHACHA20-POLY1305" in said
        assert "P-384" in said or "secp384r1" in said
    with in_process(Chain("/e", Shown()), **tls(authority.shop, min_version="1.3")) as served:
        assert "Cipher is (NONE)" in s_client(served.tls_port, "-tls1_2")


# ---- OCSP


def test_an_ocsp_response_is_stapled_while_it_is_good(authority: Authority) -> None:
    path = authority.file("ocsp.test")
    certificate = {"cert_file": path, "ocsp_file": authority.staple(path)}
    with in_process(Chain("/e", Shown()), **tls(certificate)) as served:
        for version in ("-tls1_2", "-tls1_3"):
            said = s_client(served.tls_port, "-status", version, "-CAfile", authority.ca_file, name="ocsp.test")
            assert "OCSP Response Status: successful" in said
            assert "Cert Status: good" in said
        assert "OCSP" not in s_client(served.tls_port, name="ocsp.test")
        for other in ({"ends": -datetime.timedelta(days=1)}, {"revoked": True}):
            authority.staple(path, **other)
            served.reload_the_same()
            assert "OCSP response: no response sent" in s_client(served.tls_port, "-status", name="ocsp.test")


# ---- tickets


def resumes(served: InProcess, context: ssl.SSLContext, ticket: Any, name: str = "shop.test") -> tuple[bool, Any]:
    """Whether a client with a ticket is spared the full handshake, and the ticket for the next time."""
    with connect_tls(served.tls_port, context, name, session=ticket) as peer:
        peer.send(GET)
        peer.receive_response()
        return peer.sock.session_reused, peer.sock.session


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_spares_the_handshake(shop: InProcess, authority: Authority, version: str) -> None:
    context = client_context(authority, version)
    before = shop.worker_cell(cells.W_TLS_12_RESUMED if version == "1.2" else cells.W_TLS_13_RESUMED)
    ticket = None
    reused = []
    for _ in range(3):
        again, ticket = resumes(shop, context, ticket)
        reused.append(again)
    assert reused == [False, True, True]
    after = shop.worker_cell(cells.W_TLS_12_RESUMED if version == "1.2" else cells.W_TLS_13_RESUMED)
    assert after == before + 2


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_lives_through_one_rotation_of_keys(authority: Authority, version: str) -> None:
    context = client_context(authority, version)
    with in_process(Chain("/e", Shown()), **tls(authority.shop)) as served:
        _, ticket = resumes(served, context, None)
        rotate(served)
        again, renewed = resumes(served, context, ticket)
        assert again
        rotate(served)
        assert resumes(served, context, renewed)[0]
        assert not resumes(served, context, ticket)[0]


def rotate(served: InProcess) -> None:
    rotate_ticket_key(served.board.page, served.board.ticket_ring, secrets.token_bytes(80), int(time.time()))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_outlives_a_reload_that_renews_the_certificate(authority: Authority, version: str) -> None:
    path = authority.file("shop.test", name="again")
    with in_process(Chain("/e", Shown()), **tls(path)) as served:
        context = client_context(authority, version)
        _, ticket = resumes(served, context, None)
        authority.file("shop.test", name="again")
        served.reload_the_same()
        assert resumes(served, context, ticket)[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_tickets_can_be_turned_off(authority: Authority, version: str) -> None:
    with in_process(Chain("/e", Shown()), **tls(authority.shop, tickets={"enabled": False})) as served:
        context = client_context(authority, version)
        _, ticket = resumes(served, context, None)
        assert not resumes(served, context, ticket)[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_of_one_name_does_not_open_another(authority: Authority, version: str, tmp_path: Path) -> None:
    """CVE-2025-23419: a ticket must not carry a client past the certificate that another name asks for."""
    closed = {"cert_file": authority.bank, "client_auth": {"mode": "required", "ca_file": authority.ca_file}}
    with in_process(Chain("/e", Shown()), **tls(authority.shop, closed)) as served:
        option, ticket = f"-tls{version.replace('.', '_')}", str(tmp_path / "ticket")
        s_client(served.tls_port, option, "-sess_out", ticket, "-ign_eof", data=CLOSE)
        assert "Reused, " in s_client(served.tls_port, option, "-sess_in", ticket)
        said = s_client(
            served.tls_port, option, "-sess_in", ticket, "-ign_eof", name="bank.test",
            data=CLOSE,
        )  # fmt: skip
        assert "Reused, " not in said
        assert "HTTP/1.1 200" not in said
        assert served.worker_cell(cells.W_TLS_CLIENT_CERTIFICATE) == 1


# ---- client certificates


@pytest.fixture
def mutual(authority: Authority, request: pytest.FixtureRequest) -> Iterator[InProcess]:
    auth = {"mode": "required", "ca_file": authority.ca_file, **getattr(request, "param", {})}
    with in_process(Chain("/e", Shown()), **tls(authority.shop, client_auth=auth)) as served:
        yield served


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_is_known_by_its_certificate(mutual: InProcess, authority: Authority, version: str) -> None:
    context = client_context(authority, version, own=authority.client_file)
    assert "CN=client" in ask(mutual, context)["client"]
    _, ticket = resumes(mutual, context, None)
    with connect_tls(mutual.tls_port, context, session=ticket) as peer:
        peer.send(GET)
        assert "CN=client" in json.loads(peer.receive_response()[1])["client"]
        assert peer.sock.session_reused


def test_the_chain_is_what_the_file_holds(mutual: InProcess, authority: Authority) -> None:
    """The authority of clients signed the server's certificate too, and is no part of it."""
    assert s_client(mutual.tls_port, "-cert", authority.client_file, "-showcerts").count("BEGIN CERTIFICATE") == 1


def refused(served: InProcess, context: ssl.SSLContext) -> bool:
    try:
        ask(served, context)
    except (ssl.SSLError, ConnectionError, EOFError):
        return True
    return False


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_certificate_there_is_no_handshake(mutual: InProcess, authority: Authority, version: str) -> None:
    assert refused(mutual, client_context(authority, version))
    assert mutual.worker_cell(cells.W_TLS_CLIENT_CERTIFICATE) == 1


@pytest.mark.parametrize("version", VERSIONS)
def test_one_of_another_authority_is_refused(
    mutual: InProcess, authority: Authority, version: str, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path)
    assert refused(mutual, client_context(authority, version, own=stranger.client_file))
    assert mutual.worker_cell(cells.W_TLS_CLIENT_CERTIFICATE) == 1


@pytest.mark.parametrize("mutual", [{"mode": "optional"}], indirect=True)
def test_an_optional_one_may_be_left_out_but_not_be_bad(
    mutual: InProcess, authority: Authority, tmp_path: Path
) -> None:
    assert ask(mutual, client_context(authority))["client"] is None
    assert ask(mutual, client_context(authority, own=authority.client_file))["client"] is not None
    assert refused(mutual, client_context(authority, own=Authority(tmp_path).client_file))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_revoked_one_is_refused_with_its_ticket(authority: Authority, version: str) -> None:
    leaf = authority.client_certificate.cert_chain_pems[0].bytes()
    revoked = x509.load_pem_x509_certificate(leaf)
    auth = {"mode": "required", "ca_file": authority.ca_file, "crl_file": authority.crl()}
    with in_process(Chain("/e", Shown()), **tls(authority.shop, client_auth=auth)) as served:
        context = client_context(authority, version, own=authority.client_file)
        _, ticket = resumes(served, context, None)
        assert resumes(served, context, ticket)[0]
        authority.crl(revoked)
        served.reload_the_same()
        with pytest.raises((ssl.SSLError, ConnectionError, EOFError)):
            resumes(served, context, ticket)
        assert served.worker_cell(cells.W_TLS_CLIENT_CERTIFICATE) == 1
    authority.crl()


@pytest.mark.parametrize("mode", ["required", "optional"])
def test_a_list_that_is_over_lets_nobody_in_with_a_certificate(authority: Authority, mode: str) -> None:
    """It does not tell any more who was revoked."""
    over = authority.crl(ends=-datetime.timedelta(hours=1))
    auth = {"mode": mode, "ca_file": authority.ca_file, "crl_file": over}
    with in_process(Chain("/e", Shown()), **tls(authority.shop, client_auth=auth)) as served:
        assert refused(served, client_context(authority, own=authority.client_file))
        assert refused(served, client_context(authority)) == (mode == "required")
        authority.crl()
        served.reload_the_same()
        assert not refused(served, client_context(authority, own=authority.client_file))


# ---- HTTP over it


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("size", [1, 16_384, 16_385, 3 * MB])
def test_bodies_pass_whole_both_ways(shop: InProcess, authority: Authority, version: str, size: int) -> None:
    body = secrets.token_bytes(size)
    with connect_tls(shop.tls_port, client_context(authority, version)) as peer:
        peer.send(b"POST /o HTTP/1.1\r\nHost: shop.test\r\nContent-Length: %d\r\n\r\n" % size + body)
        assert peer.receive_response()[1].endswith(body)
        peer.send(b"POST /o HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n")
        for start in range(0, size, 100_000):
            piece = body[start : start + 100_000]
            peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        peer.send(b"0\r\n\r\n")
        assert status_of(peer.receive_response()[0]) == 200


def test_a_slow_reader_gets_all_of_it(authority: Authority) -> None:
    body = secrets.token_bytes(12 * MB)

    def large(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with (
        origin(large) as o,
        in_process(Chain("/o", route("/o", o.url)), **tls(authority.shop)) as served,
        connect_tls(served.tls_port, client_context(authority)) as peer,
    ):
        peer.send(b"GET /o HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        served.wait(lambda: any("wait" in repr(client) for client in served.runtime.clients), "request")
        assert peer.receive_response()[1] == body


def test_an_early_answer_to_an_upload_arrives(authority: Authority) -> None:
    with (
        in_process(
            Chain("/e", Shown()),
            Chain("/o", route("/o", "http://127.0.0.1:1")),
            limits={"body_bytes": 10},
            **tls(authority.shop),
        ) as served,
        connect_tls(served.tls_port, client_context(authority)) as peer,
    ):
        peer.send(b"POST /o HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 9999999\r\n\r\n" + bytes(100_000))
        assert status_of(peer.receive_response()[0]) == 413
        peer.send(bytes(100_000))
        assert peer.closed()


def test_the_end_is_said_to_the_client(shop: InProcess) -> None:
    said = s_client(shop.tls_port, "-ign_eof", "-msg", data=CLOSE)
    assert "<<< TLS 1.3, Alert [length 0002], warning close_notify" in said


def test_a_websocket_over_tls(authority: Authority) -> None:
    def echo_socket(peer: Peer) -> None:
        head = peer.receive_head()
        peer.send(switching(head))
        echo_frames(peer)

    with (
        origin(echo_socket) as o,
        in_process(Chain("/ws", route("/ws", o.url, protocol="websocket")), **tls(authority.shop)) as served,
        connect_tls(served.tls_port, client_context(authority)) as peer,
    ):
        peer.send(handshake("/ws"))
        assert status_of(peer.receive_head()) == 101
        for text in (b"hello", b"x" * 70_000):
            peer.send(frame(text))
            assert read_frame(peer).payload == text


class Marked(Filter):
    """A response filter: that filters see HTTPS too."""

    def on_response(self, x: Exchange) -> None:
        x.set_response_header("X-Scheme", x.scheme)


def test_filters_are_told_the_scheme(authority: Authority) -> None:
    with (
        in_process(Chain("/e", Shown(), Marked()), **tls(authority.shop)) as served,
        connect_tls(served.tls_port, client_context(authority)) as peer,
    ):
        peer.send(GET)
        assert b"\r\nX-Scheme: https\r\n" in peer.receive_response()[0]
