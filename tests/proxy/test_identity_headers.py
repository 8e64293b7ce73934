"""Names by which backends know callers: what a client sends under them reaches none, by no route and in no trailer."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from kairos.config.model import Config
from kairos.proxy.filters.authn.telling import reserved_in
from tests.proxy.test_framing import dechunk
from tests.support.inprocess import InProcess, serving
from tests.support.net import Peer, origin, read_request, status_of

KEY = "a key of more than 32 characters, for tests"
LIES = ("X-User", "X-Auth-Email", "X-Auth-Groups", "X-Tenant", "X-Caller", "X-From-Plugin")


def consenting(peer: Peer) -> None:
    """Knows everybody as ann, of no group."""
    while True:
        read_request(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nX-Auth-Email: ann@test\r\nContent-Length: 0\r\n\r\n")


def repeating(peer: Peer) -> None:
    """Answers with the head it was sent, and the trailers."""
    while True:
        head = peer.receive_head()
        said = head + (dechunk(peer)[1] if b"chunked" in head else b"")
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(repeating) as made:
        yield made.url


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with origin(consenting) as made:
        yield made.url


def document(backend: str, service: str, **more: Any) -> dict[str, Any]:
    base = {"internal_path": "/", "methods": ["GET", "POST"], "backends": [{"host": backend}]}
    keyed = {"methods": ["api_key"], "claims_to_headers": {"sub": "X-User"}}
    rules = [
        {"action": "set", "name": "X-Tenant", "value": "of {{ claims.tenant ?? 'nobody' }}"},
        {"action": "add", "name": "X-Caller", "value": "{{ subject }}"},
        {"action": "add", "name": "X-Plain", "value": "{{ method }}"},
    ]
    return {
        "headers": {"identity": ["X-From-Plugin"], **more},
        "api_keys": {
            "keys": [{"id": "ann", "key_hash": sha256(KEY.encode()).hexdigest(), "metadata": {"tenant": "acme"}}]
        },
        "forward_auth": {"url": service, "response_headers": ["X-Auth-Email", "X-Auth-Groups"]},
        "routers": [
            {**base, "external_path": "/open"},
            {**base, "external_path": "/keyed", "auth": keyed, "request_transformation": {"headers": rules}},
            {**base, "external_path": "/asked", "auth": {"methods": ["forward"]}},
            {**base, "external_path": "/either", "auth": {"methods": ["api_key", "forward"]}},
            {**base, "external_path": "/free", "auth": {"methods": ["api_key"], "optional": True}},
        ],
    }


@pytest.fixture(scope="module")
def gate(backend: str, service: str) -> Iterator[InProcess]:
    with serving(document(backend, service)) as made:
        yield made


def told(gate: InProcess, path: str, *lines: str, lies: tuple[str, ...] = LIES) -> dict[str, str]:
    """What the backend hears of the names, whatever the client says under them."""
    head, body = gate.get(path, *lines, *(f"{name}: admin" for name in lies))
    assert status_of(head) == 200, (head, body)
    seen = [line.split(": ", 1) for line in body.decode().split("\r\n") if ": " in line]
    return {name: value for name, value in seen if name.replace("_", "-") in (*LIES, "X-Plain")}


def test_on_a_route_that_knows_nobody_the_backend_hears_nothing(gate: InProcess) -> None:
    assert told(gate, "/open") == {}
    assert told(gate, "/free") == {}


def test_each_route_tells_what_it_found_out_and_nothing_else(gate: InProcess) -> None:
    key = f"X-API-Key: {KEY}"
    keyed = {"X-User": "ann", "X-Tenant": "of acme", "X-Caller": "ann", "X-Plain": "GET"}
    assert told(gate, "/keyed", key) == keyed
    assert told(gate, "/asked") == {"X-Auth-Email": "ann@test"}
    assert told(gate, "/either") == {"X-Auth-Email": "ann@test"}
    assert told(gate, "/either", key) == {}
    assert told(gate, "/free", key) == {}


def test_other_names_are_the_clients(gate: InProcess) -> None:
    assert told(gate, "/keyed", f"X-API-Key: {KEY}", "X-Plain: mine")["X-Plain"] == "mine"


@pytest.mark.parametrize("path", ["/open", "/keyed", "/asked"])
def test_trailers_do_not_say_it_either(gate: InProcess, backend: str, path: str) -> None:
    """Some recipients add them to the head's fields."""
    names = ", ".join((*LIES, "X-Sum"))
    trailers = "".join(f"{name.upper()}: admin\r\n" for name in LIES) + "X-Sum: 1\r\n"
    head = f"POST {path} HTTP/1.1\r\nHost: t\r\nX-API-Key: {KEY}\r\nTrailer: {names}\r\n"
    answer, body = gate.request(f"{head}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n{trailers}\r\n".encode())
    assert status_of(answer) == 200
    assert b"admin" not in body
    assert b"X-Sum: 1" in body


def test_names_that_an_application_may_fold_into_it(backend: str, service: str) -> None:
    lies = ("X_User", "X_Auth-Email", "X-Auth_Email", "X_FROM_PLUGIN")
    with serving(document(backend, service, underscores=True)) as gate:
        assert told(gate, "/open", "A_b: 1", lies=lies) == {}
        assert told(gate, "/keyed", f"X-API-Key: {KEY}", lies=lies)["X-User"] == "ann"


def test_a_name_with_many_dashes_has_few_variants() -> None:
    names = ["X-A-B", "a-b-c-d-e-f"]
    found = reserved_in(msgspec.convert({"headers": {"identity": names, "underscores": True}, "routers": []}, Config))
    assert set(found) == {"X-A-B", "X_A-B", "X-A_B", "X_A_B", "a-b-c-d-e-f", "a_b_c_d_e_f"}
