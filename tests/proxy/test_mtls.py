"""Callers known by their client certificates; HTTPS only; a connection that asks for another host."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from kairos.config.problems import ConfigError
from tests.support.gateway import route
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import Peer, echo, origin, status_of
from tests.support.tls import Authority, client_context, connect_tls
from tests.support.ws import header

END = b"-----END CERTIFICATE-----"


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(echo) as o:
        yield o.url


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    for name in ("shop.test", "bank.test"):
        made.file(name)
    made.file("robot.test", "ops@robot.test", name="robot", common_name="robot")
    return made


def document(authority: Authority, url: str, mode: str = "optional", **sections: Any) -> dict[str, Any]:
    clients = {"mode": mode, "ca_file": authority.ca_file}
    tls = {"certificates": [{"cert_file": str(authority.folder / "shop.test.pem")}], "client_auth": clients}
    return {"server": {"tls": tls}, "routers": [route("/a", url), route("/b", url)], **sections}


def ask(
    served: InProcess, authority: Authority, own: str | None, *lines: str, path: str = "/a"
) -> tuple[int, bytes, bytes]:
    """Status, head and body of what a client with this certificate gets."""
    file = str(authority.folder / f"{own}.pem") if own else None
    with connect_tls(served.tls_port, client_context(authority, own=file)) as peer:
        peer.send("\r\n".join([f"GET {path} HTTP/1.1", "Host: shop.test", *lines, "", ""]).encode())
        head, body = peer.receive_response()
        return status_of(head), head, body


def certificate(authority: Authority, own: str) -> bytes:
    """As DER."""
    pem = (authority.folder / f"{own}.pem").read_bytes()
    first = pem[pem.index(b"-----BEGIN CERT") :].partition(END)[0] + END
    return ssl.PEM_cert_to_DER_cert(first.decode())


# ---- who it is


@pytest.fixture(scope="module")
def mutual(authority: Authority, backend: str) -> Iterator[InProcess]:
    claims = {"sub": "X-Subject", "cn": "X-Name", "sha256": "X-Fingerprint", "san": "X-San"}
    spec = document(authority, backend, auth={"methods": ["mtls"], "claims_to_headers": claims})
    with serving(spec) as served:
        yield served


def test_the_caller_is_whom_the_certificate_names(mutual: InProcess, authority: Authority) -> None:
    status, _, body = ask(mutual, authority, "robot", "X-Subject: root")
    assert status == 200
    der = certificate(authority, "robot")
    told = {name: header(body, name) for name in (b"x-subject", b"x-name", b"x-san")}
    assert told == {b"x-subject": b"ops@robot.test", b"x-name": b"robot", b"x-san": b"ops@robot.test,robot.test"}
    assert header(body, b"x-fingerprint") == hashlib.sha256(der).hexdigest().encode()


def test_without_a_certificate_nobody_is_let_in(mutual: InProcess, authority: Authority) -> None:
    status, _, body = ask(mutual, authority, None)
    assert (status, json.loads(body)["detail"]) == (401, "A client certificate is required")
    assert status_of(mutual.get("/a")[0]) == 401  # nor over the plain port


@pytest.mark.parametrize(
    ("subject", "expected"),
    [(["cn"], b"robot"), (["dns", "cn"], b"robot.test"), (["uri", "email"], b"ops@robot.test"), (["uri"], None)],
)
def test_what_names_the_caller_is_a_choice(
    authority: Authority, backend: str, subject: list[str], expected: bytes | None
) -> None:
    auth = {"methods": ["mtls"], "claims_to_headers": {"sub": "X-Subject"}}
    with serving(document(authority, backend, auth=auth, mtls={"subject": subject})) as served:
        found = header(ask(served, authority, "robot")[2], b"x-subject")
    assert found == expected or (expected is None and found is not None and b"CN=robot" in found)


def test_lists_of_who_may(authority: Authority, backend: str) -> None:
    digest = hashlib.sha256(certificate(authority, "robot")).hexdigest()
    allowed = {
        "/cn": "cn:robot", "/pattern": "dns:*.test", "/email": "email:ops@*", "/print": f"sha256:{digest.upper()}",
        "/other": "cn:someone", "/uri": "uri:*",
    }  # fmt: skip
    spec = document(authority, backend, auth={"methods": ["mtls"]})
    spec["routers"] = [route(path, backend, mtls={"allow": [text]}) for path, text in allowed.items()]
    with serving(spec) as served:
        found = {path: ask(served, authority, "robot", path=path)[0] for path in allowed}
    assert found == {"/cn": 200, "/pattern": 200, "/email": 200, "/print": 200, "/other": 403, "/uri": 403}


def test_beside_other_methods(authority: Authority, backend: str) -> None:
    keys = {"keys": [{"id": "k", "key_hash": hashlib.sha256(b"secret-key").hexdigest()}]}
    with serving(document(authority, backend, auth={"methods": ["mtls", "api_key"]}, api_keys=keys)) as served:
        assert ask(served, authority, "robot")[0] == 200
        assert ask(served, authority, None, "X-API-Key: secret-key")[0] == 200
        assert ask(served, authority, None)[0] == 401


def test_what_a_client_says_of_certificates_reaches_no_backend(authority: Authority, backend: str) -> None:
    forged = (
        "Client-Cert: :AAAA:", "X-SSL-Client-Verify: SUCCESS", "X-Forwarded-Client-Cert: By=x", "X-Client-Cert: x",
    )  # fmt: skip
    spec = document(authority, backend)
    spec["routers"] = [route("/a", backend, auth={"methods": ["mtls"]}, mtls={"forward": True}), route("/b", backend)]
    with serving(spec) as served:
        body = ask(served, authority, "robot", *forged)[2]
        told = header(body, b"client-cert")
        assert told == b":" + base64.b64encode(certificate(authority, "robot")) + b":"
        assert b"SUCCESS" not in body
        assert b"By=x" not in body
        assert body.lower().count(b"client-cert:") == 1
        for answer in (ask(served, authority, "robot", *forged, path="/b")[2], served.get("/b", *forged)[1]):
            assert b"client-cert" not in answer.lower()
            assert b"SUCCESS" not in answer


def test_patterns_are_checked_at_load(authority: Authority, backend: str) -> None:
    for allow in ("robot", "name:robot", "cn:", "sha256:12"):
        with pytest.raises(ConfigError, match=r"mtls\.allow\[0\]"):
            checked(document(authority, backend, mtls={"allow": [allow]}))
    with pytest.raises(ConfigError, match="names nothing"):
        checked(document(authority, backend, mtls={"subject": []}))


# ---- another host


def test_a_host_with_other_demands_needs_a_connection_of_its_own(authority: Authority, backend: str) -> None:
    closed = {"mode": "required", "ca_file": authority.ca_file}
    certificates = [
        {"cert_file": str(authority.folder / "shop.test.pem")},
        {"cert_file": str(authority.folder / "bank.test.pem"), "client_auth": closed},
    ]
    spec = {"server": {"tls": {"certificates": certificates}}, "routers": [route("/a", backend)]}
    with serving(spec) as served, connect_tls(served.tls_port, client_context(authority)) as peer:
        statuses = []
        for host in ("shop.test", "SHOP.test:443", "other.test", "bank.test", "bank.test:443", "BANK.test."):
            peer.send(f"GET /a HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            statuses.append(status_of(peer.receive_response()[0]))
        assert statuses == [200, 200, 200, 421, 421, 421]
        own = client_context(authority, own=str(authority.folder / "robot.pem"))
        with connect_tls(served.tls_port, own, "bank.test") as bank:
            bank.send(b"GET /a HTTP/1.1\r\nHost: bank.test\r\n\r\n")
            assert status_of(bank.receive_response()[0]) == 200


# ---- HTTPS only


@pytest.fixture(scope="module")
def secured(authority: Authority, backend: str) -> Iterator[InProcess]:
    routers = [
        route("/a", backend),
        route("/refused", backend, https_only={"action": "refuse"}),
        route("/moved", backend, https_only={"port": 8443}),
        route("/open", backend, https_only={"enabled": False}),
        route("/.well-known/acme-challenge/{token}", backend, "/a"),
    ]
    spec = document(authority, backend, "off", https_only={}, trusted_proxies=["127.0.0.2"])
    spec["server"]["tls"].pop("client_auth")
    with serving({**spec, "routers": routers}) as served:
        yield served


def location(
    served: InProcess, target: str, host: str = "shop.test:5900", method: str = "GET"
) -> tuple[int, bytes | None]:
    head, _ = served.request(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
    return status_of(head), header(head, b"location")


def test_plain_requests_are_sent_to_https(secured: InProcess) -> None:
    assert location(secured, "/a?q=1&r=%2F") == (308, b"https://shop.test/a?q=1&r=%2F")
    assert location(secured, "/a", "[::1]:5900") == (308, b"https://[::1]/a")
    assert location(secured, "/a", "[::1]") == (308, b"https://[::1]/a")
    assert location(secured, "/moved") == (308, b"https://shop.test:8443/moved")
    assert location(secured, "/a", method="POST") == (308, b"https://shop.test/a")


def test_or_refused(secured: InProcess) -> None:
    head, body = secured.get("/refused")
    assert (status_of(head), json.loads(body)["code"]) == (403, "https_required")


def test_what_stays_open(secured: InProcess) -> None:
    assert status_of(secured.get("/open")[0]) == 200
    assert status_of(secured.get("/.well-known/acme-challenge/token")[0]) == 200


def test_https_passes_and_so_does_what_a_trusted_proxy_says_of_it(secured: InProcess, authority: Authority) -> None:
    assert ask(secured, authority, None)[0] == 200
    assert status_of(secured.get("/a", "X-Forwarded-Proto: https")[0]) == 308
    with Peer(socket.create_connection(("127.0.0.1", secured.port), source_address=("127.0.0.2", 0))) as peer:
        peer.send(b"GET /a HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-Proto: https\r\n\r\n")
        assert status_of(peer.receive_response()[0]) == 200
